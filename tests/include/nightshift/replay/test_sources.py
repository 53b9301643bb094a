"""Where a replay finds bronze as it was: in the live table, in a version that is still there, in a pinned one, or nowhere."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import parquet

from include.nightshift.lakehouse import log, pins, records, storage, tables
from include.nightshift.replay import sources
from include.nightshift.replay.sources import Source
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import USE_CASE

NIGHT = date(2020, 3, 2)
BEFORE, AFTER = NIGHT - timedelta(days=1), NIGHT + timedelta(days=1)
MORNING = datetime(2020, 3, 3, 1, tzinfo=UTC)
LATER = MORNING + timedelta(days=2)
EVENTS, LABELS = (tables.bronze(feed) for feed in USE_CASE.feeds)


@pytest.fixture
def home(records_home: Settings) -> Settings:
    """Bronze of two nights, ingested before the morning, and of the one after, ingested later."""
    for table in (EVENTS, LABELS):
        DeltaTable.create(storage.location(records_home, table), table.arrow([]).schema, partition_by=["day"])
        for night, at in ((BEFORE, MORNING), (NIGHT, MORNING), (AFTER, LATER)):
            land(records_home, table, night, at)
    return records_home


def land(settings: Settings, table: tables.Table, night: date, at: datetime, batch: str = "one", rows: int = 2) -> None:
    feed = next(feed for feed in USE_CASE.feeds if tables.bronze(feed) == table)
    made: list[dict[str, Any]] = [
        {
            "day": night,
            feed.key: str(number),
            "_source": f"{feed.name}/{night}.csv",
            "_row": number + 1,
            "_batch": batch,
            "_ingested_at": at,
        }
        for number in range(rows)
    ]
    write_deltalake(storage.location(settings, table), table.arrow(made), mode="overwrite", predicate=f"day = '{night}'")


def publication(settings: Settings) -> dict[str, Any]:
    versions = {str(table): log.version(settings, table) for table in (EVENTS, LABELS)}
    return {"day": NIGHT, "published_at": MORNING + timedelta(hours=1), "versions": json.dumps(versions)}


def vacuum(settings: Settings) -> None:
    """As `maintain` does: every file but those of the live version and of pinned ones."""
    kept = {log.version(settings, EVENTS), *(pin.version for pin in pins.held(settings, EVENTS, date(2020, 1, 1)))}
    needed = {uri for version in kept for uri in log.opened(settings, EVENTS, version).file_uris()}
    for path in Path(storage.location(settings, EVENTS)).glob("day=*/*.parquet"):
        if str(path) not in needed:
            path.unlink()


def test_the_live_table_will_do_where_no_night_up_to_that_one_came_anew(home: Settings) -> None:
    then = publication(home)
    land(home, EVENTS, AFTER, LATER + timedelta(days=1), "two")
    assert sources.of(home, USE_CASE, then) == tuple(Source(table, log.version(home, table), ()) for table in (EVENTS, LABELS))


def test_rows_that_came_anew_are_read_at_the_version_of_then_while_it_is_there(home: Settings) -> None:
    then = publication(home)
    version = log.version(home, EVENTS)
    land(home, EVENTS, BEFORE, LATER, "two")
    assert sources.of(home, USE_CASE, then)[0] == Source(EVENTS, version, ())
    vacuum(home)
    assert sources.of(home, USE_CASE, then)[0] == Source(EVENTS, version + 1, ((BEFORE, LATER),))


def test_a_pinned_version_that_is_younger_will_do_where_no_night_came_anew_before_it(home: Settings) -> None:
    then = publication(home)
    land(home, EVENTS, AFTER, LATER, "two")
    pins.pin(home, EVENTS, log.version(home, EVENTS), f"{BEFORE} landed again")
    pinned = log.version(home, EVENTS)
    land(home, EVENTS, BEFORE, LATER, "two")
    pins.pin(home, EVENTS, log.version(home, EVENTS), "too young")
    vacuum(home)
    assert sources.of(home, USE_CASE, then)[0] == Source(EVENTS, pinned, ())


def test_what_is_laid_out_has_no_later_night_and_batches_that_fit_its_rows(home: Settings, tmp_path: Path) -> None:
    then = publication(home)
    first = {"feed": "transactions", "batch": "one", "rows": 2, "reordered": True, "contract_version": "0.9.0", "source": "a.csv"}
    empty = {"day": BEFORE - timedelta(days=1), "feed": "transactions", "batch": "", "rows": 0, "contract_version": "1.0.0"}
    known = [empty, first | {"day": NIGHT}, first | {"day": BEFORE, "batch": "two", "rows": 3}, first | {"day": AFTER}]
    records.replace(home, tables.BATCHES, known, {"day": [record["day"] for record in known], "feed": ["transactions"]})
    out = tmp_path / "out"
    out.mkdir()
    sources.lay_out(home, USE_CASE, sources.of(home, USE_CASE, then), NIGHT, out)
    assert sorted(set(sources.laid(out, USE_CASE.events, ["day"]).column("day").to_pylist())) == [BEFORE, NIGHT]
    told = {record["day"]: record for record in parquet.read_table(out / "batches.parquet").to_pylist() if record["feed"] == "transactions"}
    assert {night: (r["batch"], r["rows"], r["reordered"], r["contract_version"]) for night, r in told.items()} == {
        BEFORE - timedelta(days=1): ("", 0, None, "1.0.0"),
        BEFORE: ("one", 2, False, USE_CASE.events.version),
        NIGHT: ("one", 2, True, "0.9.0"),
    }
