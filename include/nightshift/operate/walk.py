"""The loop as its users drive it, over REST alone: a history in one run, a model trained and approved, a night from drop to watch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift.operate.rest import Airflow

if TYPE_CHECKING:
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

NIGHTLY = ("ingest", "features", "score", "monitor")
STARTERS = ("admin", "operator")
"""Users that may start a training."""
DAGS = (*NIGHTLY, "train", "backfill", "release", "maintain")


@dataclass(frozen=True)
class Night:
    """A night that was run: its runs by DAG, and the seconds from the trigger to the list and to the watch's verdict."""

    runs: dict[str, str]
    listed: float
    watched: float


class Walk:
    """Drives one use case of an installation.

    Its methods raise AirflowError where a run fails or does not end.
    """

    def __init__(self, settings: Settings, use_case: UseCase) -> None:
        self.settings = settings
        self.use_case = use_case
        self.airflow = Airflow(settings, settings.approver)
        # Whoever starts a training does not approve its model.
        self.starter = Airflow(settings, next(user for user in STARTERS if user != settings.approver))
        self.airflow.wait_for_dags([self.dag(stem) for stem in DAGS])

    def dag(self, stem: str) -> str:
        """The id of one of the use case's DAGs."""
        return f"{self.use_case.name}_{stem}"

    def backfill(self, first: date, last: date, start_at: str = "ingest") -> None:
        """Bring the nights, both included, through the stages from `start_at` on."""
        conf = {"first_night": first.isoformat(), "last_night": last.isoformat(), "start_at": start_at}
        self.airflow.run(self.dag("backfill"), conf=conf)

    def release(self, first: date, last: date) -> None:
        """Judge the nights, both included, again by the contracts as they are."""
        self.airflow.run(self.dag("release"), conf={"first_night": first.isoformat(), "last_night": last.isoformat()})

    def train(self, as_of: date, **conf: int | list[str]) -> str:
        """Start a training, with other parameters of the DAG if need be; returns its run id."""
        return self.starter.trigger(self.dag("train"), conf={"as_of": as_of.isoformat()} | conf)

    def trainings(self) -> set[str]:
        """The run ids of all trainings so far."""
        return {run["dag_run_id"] for run in self.airflow.runs(self.dag("train"))}

    def approve(self, training: str) -> None:
        """Say yes once the training asks, and wait for its end."""
        self.airflow.answer(self.dag("train"), training, "approve", "Approve")
        self.airflow.wait(self.dag("train"), training)

    def night(self, night: date) -> Night:
        """Run a night, also one that ran before: ingest by hand, the rest as its events start it, until the watch has judged."""
        key, started = night.isoformat(), time.monotonic()
        before = {stem: {run["dag_run_id"] for run in self.airflow.runs(self.dag(stem), key)} for stem in NIGHTLY}
        runs = {"ingest": self.airflow.run(self.dag("ingest"), partition_key=key)}
        for stem in NIGHTLY[1:]:
            runs[stem] = self.airflow.wait_for_run(self.dag(stem), not_among=before[stem], partition_key=key)
            if stem == "monitor":
                self.airflow.settled(self.dag(stem), runs[stem], "watch")
            else:
                self.airflow.wait(self.dag(stem), runs[stem])
            if stem == "score":
                listed = time.monotonic() - started
        return Night(runs, listed, time.monotonic() - started)

    def finish(self, night: Night) -> None:
        """Wait until the night's page is drawn too."""
        self.airflow.wait(self.dag("monitor"), night.runs["monitor"])
