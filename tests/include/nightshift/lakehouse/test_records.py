"""The platform's own records: what is there already commits nothing, and nobody's record is lost to another writer."""

import multiprocessing
from datetime import UTC, date, datetime

import pytest

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, records
from include.nightshift.lakehouse.records import Record
from include.nightshift.lakehouse.tables import CHAMPION_HISTORY, DRIFT_METRICS, NIGHTS, RETRAIN_REQUESTS
from include.nightshift.settings import Settings

NIGHT, NEXT = date(2020, 3, 1), date(2020, 3, 2)
SLICE = {"day": [NIGHT], "use_case": ["card_fraud"], "stage": ["features"]}


def entry(night: date = NIGHT, stage: str = "features", rows: int = 1, seconds: float = 1.0) -> Record:
    return {"day": night, "use_case": "card_fraud", "stage": stage, "seconds": seconds, "rows_in": rows, "rows_out": rows, "state": "done"}


def test_equal_records_commit_nothing_whatever_their_clocks_and_order(records_home: Settings) -> None:
    slice_ = SLICE | {"day": [NIGHT, NEXT]}
    assert records.replace(records_home, NIGHTS, [entry(), entry(NEXT)], slice_).changed
    again = records.replace(records_home, NIGHTS, [entry(NEXT, seconds=9), entry(seconds=9)], slice_)
    assert (again.changed, again.rows, again.version) == (False, 2, log.version(records_home, NIGHTS))
    assert [held["seconds"] for held in records.read(records_home, NIGHTS)] == [1.0, 1.0]


def test_changed_records_replace_their_slice_and_no_other(records_home: Settings) -> None:
    records.replace(records_home, NIGHTS, [entry(NEXT)], SLICE | {"day": [NEXT]})
    records.replace(records_home, NIGHTS, [entry(stage="scores")], SLICE | {"stage": ["scores"]})
    for held in ([entry(rows=1)], [entry(rows=2)], [entry(rows=2), entry(rows=3)], []):
        written = records.replace(records_home, NIGHTS, held, SLICE)
        assert (written.changed, written.version) == (True, log.version(records_home, NIGHTS))
        assert sorted(row["rows_in"] for row in records.read(records_home, NIGHTS, **SLICE)) == sorted(row["rows_in"] for row in held)
        assert {(row["day"], row["stage"]) for row in records.read(records_home, NIGHTS)} >= {(NEXT, "features"), (NIGHT, "scores")}


def test_records_are_found_by_any_column_and_no_value_finds_none(records_home: Settings) -> None:
    records.replace(records_home, NIGHTS, [entry(), entry(NEXT, rows=7)], SLICE | {"day": [NIGHT, NEXT]})
    asked: Record = {"day": NEXT, "stage": "features", "rows_in": [7, 8], "use_case": entry()["use_case"]}
    for name, value in asked.items():
        found = records.read(records_home, NIGHTS, **{name: value})
        assert {row["day"] for row in found} == ({NEXT} if name in ("day", "rows_in") else {NIGHT, NEXT})
        assert records.read(records_home, NIGHTS, **asked | {name: []}) == []
    assert [row["rows_in"] for row in records.read(records_home, NIGHTS, **asked)] == [7]


def test_records_that_can_be_read_once_survive_a_second_attempt(records_home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "retried", lambda attempt, table: (attempt(), attempt())[1])
    assert records.replace(records_home, NIGHTS, (held for held in [entry()]), SLICE).rows == 1
    assert len(records.read(records_home, NIGHTS)) == 1


@pytest.mark.parametrize("text", ["it's", 'a "b"', "back\\slash\\'", "' or '1'='1", "é\n; --"])
def test_a_slice_may_name_any_text(records_home: Settings, text: str) -> None:
    for name in (text, "other"):
        records.replace(records_home, DRIFT_METRICS, [{"day": NIGHT, "use_case": name}], {"day": [NIGHT], "use_case": [name]})
    records.replace(records_home, DRIFT_METRICS, [], {"day": [NIGHT], "use_case": [text]})
    assert [row["use_case"] for row in records.read(records_home, DRIFT_METRICS)] == ["other"]


def test_every_kind_of_value_comes_back_as_it_was(records_home: Settings) -> None:
    moment = datetime(2020, 3, 1, 23, 59, 59, 123456, tzinfo=UTC)
    reign = {"use_case": "u", "model_version": "1", "from_night": NIGHT, "until_night": None, "why": "é'", "by": "b", "at": moment}
    records.amend(records_home, CHAMPION_HISTORY, lambda held: [*held, reign])
    assert records.read(records_home, CHAMPION_HISTORY, use_case="u") == [dict.fromkeys(CHAMPION_HISTORY.names) | reign]


def test_a_change_that_raises_leaves_the_table_as_it_was(records_home: Settings) -> None:
    def refuse(held: list[Record]) -> list[Record]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        records.amend(records_home, RETRAIN_REQUESTS, refuse)
    assert log.version(records_home, RETRAIN_REQUESTS) == 0


@pytest.mark.parametrize("already", [[], ["old"]])
def test_a_change_sees_the_record_that_another_writer_added_meanwhile(records_home: Settings, already: list[str]) -> None:
    records.amend(records_home, RETRAIN_REQUESTS, lambda held: [{"request_id": name} for name in already])
    seen: list[set[str]] = []

    def slow(held: list[Record]) -> list[Record]:
        if not seen:
            records.amend(records_home, RETRAIN_REQUESTS, lambda held: [*held, {"request_id": "first"}])
        seen.append({row["request_id"] for row in held})
        return [*held, {"request_id": "late"}]

    records.amend(records_home, RETRAIN_REQUESTS, slow)
    assert seen == [set(already), {*already, "first"}]
    assert {row["request_id"] for row in records.read(records_home, RETRAIN_REQUESTS)} == {*already, "first", "late"}


def test_a_table_that_is_not_there_is_said_with_its_place(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("empty")
    with pytest.raises(LakehouseError, match=r"(?s)ops\.nights cannot be read at .*lakehouse/ops/nights.*make up"):
        records.read(Settings(home=home), NIGHTS)


def test_writers_of_one_table_in_three_processes_lose_no_record(records_home: Settings) -> None:
    # Spawned, not forked: delta-rs's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_file, args=(records_home, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    filed = sorted(row["request_id"] for row in records.read(records_home, RETRAIN_REQUESTS))
    assert filed == sorted(f"{name}{number}" for name in "abc" for number in range(5))


def _file(settings: Settings, name: str) -> None:
    for number in range(5):
        request = {"request_id": f"{name}{number}"}
        records.amend(settings, RETRAIN_REQUESTS, lambda held, new=request: [*held, new])  # type: ignore[misc]
