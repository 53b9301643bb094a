import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.lakehouse import tables
from include.nightshift.lakehouse.session import rows
from include.nightshift.lakehouse.tables import Table, TableColumn
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

FORTY_DAYS_AGO = time.time() - 40 * 86400


def all_tables(use_case: UseCase) -> list[Table]:
    return [*tables.of(use_case), *tables.SHARED]


def test_every_table_is_described_with_its_grain_and_every_column_with_a_sentence(use_case: UseCase) -> None:
    for table in all_tables(use_case):
        assert table.comment.rsplit(". ", 1)[-1].startswith("One row per "), table
        assert all(column.comment.endswith(".") for column in table.columns), table
        assert (table.partition[:1] == ("day",)) == (table.columns[0].name == "day"), table


def test_a_content_hash_leaves_out_clocks_and_nothing_else(use_case: UseCase) -> None:
    clocks = {f"{table}.{c.name}" for table in all_tables(use_case) for c in table.columns if c.name not in table.content}
    assert clocks == {
        "bronze.transactions._ingested_at",
        "bronze.fraud_labels._ingested_at",
        "gold.card_fraud_scores.features_version",
        "gold.card_fraud_scores.scored_at",
        "silver.quarantine.quarantined_at",
        "silver.quarantine.released_at",
        "ops.retrain_requests.requested_at",
        "ops.retrain_requests.claimed_at",
        "ops.retrain_requests.closed_at",
        "ops.gate_reports.judged_at",
        "ops.publications.published_at",
        "ops.nights.seconds",
        "ops.parity.checked_at",
        "ops.dbt_nodes.seconds",
        "ops.dbt_nodes.built_at",
        "ops.batches.landed_at",
        "ops.batches.ingested_at",
        "ops.contract_results.judged_at",
        "ops.stale_nights.marked_at",
        "ops.table_pins.pinned_at",
        "ops.leak_scans.scanned_at",
        "ops.erased_keys.registered_at",
        "ops.erasures.erased_at",
        "ops.replays.replayed_at",
    }


@pytest.mark.lakehouse
def test_tables_are_partitioned_by_night_and_readable_by_every_reader(session: SparkSession, use_case: UseCase) -> None:
    for table in (tables.features(use_case), tables.CHAMPION_HISTORY):
        detail = rows(session, f"describe detail {table}")[0]
        assert detail["partitionColumns"] == list(table.partition)
        assert detail["minReaderVersion"] <= 1
        assert dict(detail["properties"])["delta.enableDeletionVectors"] == "false"


@pytest.fixture
def throwaway(session: SparkSession) -> Iterator[Table]:
    table = Table(
        schema="ops", name="kept_versions", comment="One row per n.", columns=(TableColumn("n", "int", "A number."),), partition=()
    )
    session.sql(table.ddl())
    yield table
    session.sql(f"drop table {table}")


@pytest.mark.lakehouse
def test_a_version_stays_readable_when_its_log_has_aged_by_forty_days(
    session: SparkSession, installation: Settings, throwaway: Table
) -> None:
    # A checkpoint is when Delta cleans its log: let every second commit make one.
    session.sql(f"alter table {throwaway} set tblproperties ('delta.checkpointInterval' = '2')")
    for number in range(2):
        session.sql(f"insert into {throwaway} values ({number})")
    session.sql(f"delete from {throwaway} where n = 0")
    folder = Path(installation.lakehouse_location) / "ops" / "kept_versions"
    for path in folder.rglob("*"):
        os.utime(path, (FORTY_DAYS_AGO, FORTY_DAYS_AGO))
    for number in range(2):
        session.sql(f"insert into {throwaway} values ({number})")
    session.sql(f"vacuum {throwaway}")
    counts = [rows(session, f"select count(*) as n from {throwaway} version as of {version}")[0]["n"] for version in (0, 2, 3)]
    assert counts == [0, 1, 2]
    assert list((folder / "_delta_log").glob("*.checkpoint.parquet"))


def test_no_table_name_holds_more_than_its_use_case_says(use_case: UseCase) -> None:
    assert str(tables.features(use_case)) == "gold.card_fraud_features"
    assert lakehouse.literal(tables.features(use_case).comment) in tables.features(use_case).ddl()
