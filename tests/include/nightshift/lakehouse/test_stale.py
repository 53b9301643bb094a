"""Stale nights: marked once, in every table that rests on them, from the first changed night on; closed when they are built again."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from include.nightshift.lakehouse import log, records, stale, storage, tables
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

ONE, TWO, THREE = date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)


@pytest.fixture
def built(records_home: Settings, use_case: UseCase) -> Settings:
    """An installation whose features reach over three nights, and its lists over the last two."""
    from deltalake import DeltaTable, write_deltalake

    for table, nights in {tables.features: (ONE, TWO, THREE), tables.scores: (TWO, THREE), tables.alerts: (TWO, THREE)}.items():
        wanted = table(use_case)
        location = storage.location(records_home, wanted)
        rows = wanted.arrow([{"day": night} for night in nights])
        if DeltaTable.is_deltatable(location):
            write_deltalake(location, rows, mode="append")
        else:
            write_deltalake(location, rows, partition_by=list(wanted.partition))
    return records_home


def marks(settings: Settings) -> dict[str, list[date]]:
    found: dict[str, list[date]] = {}
    for record in sorted(records.read(settings, tables.STALE_NIGHTS), key=lambda record: record["day"]):
        if record["rebuilt_at"] is None:
            found.setdefault(record["table_name"].split("_")[-1], []).append(record["day"])
    return found


def test_a_changed_night_marks_itself_and_what_came_after_in_every_table_built_on_the_feed(built: Settings, use_case: UseCase) -> None:
    stale.mark_dependents(built, use_case.labels, [TWO])
    assert marks(built) == {"features": [TWO, THREE], "scores": [TWO, THREE], "alerts": [TWO, THREE]}
    because = {record["because"] for record in records.read(built, tables.STALE_NIGHTS)}
    assert because == {"silver.fraud_labels of 2026-03-02 changed"}
    assert stale.waiting(built) == [TWO, THREE]


def test_a_night_after_all_that_was_built_marks_nothing(built: Settings, use_case: UseCase) -> None:
    stale.mark_dependents(built, use_case.events, [date(2026, 3, 4)])
    assert records.read(built, tables.STALE_NIGHTS) == []


def test_marking_again_changes_nothing_and_rebuilding_closes_exactly_the_nights_built(built: Settings, use_case: UseCase) -> None:
    features = tables.features(use_case)
    stale.mark(built, features, [ONE, TWO], "first")
    version = log.version(built, tables.STALE_NIGHTS)
    stale.mark(built, features, [TWO, ONE], "second")
    assert log.version(built, tables.STALE_NIGHTS) == version
    assert {record["because"] for record in records.read(built, tables.STALE_NIGHTS)} == {"first"}

    stale.rebuilt(built, features, [ONE, THREE])
    assert stale.waiting(built, features) == [TWO]
    stale.rebuilt(built, features, [THREE])
    assert stale.waiting(built, tables.scores(use_case)) == []
    (closed,) = (record for record in records.read(built, tables.STALE_NIGHTS) if record["day"] == ONE)
    assert abs((closed["rebuilt_at"] - datetime.now(UTC)).total_seconds()) < 60

    stale.mark(built, features, [ONE], "third")
    assert stale.waiting(built, features) == [ONE, TWO]
