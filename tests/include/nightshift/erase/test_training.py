"""Training extracts: who trained on the person is told before their rows go, and nothing resumes on other rows than it began with."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.nightshift.erase import training
from include.nightshift.erase.person import Person
from include.nightshift.errors import ErasureError
from include.nightshift.lakehouse import records, tables
from include.nightshift.settings import Settings
from include.nightshift.train import checkpoint
from include.nightshift.train.run import RUN
from include.usecases.card_fraud.usecase import USE_CASE

PERSON = Person("customer_id", "transaction_id", "11", frozenset({"101", "102"}))
NIGHT = date(2018, 6, 1)


def run(settings: Settings, name: str, *, finished: bool, cards: tuple[int, ...] = (11, 12), events: tuple[int, ...] = (101, 103)) -> Path:
    folder = settings.home / "runs" / name
    (folder / "data" / "train").mkdir(parents=True)
    pq.write_table(pa.table({"transaction_id": events, "customer_id": cards}), folder / "data" / "train" / "part-0.parquet")
    (folder / RUN).write_text("{}")
    if finished:
        (folder / "model").mkdir()
        (folder / "model" / "model.ubj").write_bytes(b"trees")
        (folder / "result.json").write_text(json.dumps({"model_sha256": hashlib.sha256(b"trees").hexdigest()}))
    return folder


def report(settings: Settings, *rows: tuple[str, str, date | None]) -> None:
    reports = [
        {"report_digest": run_id, "use_case": "card_fraud", "run_id": run_id, "model_version": version, "as_of": date(2018, 6, 9),
         "holdout_last": last}
        for run_id, version, last in rows
    ]  # fmt: skip
    records.amend(settings, tables.GATE_REPORTS, lambda held: reports)


def test_rows_go_from_an_ended_run_by_the_entity_or_the_key_and_others_stay(records_home: Settings) -> None:
    folder = run(records_home, "a", finished=True, cards=(11, 12, 13), events=(101, 102, 103))
    (folder / "data" / "train" / ".part-0.parquet.crc").touch()
    run(records_home, "b", finished=True, cards=(12,), events=(103,))
    [found] = training.extracts(records_home, PERSON)
    assert (found.run_id, found.rows, found.whole) == ("a", 2, True)
    training.remove(found, PERSON)
    assert pq.read_table(folder / "data" / "train" / "part-0.parquet")["transaction_id"].to_pylist() == [103]
    assert [path.name for path in (folder / "data" / "train").iterdir()] == ["part-0.parquet"]
    assert training.extracts(records_home, PERSON) == []


@pytest.mark.parametrize("state", ["begun", "pinned halfway"])
def test_a_run_that_has_not_ended_goes_whole(records_home: Settings, state: str) -> None:
    folder = run(records_home, "a", finished=False)
    if state == "pinned halfway":
        (folder / RUN).unlink()
    [found] = training.extracts(records_home, PERSON)
    training.remove(found, PERSON)
    assert not folder.exists()


def test_a_run_that_is_being_trained_is_not_touched(records_home: Settings) -> None:
    folder = run(records_home, "a", finished=False)
    [found] = training.extracts(records_home, PERSON)
    with (
        checkpoint.sole_writer(folder / "checkpoints"),
        pytest.raises(ErasureError, match=r"run a is being trained by process \d+, on rows that have to go"),
    ):
        training.remove(found, PERSON)
    assert (folder / RUN).exists()


def test_models_are_told_by_extract_or_where_it_is_gone_by_their_nights(records_home: Settings) -> None:
    for name, cards in (("with", (11, 12)), ("without", (12, 13))):
        run(records_home, name, finished=True, cards=cards, events=(101 if name == "with" else 104, 103))
    report(records_home, ("with", "1", NIGHT), ("without", "2", NIGHT), ("gone", "3", NIGHT), ("early", "4", date(2018, 5, 1)),
           ("unsaid", "5", None))  # fmt: skip
    told = training.models(records_home, [USE_CASE], PERSON, training.extracts(records_home, PERSON), [NIGHT, date(2018, 7, 1)])
    assert told == {
        "card_fraud": {
            "1": "run with: 1 rows in its extract",
            "3": "run gone: possibly, its extract is gone and its nights reach to 2018-06-01",
            "5": "run unsaid: possibly, its extract is gone and its nights reach to 2018-06-02",
        }
    }
    assert training.models(records_home, [USE_CASE], PERSON, [], []) == {}
