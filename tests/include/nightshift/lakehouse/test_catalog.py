import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from include.nightshift.lakehouse import catalog, log, storage, tables
from include.nightshift.lakehouse.session import rows
from include.nightshift.lakehouse.tables import Table, TableColumn
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Settings
from include.nightshift.usecase import UseCase


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
    write_deltalake(storage.location(installation, found), found.arrow([{"n": 1}, {"n": 2}]))
    monkeypatch.setattr(tables, "SHARED", (*tables.SHARED, found))
    try:
        assert catalog.create(session, installation) == ["ops.found"]
        assert catalog.create(session, installation) == []
        assert rows(session, "select count(*) as n from ops.found") == [{"n": 2}]
        assert log.version(installation, found) == 0
    finally:
        session.sql("drop table if exists ops.found")


@pytest.mark.lakehouse
def test_the_program_that_creates_tables_says_that_none_is_missing(installation: Settings) -> None:
    command = [sys.executable, "-m", "include.nightshift.lakehouse.catalog"]
    done = subprocess.run(command, cwd=ROOT, env=environment(installation), capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "tables: 0 created"
