"""The figures of a night are those of the tables' files, and guards see in them what was planted there; no server is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from include.nightshift.lakehouse import records, storage, tables
from include.nightshift.monitor import drift
from include.nightshift.promote.trust import Reigning
from include.nightshift.score import guards, seen
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import USE_CASE

NIGHTS = [date(2026, 3, 1) + timedelta(days=n) for n in range(6)]
TONIGHT = NIGHTS[-1]
ROWS = 400
EVENTS, FEATURES, SCORES = tables.silver(USE_CASE.events), tables.features(USE_CASE), tables.scores(USE_CASE)
Rows = dict[str, Any]


def rows(night: date) -> list[Rows]:
    """A night's rows with all that any of the three tables holds."""
    dice, at = np.random.default_rng(night.toordinal()), datetime.combine(night, datetime.min.time(), UTC)
    first = (night - NIGHTS[0]).days * ROWS
    shared = {"day": night, "tx_datetime": at, "role": "champion", "model_version": "3"}
    return [
        {"transaction_id": first + n, "customer_id": n % 300, "score": float(score)} | shared
        for n, score in enumerate(dice.random(ROWS) ** 4)
    ]


@pytest.fixture
def settings(records_home: Settings) -> Settings:
    """Six nights in silver, features and scores, each checked by parity."""
    for table in (EVENTS, FEATURES, SCORES):
        DeltaTable.create(storage.location(records_home, table), table.arrow([]).schema, partition_by=list(table.partition))
        put(records_home, table, [row for night in NIGHTS for row in rows(night)])
    checked = [{"day": night, "use_case": USE_CASE.name, "rows": 100, "differences": 0, "sample": "[]"} for night in NIGHTS]
    records.replace(records_home, tables.PARITY, checked, {"day": NIGHTS})
    folder = records_home.home / "model"
    folder.mkdir()
    (folder / "reference.json").write_text(json.dumps(drift.reference({"score": np.linspace(0, 1, 1000)})))
    return records_home


def put(settings: Settings, table: tables.Table, new: list[Rows], night: date | None = None) -> None:
    """Write rows, in place of a night's where one is given."""
    how: Any = {"mode": "append"} if night is None else {"mode": "overwrite", "predicate": f"day = '{night}'"}
    write_deltalake(storage.location(settings, table), table.arrow(new), **how)


def model(settings: Settings, version: str = "3") -> Reigning:
    return Reigning(version, settings.home / "model", None, (), "")


def figures(settings: Settings, lists: Mapping[date, list[int]] | None = None, version: str = "3") -> guards.Seen:
    return seen.figures(settings, USE_CASE, {TONIGHT: model(settings, version)}, lists or {})[TONIGHT]


def test_a_sound_nights_figures_are_counted_and_pass_every_guard(settings: Settings) -> None:
    told = figures(settings, {NIGHTS[-2]: [1, 2, 3, 4], TONIGHT: [3, 4, 5]})
    assert (told.events, told.features, told.scores, told.strangers, told.entities) == (ROWS, ROWS, ROWS, 0, 300)
    assert (told.features_doubled, told.scores_doubled, told.unknown, told.outside, told.distinct) == (0, 0, 0, 0, ROWS)
    assert (told.own_day, told.versions, told.expected, told.parity) == (1.0, ("3",), "3", guards.Checked(100, 0))
    assert told.recent == dict.fromkeys(NIGHTS[:-1], ROWS)
    assert (told.listed, told.repeated) == (3, 2)
    assert told.distance is not None
    assert (told.distance.rows, told.distance.reference_rows) == (ROWS, 5 * ROWS)
    assert guards.judge(told, USE_CASE.guards).outcome == "passed"


def test_each_planted_fault_is_in_the_figures(settings: Settings) -> None:
    tonight = rows(TONIGHT)
    put(settings, SCORES, [*tonight[1:], tonight[1], rows(NIGHTS[0])[0] | {"day": TONIGHT}], TONIGHT)
    told = figures(settings)
    assert (told.scores, told.scores_doubled, told.strangers) == (ROWS + 1, 1, 1)

    wrong = [{"score": float("nan")}, {"score": None}, {"score": 1.5}, {"score": -0.1}, {"model_version": "2"}]
    put(settings, SCORES, [row | (wrong[n] if n < len(wrong) else {}) for n, row in enumerate(tonight)], TONIGHT)
    told = figures(settings)
    assert (told.unknown, told.outside, told.versions) == (2, 2, ("2", "3"))

    put(settings, FEATURES, [*tonight, *tonight[:3]], TONIGHT)
    assert figures(settings).features_doubled == 3
    put(settings, FEATURES, [row | {"tx_datetime": row["tx_datetime"] - timedelta(days=n % 4)} for n, row in enumerate(tonight)], TONIGHT)
    assert figures(settings).own_day == 0.25
    put(settings, FEATURES, [], TONIGHT)
    told = figures(settings)
    assert (told.features, told.own_day, told.strangers) == (0, None, ROWS)


def test_scores_are_held_against_the_same_models_nights_and_a_new_models_against_the_rows_that_judged_it(settings: Settings) -> None:
    told = figures(settings)
    assert told.distance is not None
    assert "version 3's nights from 2026-03-01 to 2026-03-05" in told.distance.reference
    new = [row | {"model_version": "4"} for row in rows(TONIGHT)]
    put(settings, SCORES, new, TONIGHT)
    told = figures(settings, version="4")
    assert told.distance is not None
    assert (told.distance.reference, told.distance.reference_rows) == ("the rows that version 4 was judged on", 1000)
    (settings.home / "model" / "reference.json").unlink()
    assert figures(settings, version="4").distance is None


def test_a_night_whose_list_is_held_is_no_measure_of_others(settings: Settings) -> None:
    held = {"day": NIGHTS[1], "use_case": USE_CASE.name, "revision": 2, "state": "held", "reasons": "[]"}
    before = [
        held | {"revision": 1, "state": "published"},
        held,
        held | {"day": NIGHTS[2]},
        held | {"day": NIGHTS[2], "revision": 3, "state": "marked"},
    ]
    records.replace(settings, tables.PUBLICATIONS, before, {"day": NIGHTS})
    told = figures(settings)
    assert told.distance is not None
    assert told.distance.reference_rows == 4 * ROWS


def test_a_column_of_another_type_or_none_is_named_and_holds_the_night(settings: Settings) -> None:
    narrow = SCORES.arrow(rows(TONIGHT)).drop(["reason_3"])
    narrow = narrow.set_column(narrow.schema.get_field_index("score"), "score", narrow.column("score").cast(pa.string()))
    write_deltalake(
        storage.location(settings, SCORES), narrow, mode="overwrite", schema_mode="overwrite", partition_by=list(SCORES.partition)
    )
    told = figures(settings)
    assert [words.partition(";")[0] for words in told.columns] == [
        "gold.card_fraud_scores: score is string, expected double",
        "gold.card_fraud_scores: reason_3 is missing, expected string",
    ]
    judged = guards.judge(told, USE_CASE.guards)
    assert judged.outcome == "hold"
    assert any("score is string" in reason for reason in judged.reasons)


def test_a_night_that_owes_no_file_is_empty_and_passes(settings: Settings) -> None:
    later = NIGHTS[-1] + timedelta(days=1)
    ended = replace(USE_CASE, events=replace(USE_CASE.events, last_drop=TONIGHT))
    records.replace(
        settings, tables.PARITY, [{"day": later, "use_case": USE_CASE.name, "rows": 0, "differences": 0, "sample": "[]"}], {"day": [later]}
    )
    for use_case, outcome in ((USE_CASE, "hold"), (ended, "passed")):
        told = seen.figures(settings, use_case, {later: model(settings)}, {})[later]
        assert (told.events, told.scores, told.entities) == (0, 0, 0)
        assert guards.judge(told, use_case.guards).outcome == outcome
