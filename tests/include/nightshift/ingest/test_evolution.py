"""A contract's new version: old and new files land side by side, the tables gain the column, and old nights stay as they were."""

from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import date, timedelta

import pytest
from pyspark.sql import SparkSession

from include.nightshift import usecase
from include.nightshift.errors import ContractError
from include.nightshift.ingest import ingest
from include.nightshift.lakehouse import catalog, log, tables, writes
from include.nightshift.lakehouse.session import rows
from include.nightshift.rules import RowRule
from include.nightshift.settings import Settings
from include.nightshift.usecase import Column, Feed, UseCase

FIRST = date(2009, 6, 1)
SECOND, THIRD = FIRST + timedelta(days=1), FIRST + timedelta(days=2)
VISITS = Feed(
    name="visits",
    description="Visits.",
    columns=(Column("visit_id", "bigint", "Names it."), Column("came_at", "timestamp", "When.")),
    key="visit_id",
    event_time="came_at",
)
PLATE = Column("plate", "string", "The car's.", required=False, since="1.1.0")
PLATES = RowRule(name="known_plates", severity="warn", kind="range", reason="a plate from elsewhere", breach="plate like 'X%'")


def land(settings: Settings, night: date, header: str, *lines: str) -> None:
    path = settings.landing_folder / "visits" / f"{night}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join([header, *lines, ""]).encode(), mtime=0))


@pytest.mark.lakehouse
def test_a_new_column_is_null_in_old_nights_and_filled_in_new_ones(
    session: SparkSession, installation: Settings, use_case: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(VISITS, version="1.1.0", columns=(*VISITS.columns, PLATE), rules=(PLATES,))
    land(installation, FIRST, "visit_id,came_at", f"1,{FIRST} 08:00:00")
    land(installation, SECOND, "plate,visit_id,came_at", f"X-7,2,{SECOND} 08:00:00", f",3,{SECOND} 08:00:00", f"  ,4,{SECOND} 08:00:00")
    try:
        for table in (tables.bronze(VISITS), tables.silver(VISITS)):
            session.sql(table.ddl())
        ingest(session, installation, VISITS, [FIRST])
        with pytest.raises(ContractError, match=r"unknown \['plate'\].*add a version of it that says what is new"):
            ingest(session, installation, VISITS, [SECOND])
        before = writes.fingerprint(session.table("silver.visits"), ["day", "visit_id", "came_at", "known_at"])

        # `up` does this when a contract has grown.
        monkeypatch.setattr(tables, "of", lambda use_case: (tables.bronze(newer), tables.silver(newer)))
        assert usecase.registered(installation)
        assert catalog.create(session, installation) == []
        assert [row["col_name"] for row in rows(session, "describe analyst.visits")] == tables.silver(newer).names
        done = ingest(session, installation, newer, [FIRST, SECOND])
        assert done.accepted == {FIRST: 1, SECOND: 3}
        query = "select visit_id, plate from silver.visits order by visit_id"
        assert [tuple(row.values()) for row in rows(session, query)] == [(1, None), (2, "X-7"), (3, None), (4, None)]
        old = session.table("silver.visits").where(f"day = date'{FIRST}'")
        assert writes.fingerprint(old, ["day", "visit_id", "came_at", "known_at"]) == before
        warned = [verdict for verdict in done.verdicts if not verdict.passed and verdict.rule != "same_order"]
        assert [(verdict.rule, verdict.night, verdict.failed_rows) for verdict in warned] == [("known_plates", SECOND, 1)]
        version = log.version(installation, tables.silver(newer))

        # An old file that comes after the new version is one still.
        land(installation, THIRD, "visit_id,came_at", f"5,{THIRD} 08:00:00")
        assert ingest(session, installation, newer, [THIRD]).accepted == {THIRD: 1}
        assert ingest(session, installation, newer, [FIRST, SECOND, THIRD]).unchanged == [FIRST, SECOND, THIRD]
        assert log.version(installation, tables.silver(newer)) == version + 1
    finally:
        session.sql("drop view if exists analyst.visits")
        session.sql("drop table if exists bronze.visits")
        session.sql("drop table if exists silver.visits")
