import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from include.nightshift import usecase
from include.nightshift.lakehouse import catalog, log, stale, storage, tables
from include.nightshift.lakehouse.session import rows
from include.nightshift.lakehouse.tables import Table, TableColumn
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Settings
from include.nightshift.usecase import Feature, UseCase


@pytest.mark.lakehouse
def test_tables_lie_in_the_home_by_schema_and_name_and_a_second_creation_makes_none(
    session: SparkSession, installation: Settings, use_case: UseCase
) -> None:
    for table in (*tables.of(use_case), *tables.SHARED):
        assert (Path(installation.lakehouse_location) / table.schema / table.name / "_delta_log").is_dir(), table
    assert catalog.create(session, installation) == []


@pytest.mark.lakehouse
def test_a_table_that_the_catalog_lacks_is_entered_with_its_rows_and_history(
    session: SparkSession, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltalake import write_deltalake

    found = Table(schema="ops", name="found", comment="One row per n.", columns=(TableColumn("n", "int", "A number."),), partition=())
    told = pa.schema([pa.field("n", pa.int32(), metadata={"comment": "A number."})])
    written = found.arrow([{"n": 1}, {"n": 2}]).cast(told)
    write_deltalake(storage.location(installation, found), written, description=found.comment)
    monkeypatch.setattr(tables, "SHARED", (*tables.SHARED, found))
    try:
        assert catalog.create(session, installation) == ["ops.found"]
        assert catalog.create(session, installation) == []
        assert rows(session, "select count(*) as n from ops.found") == [{"n": 2}]
        assert log.version(installation, found) == 0
    finally:
        session.sql("drop table if exists ops.found")


@pytest.mark.lakehouse
def test_words_are_committed_once_and_only_when_they_change(
    session: SparkSession, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(comment: str, *words: str) -> Table:
        columns = tuple(TableColumn(f"n{place}", "int", said) for place, said in enumerate(words))
        return Table(schema="ops", name="worded", comment=comment, columns=columns, partition=())

    shared = tables.SHARED
    commits = []
    versions = (
        described("Old. One row per n.", "A number.", "Another."),
        described("Old. One row per n.", "It's a number.", "It's another."),
        described("New. One row per n.", "It's a number.", "It's another.", "A third."),
    )
    try:
        for table in versions:
            monkeypatch.setattr(tables, "SHARED", (*shared, table))
            for _ in range(2):
                catalog.create(session, installation)
                commits.append(log.version(installation, table))
            held = {row["col_name"]: row["comment"] for row in rows(session, f"describe table {table}")}
            assert held == {column.name: column.comment for column in table.columns}
        assert commits == [0, 0, 1, 1, 3, 3], "one commit for all columns' words; one for a new column and one for the table's"
    finally:
        session.sql("drop table if exists ops.worded")


@pytest.mark.lakehouse
def test_nothing_is_committed_to_tables_that_say_what_they_should(session: SparkSession, installation: Settings, use_case: UseCase) -> None:
    every = (*tables.of(use_case), *tables.SHARED)
    before = {str(table): log.version(installation, table) for table in every}
    catalog.create(session, installation)
    assert {str(table): log.version(installation, table) for table in every} == before


@pytest.mark.lakehouse
def test_nights_of_features_that_lack_a_new_one_are_stale(session: SparkSession, installation: Settings, use_case: UseCase) -> None:
    from deltalake import write_deltalake

    new = replace(use_case, name="newcomers", recipes=use_case.trained, features=(*use_case.features[:2], Feature("brand_new", "New.")))
    old = replace(new, features=new.features[:2])
    night = date(1981, 1, 1)
    table = tables.features(old)
    write_deltalake(storage.location(installation, table), table.arrow([{"day": night}]), partition_by=["day"])
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(usecase, "registered", lambda settings: [new])
            assert str(table) in catalog.create(session, installation)
        assert stale.waiting(installation, table) == [night]
        assert rows(session, f"select brand_new from {table}") == [{"brand_new": None}]
    finally:
        stale.rebuilt(installation, table, [night])
        for made in (tables.features(new), tables.scores(new), tables.alerts(new)):
            session.sql(f"drop table if exists {made}")
            session.sql(f"drop view if exists analyst.{made.name}")


@pytest.mark.lakehouse
def test_the_program_that_creates_tables_says_that_none_is_missing(installation: Settings) -> None:
    command = [sys.executable, "-m", "include.nightshift.lakehouse.catalog"]
    done = subprocess.run(command, cwd=ROOT, env=environment(installation), capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "tables: 0 created"
