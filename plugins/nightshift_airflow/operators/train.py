"""Train: claim the requests, pin what is read, train on machines that may be taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include.nightshift import settings, usecase
from include.nightshift.errors import NotMaturedError, TrainingFailedError
from nightshift_airflow.links import MlflowRunLink
from nightshift_airflow.operators.night import NightOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.settings import Settings
    from include.nightshift.spot.attempts import Attempt
    from include.nightshift.usecase import UseCase

LAST_WHOLE_NIGHT = "last"
"""The default of `as_of`: the newest night that both feeds have brought."""


class ClaimOperator(BaseOperator):
    """Settles `as_of` and takes the open requests. A run that an asset event started and that finds none is skipped:
    events coalesce, so an earlier run has answered already.

    :param use_case: name of the use case.
    :param as_of: a night, or `last`; templated.
    """

    template_fields: Sequence[str] = ("as_of",)

    def __init__(self, *, use_case: str, as_of: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.as_of = as_of

    def execute(self, context: Context) -> Any:
        from include.nightshift import nights
        from include.nightshift.errors import NightError
        from include.nightshift.lakehouse import log, tables
        from include.nightshift.monitor import requests

        installed = settings.load()
        use_case = usecase.load(self.use_case, installed)
        if self.as_of == LAST_WHOLE_NIGHT:
            held = [log.extent(installed, tables.silver(feed)) for feed in use_case.feeds]
            if None in held:
                raise AirflowFailException(
                    f"{use_case.name}: silver holds no night of both feeds yet. Load some with {use_case.name}_backfill"
                )
            as_of = min(last for _, last in filter(None, held))
        else:
            try:
                as_of = nights.parse(self.as_of, what="as_of")
            except NightError as error:
                raise AirflowFailException(str(error)) from error
        claimed = requests.claim(installed, use_case, as_of)
        if not claimed and context["dag_run"].run_type == "asset_triggered":
            raise AirflowSkipException("no open request: an earlier run has answered the one that this event announced")
        self.log.info("as of night %s, requests: %s", as_of, ", ".join(claimed) or "none, somebody asked")
        return {"as_of": as_of.isoformat(), "request_ids": claimed}


class PinOperator(NightOperator):
    """Lays the training run's rows, at pinned table versions, in its folder; returns the folder.

    :param recipe: name of the recipe.
    """

    def __init__(self, *, recipe: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe = recipe

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.train import pin

        recipe = next(recipe for recipe in use_case.recipes if recipe.name == self.recipe)
        try:
            return str(pin.pin(connect(settings), settings, use_case, recipe, nights[-1]))
        except NotMaturedError as error:
            # Waiting a few seconds between retries matures nothing.
            raise AirflowFailException(str(error)) from error


class SpotTrainingOperator(BaseOperator):
    """Trains a pinned run on the local pool; a machine taken away is weather: the same command again, no retry used.

    :param run_folder: the pinned run; templated.
    :param preemptions: machines to take away on purpose (a rehearsal); templated.
    """

    template_fields: Sequence[str] = ("run_folder", "preemptions")
    operator_extra_links = (MlflowRunLink(),)

    def __init__(self, *, run_folder: str, preemptions: str = "0", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_folder = run_folder
        self.preemptions = preemptions

    def execute(self, context: Context) -> Any:
        from include.nightshift.spot import attempts
        from include.nightshift.spot.pools import LocalPool
        from include.nightshift.train import pace

        folder, rehearsed = Path(self.run_folder), int(self.preemptions)
        pool = LocalPool(interruptions=[1] * rehearsed)
        # A rehearsal is short, and would be over before there was anything to resume.
        at_risk = 0.0 if rehearsed else pace.AT_RISK_SECONDS
        try:
            tried = attempts.train_on(pool, folder, on_attempt=self._ended, on_progress=self._progress, at_risk_seconds=at_risk)
        except TrainingFailedError as error:
            self._record(folder, attempts.ledger(folder))
            # The program's own fault comes back with the same arguments: no retry.
            raise AirflowFailException(str(error)) from error
        self._record(folder, tried)
        return self._finish(context, folder, tried)

    def _progress(self, line: Mapping[str, Any]) -> None:
        self.log.info("step %s: training loss %.5f, %.1f s", line["step"], line["loss"], line["seconds"])

    def _ended(self, attempt: Attempt) -> None:
        self.log.info("attempt %s on %s: %s, %.1f s of work lost", attempt.attempt, attempt.machine, attempt.outcome, attempt.lost_seconds)

    def _record(self, folder: Path, tried: Sequence[Attempt]) -> None:
        from dataclasses import asdict

        from include.nightshift.lakehouse import records, tables
        from include.nightshift.train.run import TrainingRun

        run = TrainingRun.load(folder)
        tried_on = [asdict(attempt) | {"use_case": run.use_case} for attempt in tried]
        records.replace(settings.load(), tables.TRAINING_ATTEMPTS, tried_on, {"run_id": [run.run_id]})

    def _finish(self, context: Context, folder: Path, tried: Sequence[Attempt]) -> Any:
        from include.nightshift.promote import registry
        from include.nightshift.train.run import TrainingRun, finished

        run, result, installed = TrainingRun.load(folder), finished(folder), settings.load()
        if result is None:
            raise AirflowFailException(f"{folder}: the run ended well but its result is gone; clear this task to train again")
        use_case = usecase.load(run.use_case, installed)
        version = registry.register(installed, use_case, run.run_id, result["mlflow_run_id"], result["model_sha256"])
        experiment = registry.client(installed).get_experiment_by_name(run.experiment).experiment_id
        url = f"{installed.mlflow_url}/#/experiments/{experiment}/runs/{result['mlflow_run_id']}"
        context["ti"].xcom_push(key="mlflow_run_url", value=url)
        return {
            "run_folder": str(folder),
            "run_id": run.run_id,
            "model_version": version,
            "model_sha256": result["model_sha256"],
            "preemptions": sum(attempt.outcome == "preempted" for attempt in tried),
            "attempts": len(tried),
        }
