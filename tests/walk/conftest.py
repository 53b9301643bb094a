"""One whole installation for all walks: a small world of its own, loaded, trained, approved, with the real scheduler."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.nightshift import usecase
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.operate import processes
from include.nightshift.operate.rest import Airflow
from include.nightshift.settings import Ports, Settings
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud import simulator

FIRST = date(2026, 1, 1)
HISTORY = 60
LIVE = 8
AS_OF = FIRST + timedelta(days=HISTORY - 1)


@dataclass
class Walk:
    """The installation and the ways to look at it."""

    settings: Settings
    use_case: UseCase
    airflow: Airflow

    def night(self, number: int) -> str:
        """The number-th live night, from 1."""
        return (AS_OF + timedelta(days=number)).isoformat()

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        return lakehouse.rows(lakehouse.connect(self.settings), query, **parameters)

    def versions(self) -> dict[str, int]:
        """The version of every table that a night writes."""
        written = ("bronze.transactions", "bronze.fraud_labels", "silver.transactions", "silver.fraud_labels", "silver.quarantine")
        gold = ("gold.card_fraud_features", "gold.card_fraud_scores", "gold.card_fraud_alerts")
        ops = ("ops.nights", "ops.performance", "ops.drift_metrics", "ops.champion_history", "ops.retrain_requests")
        return {table: self.rows(f"describe history {table} limit 1")[0]["version"] for table in (*written, *gold, *ops)}

    def run_night(self, night: str) -> None:
        """From the trigger to the watch."""
        before = {stem: {run["dag_run_id"] for run in self.airflow.runs(f"card_fraud_{stem}")} for stem in ("features", "score", "monitor")}
        self.airflow.run("card_fraud_ingest", partition_key=night)
        for stem, known in before.items():
            run_id = self.airflow.wait_for_run(f"card_fraud_{stem}", not_among=known)
            self.airflow.wait(f"card_fraud_{stem}", run_id, seconds=600)


@pytest.fixture(scope="session")
def walk() -> Iterator[Walk]:
    """History loaded, the first model trained through two preemptions, judged, approved over REST and promoted."""
    home = Path(tempfile.mkdtemp(prefix="walk-"))
    landing = home / "landing"
    world = simulator.World.of_size(2_000, seed=7)
    simulator.simulate(landing, first=FIRST, nights=HISTORY + LIVE, world=world)
    settings = Settings(
        home=home,
        clock=False,
        ports=Ports.free(),
        feed_spans={"transactions": (FIRST, None), "fraud_labels": (FIRST + timedelta(days=7), None)},
        local_preemptions=2,
    )
    before = dict(os.environ)
    os.environ.update(processes.environment(settings))
    try:
        processes.up(settings)
        airflow = Airflow(settings, settings.approver)
        airflow.wait_for_dags([f"card_fraud_{stem}" for stem in ("ingest", "features", "score", "monitor", "train", "backfill")])
        walk = Walk(settings, usecase.load("card_fraud", settings), airflow)
        airflow.run("card_fraud_backfill", conf={"first_night": FIRST.isoformat(), "last_night": AS_OF.isoformat(), "start_at": "ingest"})
        run_id = airflow.trigger("card_fraud_train", conf={"as_of": AS_OF.isoformat()})
        airflow.answer("card_fraud_train", run_id, "approve", "Approve")
        airflow.wait("card_fraud_train", run_id)
        yield walk
    finally:
        processes.down(settings)
        os.environ.clear()
        os.environ.update(before)
        if "NIGHTSHIFT_KEEP_WALK" not in before:
            shutil.rmtree(home, ignore_errors=True)
