"""Spot: train a pinned run on machines that may be taken away, and see to it that none is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.nightshift import settings, usecase
from include.nightshift.errors import NightshiftError, PoolError
from nightshift_airflow.links import MachineLink, MlflowRunLink
from nightshift_airflow.pools import pool
from nightshift_airflow.triggers.spot import SpotTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.spot.attempts import Attempt
    from include.nightshift.spot.steering import Terms

MACHINE = "machine"
"""Key under which the task keeps the machine that it started, across its tries."""


class SpotTrainingOperator(BaseOperator):
    """Trains a pinned run on the installation's pool, deferred: no worker waits.

    A machine taken away is weather, and uses no retry; memory that runs out gets a larger type once; the program's own fault fails the
    task at once with its last lines; time or money that is spent fails it too, and a rerun with other params goes on from the
    checkpoints. A worker, triggerer or scheduler that dies leaves the machine at work; who comes next finds it by its run.

    :param run_folder: the pinned run; templated.
    :param hours: deadline, from the start of the DAG run; templated.
    :param max_cost: what the run may cost, in the currency of the bills; empty for no limit; templated.
    :param price_ceiling: no spot machine that costs more an hour; None for no limit.
    :param max_preemptions: after so many lost machines the rest is done on demand.
    :param preemptions: machines to take away on purpose (a rehearsal, on the local pool); templated.
    """

    template_fields: Sequence[str] = ("run_folder", "hours", "max_cost", "preemptions")
    operator_extra_links = (MlflowRunLink(), MachineLink())

    def __init__(
        self,
        *,
        run_folder: str,
        hours: str | float = 12.0,
        max_cost: str | float = "",
        price_ceiling: float | None = None,
        max_preemptions: int = 10,
        preemptions: str = "0",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_folder = run_folder
        self.hours = hours
        self.max_cost = max_cost
        self.price_ceiling = price_ceiling
        self.max_preemptions = max_preemptions
        self.preemptions = preemptions

    def execute(self, context: Context) -> Any:
        from include.nightshift.spot import steering

        folder = Path(self.run_folder)
        machines = pool(settings.load(), int(self.preemptions))
        terms = self._terms(context, folder, machines.tick_seconds)
        self.log.info("run %s may go on until %s", folder.name, terms.deadline.isoformat(timespec="seconds"))
        try:
            standing = steering.turn(machines, folder, terms)
        except NightshiftError as error:
            self._fail(folder, type(error).__name__, str(error))
            raise
        if standing.finished:
            return self._finish(context, folder)
        if standing.machine:
            # Before anything is waited for. Should even this be lost: the pool finds the machine by its run.
            context["task_state_store"].set(MACHINE, standing.machine.told())
            context["ti"].xcom_push(key="machine_url", value=machines.page(standing.machine))
        self.defer(trigger=SpotTrigger(self.run_folder, terms.told(), int(self.preemptions)), method_name="execute_complete")

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Called when the run has ended, well or not."""
        folder = Path(self.run_folder)
        if event["error"]:
            self._fail(folder, event["error"], event["message"])
            raise PoolError(event["message"])
        return self._finish(context, folder)

    def on_kill(self) -> None:
        """The task is being ended by hand while it works: its machine must not go on alone."""
        from include.nightshift.spot import steering

        steering.cancel(pool(settings.load()), Path(self.run_folder))

    def _terms(self, context: Context, folder: Path, tick_seconds: float) -> Terms:
        from include.nightshift.spot import steering
        from include.nightshift.train import pace

        began = context["dag_run"].start_date or datetime.now(UTC)
        rehearsed = int(self.preemptions)
        return steering.Terms(
            deadline=began + timedelta(hours=float(self.hours)),
            work_hours=steering.usual_hours(folder) or min(1.0, float(self.hours) / 4),
            # A rehearsal is short, and would be over before there was anything to resume.
            at_risk_seconds=0.0 if rehearsed else pace.AT_RISK_SECONDS,
            max_preemptions=self.max_preemptions,
            max_cost=float(self.max_cost) if str(self.max_cost) not in ("", "None") else None,
            price_ceiling=self.price_ceiling,
            tick_seconds=tick_seconds,
        )

    def _fail(self, folder: Path, error: str, message: str) -> None:
        """End the task, unless trying again may help."""
        self._record(folder)
        if error != PoolError.__name__:
            # The program's own fault, and what it may take, come back with the same arguments: no retry.
            raise AirflowFailException(f"{error}: {message}")

    def _record(self, folder: Path) -> list[Attempt]:
        from dataclasses import asdict

        from include.nightshift.lakehouse import records, tables
        from include.nightshift.spot import attempts
        from include.nightshift.train.run import TrainingRun

        run, tried = TrainingRun.load(folder), attempts.ledger(folder)
        records.replace(
            settings.load(),
            tables.TRAINING_ATTEMPTS,
            [asdict(attempt) | {"use_case": run.use_case} for attempt in tried],
            {"run_id": [run.run_id]},
        )
        return tried

    def _finish(self, context: Context, folder: Path) -> Any:
        from include.nightshift import doors
        from include.nightshift.promote import registry
        from include.nightshift.train import tracking
        from include.nightshift.train.run import TrainingRun, finished

        tried = self._record(folder)
        run, result, installed = TrainingRun.load(folder), finished(folder), settings.load()
        if result is None:
            raise AirflowFailException(f"{folder}: the run ended well but its result is gone; clear this task to train again")
        use_case = usecase.load(run.use_case, installed)
        doors.introduce(installed)
        mlflow_run_id = tracking.track(folder)
        version = registry.register(installed, use_case, run.run_id, mlflow_run_id, result["model_sha256"])
        experiment = registry.client(installed).get_experiment_by_name(run.experiment).experiment_id
        url = f"{installed.mlflow_url}/#/experiments/{experiment}/runs/{mlflow_run_id}"
        context["ti"].xcom_push(key="mlflow_run_url", value=url)
        return {
            "run_folder": str(folder),
            "run_id": run.run_id,
            "model_version": version,
            "model_sha256": result["model_sha256"],
            "preemptions": sum(attempt.outcome == "preempted" for attempt in tried),
            "attempts": len(tried),
        }


class SweepOperator(BaseOperator):
    """Ends whatever machine of a run is still alive once its training task is through: the last net below all others.

    :param run_folder: the pinned run; templated; empty where there is none.
    """

    template_fields: Sequence[str] = ("run_folder",)

    def __init__(self, *, run_folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_folder = run_folder

    def execute(self, context: Context) -> Any:
        from include.nightshift.spot import steering

        if not self.run_folder or self.run_folder == "None":
            self.log.info("no run was pinned, so no machine was started")
            return []
        ended = steering.cancel(pool(settings.load()), Path(self.run_folder))
        for machine in ended:
            self.log.warning("%s of run %s was still alive: ended", machine.name, machine.run_id)
        return [machine.name for machine in ended]
