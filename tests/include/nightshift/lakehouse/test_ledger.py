"""What is recorded of a night, and what a repetition changes of that."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from include.nightshift.features.project import Node
from include.nightshift.lakehouse import ledger, log, records, tables
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import USE_CASE

NIGHT = date(2026, 3, 10)
DAY = timedelta(days=1)
MODEL = Node("card_fraud_features", "model", "success", 4.2, 3512, "OK")
TEST = Node("a_transaction_has_one_row_of_features", "test", "fail", 0.1, 2, "x" * 100_000)


def test_the_nodes_of_a_build_are_kept_under_its_last_night_and_replaced_by_the_next(records_home: Settings) -> None:
    ledger.record_nodes(records_home, USE_CASE, [NIGHT - DAY, NIGHT], [MODEL, TEST])
    kept = {record["node"]: record for record in records.read(records_home, tables.DBT_NODES, day=NIGHT, use_case="card_fraud")}
    assert kept.keys() == {MODEL.name, TEST.name}
    model = kept[MODEL.name]
    assert (model["first_night"], model["rows"], model["seconds"], model["status"]) == (NIGHT - DAY, 3512, 4.2, "success")
    assert len(kept[TEST.name]["message"]) == 1000

    ledger.record_nodes(records_home, USE_CASE, [NIGHT], [MODEL])
    ledger.record_nodes(records_home, USE_CASE, [NIGHT + DAY], [TEST])
    found = records.read(records_home, tables.DBT_NODES)
    assert sorted((r["day"], r["first_night"], r["node"]) for r in found) == [
        (NIGHT, NIGHT, MODEL.name),
        (NIGHT + DAY, NIGHT + DAY, TEST.name),
    ]


def test_a_build_that_does_the_same_again_commits_nothing_however_long_it_takes(records_home: Settings) -> None:
    ledger.record_nodes(records_home, USE_CASE, [NIGHT], [MODEL])
    before = log.version(records_home, tables.DBT_NODES)
    ledger.record_nodes(records_home, USE_CASE, [NIGHT], [replace(MODEL, seconds=9.9)])
    assert log.version(records_home, tables.DBT_NODES) == before
