"""Children: what a run was made of, as runs nested in its MLflow run: a child for each machine that it had, and one for each trial.

A child is found by its tag, so one that an earlier telling began is gone on with and not told twice. None has the tag by which a run
itself is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from include.nightshift.spot.attempts import ledger
from include.nightshift.train import search, system
from include.nightshift.train.run import TrainingRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from include.nightshift.spot.attempts import Attempt
    from include.nightshift.train.search import Trial
    from include.nightshift.train.system import Sample

ATTEMPT_TAG = "nightshift.attempt"
TRIAL_TAG = "nightshift.trial"

SAMPLES = 500
"""Points of a figure that are told of a machine, at most: MLflow took a minute to be told a night's lines again, and draws fewer."""

_PARENT_TAG = "mlflow.parentRunId"
_PAGE = 500
_METRICS = 500
"""Points in a call; MLflow takes 1000 of all kinds together."""


@dataclass(frozen=True)
class Child:
    """A nested run, as it is to be told."""

    tag: str
    """The tag that tells it from its siblings, with `number`."""
    number: int
    name: str
    status: str
    began: int | None
    """Milliseconds since 1970; None where nobody wrote it down."""
    ended: int | None
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    samples: tuple[Sample, ...] = ()
    """How the machine fared."""


def of(folder: Path, run: TrainingRun) -> list[Child]:
    """The children of a finished run, `run` as it was pinned."""
    trials = search.outcome(folder).trials if run.recipe.search else ()
    fared = system.samples(folder)
    return [*(_attempt(attempt, fared) for attempt in ledger(folder)), *map(_trial, trials)]


def unclaimed(folder: Path) -> list[Sample]:
    """How machines fared that no ledger tells of: somebody started the trainer there by hand."""
    known = {attempt.attempt for attempt in ledger(folder)}
    return [sample for sample in system.samples(folder) if sample.attempt not in known]


def points(samples: Sequence[Sample]) -> list[Metric]:
    """One machine's samples as MLflow has those that it takes itself; where it trained for long, the means of several each."""
    from mlflow.entities import Metric

    together = max(1, -(-len(samples) // SAMPLES))
    parts = [samples[first : first + together] for first in range(0, len(samples), together)]
    return [
        Metric(f"system/{name}", fmean(sample.figures[name] for sample in part if name in sample.figures), milliseconds(part[-1].at), step)
        for step, part in enumerate(parts)
        for name in {name: None for sample in part for name in sample.figures}
    ]


def log(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    """Log points, however many; one that is there already changes nothing."""
    for first in range(0, len(metrics), _METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + _METRICS])


def sums(attempts: Sequence[Attempt]) -> dict[str, float]:
    """What a run's machines come to; nothing where it had none. `saved` is a share of the on-demand cost, absent where that is 0."""
    if not attempts:
        return {}
    cost, on_demand_cost = (sum(getattr(attempt, name) for attempt in attempts) for name in ("cost", "on_demand_cost"))
    told = {
        "attempts": float(len(attempts)),
        "preemptions": float(sum(attempt.outcome == "preempted" for attempt in attempts)),
        "spot_seconds": sum(attempt.seconds for attempt in attempts if not attempt.on_demand),
        "lost_seconds": sum(attempt.lost_seconds for attempt in attempts),
        "cost": cost,
        "on_demand_cost": on_demand_cost,
    }
    return told | ({"saved": 1 - cost / on_demand_cost} if on_demand_cost else {})


def tell(client: MlflowClient, parent: Any, children: Sequence[Child]) -> None:
    """Tell the children that the parent lacks, and those that an earlier telling did not end."""
    if not children:
        return
    from mlflow.entities import Metric, Param

    experiment, standing = parent.info.experiment_id, _standing(client, parent)
    for child in children:
        known = standing.get((child.tag, str(child.number)))
        if known is not None and known.info.status != "RUNNING":
            continue
        if known is None:
            tags = {**child.tags, child.tag: str(child.number), _PARENT_TAG: parent.info.run_id}
            known = client.create_run(experiment, start_time=child.began, tags=tags, run_name=child.name)
        # A time that does not move: logged twice, a point stays one.
        at = child.ended if child.ended is not None else known.info.start_time
        client.log_batch(known.info.run_id, params=[Param(name, value) for name, value in child.parameters.items()])
        log(client, known.info.run_id, [Metric(name, value, at, 0) for name, value in child.metrics.items()] + points(child.samples))
        client.set_terminated(known.info.run_id, child.status, child.ended)


def _standing(client: MlflowClient, parent: Any) -> dict[tuple[str, str], Any]:
    """Children that are there already, by tag and number."""
    query, page = f"tags.`{_PARENT_TAG}` = '{parent.info.run_id}'", None
    found: dict[tuple[str, str], Any] = {}
    while True:
        runs = client.search_runs([parent.info.experiment_id], query, max_results=_PAGE, page_token=page)
        found |= {(tag, run.data.tags[tag]): run for run in runs for tag in (ATTEMPT_TAG, TRIAL_TAG) if tag in run.data.tags}
        page = runs.token
        if not page:
            return found


def _attempt(attempt: Attempt, fared: Sequence[Sample]) -> Child:
    statuses = {"finished": "FINISHED", "preempted": "KILLED", "cancelled": "KILLED"}
    return Child(
        tag=ATTEMPT_TAG,
        number=attempt.attempt,
        name=f"attempt {attempt.attempt} on {attempt.machine}",
        status=statuses.get(attempt.outcome, "FAILED"),
        began=milliseconds(attempt.started_at),
        ended=milliseconds(attempt.ended_at),
        tags={f"nightshift.{name}": str(getattr(attempt, name)) for name in ("machine", "zone", "kind", "pool", "outcome", "on_demand")},
        parameters={},
        metrics={name: getattr(attempt, name) for name in ("seconds", "lost_seconds", "cost", "on_demand_cost")},
        samples=tuple(sample for sample in fared if sample.attempt == attempt.attempt),
    )


def _trial(trial: Trial) -> Child:
    told = {"average_precision": trial.average_precision, "seconds": trial.seconds, "cost": trial.cost}
    reason = {"nightshift.reason": trial.reason} if trial.reason else {}
    return Child(
        tag=TRIAL_TAG,
        number=trial.number,
        name=f"trial {trial.number}",
        status="FINISHED" if trial.state == "finished" else "FAILED",
        began=None,
        ended=None,
        tags={"nightshift.state": trial.state, **reason},
        parameters={name: str(value) for name, value in trial.parameters.items()},
        metrics={name: value for name, value in told.items() if value is not None},
    )


def milliseconds(moment: datetime) -> int:
    """As MLflow counts."""
    return int(moment.timestamp() * 1000)
