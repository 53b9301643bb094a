"""Validation: the last nights of the training rows judge what the nights before them have taught.

As the gate's held-out nights stand to training, so do these to a trial: as many nights lie between the two as verdicts take, so nobody
learns from a verdict that was unknown when the judged nights began, and the figure is that of the same protocol (`promote.metrics`). The
held-out nights themselves are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from include.nightshift.errors import NotMaturedError, TrainingFailedError
from include.nightshift.promote import metrics
from include.nightshift.train import run as folders
from include.nightshift.train.run import TrainingRun

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.train.models import Model


def split(first: date, last: date, label_delay_days: int, validation_nights: int) -> tuple[date, date]:
    """The last night that a trial learns from, and the first that judges it, of training nights `first` to `last`.

    Raises:
        NotMaturedError: too few nights.
    """
    judges = last - timedelta(days=validation_nights - 1)
    learnt = judges - timedelta(days=label_delay_days + 1)
    if learnt < first:
        raise NotMaturedError(
            f"the training nights {first} to {last} are too few for a search: {validation_nights} judge its trials, and verdicts take "
            f"{label_delay_days} more. Lower validation_nights, train without a search, or bring older nights by `backfill`"
        )
    return learnt, judges


def label_delay_days(run: TrainingRun) -> int:
    """How many nights verdicts take, as a run's own nights tell."""
    since_matured = (run.as_of - (run.holdout_last or run.train_last)).days
    return since_matured if run.holdout_first is None else max(since_matured, (run.holdout_first - run.train_last).days - 1)


def held_back(run: TrainingRun, validation_nights: int) -> TrainingRun:
    """The run as it would have been so much earlier: its last training nights are held out, and what follows them is unknown.

    Raises:
        NotMaturedError: too few nights.
    """
    delay = label_delay_days(run)
    learnt, judges = split(run.train_first, run.train_last, delay, validation_nights)
    known = run.train_last + timedelta(days=delay)
    return replace(run, train_last=learnt, holdout_first=judges, holdout_last=run.train_last, as_of=known)


@dataclass(frozen=True, eq=False)
class Validation:
    """The rows that judge trials, in the order of their key."""

    folder: Path
    """Of the whole run, whose training rows these are."""
    run: TrainingRun
    """The run `held_back`."""
    target: np.ndarray
    counts: np.ndarray
    """(rows,), which of them the protocol counts."""

    @classmethod
    def read(cls, folder: Path, run: TrainingRun) -> Validation:
        """Of a run `held_back`.

        Raises:
            TrainingFailedError: these nights cannot tell a good model from a bad one.
        """
        import pyarrow.compute as pc

        if run.holdout_first is None or run.holdout_last is None:
            raise TrainingFailedError(f"run {run.run_id} holds no nights back that could judge a trial: see `held_back`")
        delay = label_delay_days(run)
        begin = run.holdout_first - timedelta(days=2 * delay)
        known = folders.of_nights(folder / folders.TRAIN_ROWS, ["day", run.key, run.entity, run.target], begin, run.holdout_last)
        asked = known.filter(pc.field("day") >= run.holdout_first).sort_by(run.key)
        frauds = known.filter(pc.field(run.target) == 1)
        day, entity, target = _day(asked), asked.column(run.entity).to_numpy(), asked.column(run.target).to_numpy()
        counts = metrics.undisclosed(day, entity, _day(frauds), frauds.column(run.entity).to_numpy(), run.holdout_first, delay)
        positive = int(target[counts].sum())
        if not 0 < positive < counts.sum():
            raise TrainingFailedError(
                f"run {run.run_id}: the nights {run.holdout_first} to {run.holdout_last}, which judge trials, have {positive} positive of "
                f"{counts.sum()} rows that count: raise validation_nights, or train on more nights"
            )
        return cls(folder, run, target, counts)

    def average_precision(self, model: Model, threads: int) -> float:
        """How well a model ranks these rows.

        Raises:
            TrainingFailedError: its scores are no finite numbers.
        """
        seen = folders.judged(self.folder, self.run, model.context, held_in=folders.TRAIN_ROWS)
        score = model.score(seen.rows, seen.asked, threads=threads)
        if not np.isfinite(score).all():
            raise TrainingFailedError(f"{np.sum(~np.isfinite(score))} of {len(score)} scores of the validation rows are no finite numbers")
        return metrics.average_precision(self.target[self.counts], score[self.counts])


def _day(table: pa.Table) -> np.ndarray:
    days: np.ndarray = table.column("day").to_numpy().astype("datetime64[D]")
    return days
