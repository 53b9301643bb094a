"""Evidence: all that a gate may look at beside the two models: the held-out rows, the question, and where the candidate comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from include.nightshift.errors import NightError
from include.nightshift.promote import metrics
from include.nightshift.promote.question import Question

if TYPE_CHECKING:
    import numpy as np

FOLD_NIGHTS = 7
"""Nights of a fold, as published; what is left over at the end of the held-out nights belongs to the last one."""


@dataclass(frozen=True, eq=False)
class Fold:
    """The rows of some nights in a row that the protocol leaves, one entry per row."""

    rows: np.ndarray
    """Their places among the rows of the evidence."""
    day: np.ndarray
    entity: np.ndarray
    target: np.ndarray
    clusters: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class HeldOut:
    """The held-out rows of pinned tables, one entry per row, and what was known about their entities."""

    nights: int
    """So many, from `first_test_day` on."""
    day: np.ndarray
    """datetime64[D]."""
    entity: np.ndarray
    target: np.ndarray
    clusters: tuple[np.ndarray, ...] = ()
    """What else makes rows hang together, an identifier per row each (`UseCase.clusters`)."""
    known_fraud_day: np.ndarray
    """datetime64[D] of every positive row since `first_test_day - 2 * label_delay_days`."""
    known_fraud_entity: np.ndarray
    first_test_day: date
    label_delay_days: int
    list_size: int

    @property
    def last_test_day(self) -> date:
        return self.first_test_day + timedelta(days=self.nights - 1)

    @cached_property
    def folds(self) -> list[Fold]:
        """The rows that the protocol leaves (`metrics.undisclosed`), by fold.

        Raises:
            NightError: a row lies before the first test day.
        """
        import numpy as np

        after = (self.day.astype("datetime64[D]") - np.datetime64(self.first_test_day)).astype(int)
        if len(after) and after.min() < 0:
            raise NightError(f"the held-out nights begin with {self.first_test_day} and a row is of {self.day.min()}: pin the run again")
        count = max(1, self.nights // FOLD_NIGHTS)
        number = np.minimum(after // FOLD_NIGHTS, count - 1)
        return [self._fold(np.flatnonzero(number == fold), fold) for fold in range(count)]

    def _fold(self, rows: np.ndarray, number: int) -> Fold:
        first = self.first_test_day + timedelta(days=number * FOLD_NIGHTS)
        known = self.known_fraud_day, self.known_fraud_entity
        rows = rows[metrics.undisclosed(self.day[rows], self.entity[rows], *known, first, self.label_delay_days)]
        return Fold(rows, self.day[rows], self.entity[rows], self.target[rows], tuple(cluster[rows] for cluster in self.clusters))

    def measure(self, scores: np.ndarray) -> metrics.FoldMetrics:
        """What these scores reach by the published protocol: the mean over folds, rows, frauds and days in all.

        Raises:
            NotMaturedError: a fold lacks a class.
            ValueError: a score that is no finite number, or not one for each row.
        """
        import numpy as np

        if len(scores) != len(self.day):
            raise ValueError(f"{len(scores)} scores for {len(self.day)} rows are not aligned: score exactly the pinned rows")
        reached = [metrics.measured(fold.day, fold.entity, fold.target, scores[fold.rows], self.list_size) for fold in self.folds]
        return metrics.FoldMetrics(
            average_precision=float(np.mean([fold.average_precision for fold in reached])),
            roc_auc=float(np.mean([fold.roc_auc for fold in reached])),
            card_precision=float(np.mean([fold.card_precision for fold in reached])),
            rows=sum(fold.rows for fold in reached),
            frauds=sum(fold.frauds for fold in reached),
            days=sum(fold.days for fold in reached),
        )


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a candidate comes from, as it was found when it was judged; the gates say what of it is wrong."""

    contract: tuple[str, ...]
    """The features that are built by now."""
    trained_on: tuple[str, ...]
    """The features of its training rows, in their order."""
    reads: tuple[str, ...]
    """Those that the model says it reads, in its order."""
    repeats: float | None
    """Largest distance between its scores of the training's probe rows, now and then; None: there is no probe."""
    rows_first: date
    """The first and the last night that its training rows are of: what stands in them, not what was ordered."""
    rows_last: date
    champion_rows_last: date | None
    """The champion's last, as its report has it; None where nobody reigns or nobody knows."""
    leak_scan: tuple[bool, str] | None
    """Whether the features' code as it is was scanned for leaks and passed, and what was found; None: nobody scanned it."""
    parity: tuple[int, int, int]
    """Of the held-out nights: how many were scored, how many of those were compared with silver, and in how many it did not agree."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """All that a gate may look at beside the two models and the policy."""

    held: HeldOut
    question: Question
    provenance: Provenance
    judged_before: int
    """Other candidates that were judged on nights that overlap with these."""
    level: float
    """Chance of error that this candidate may take: `GatePolicy.error`, spent over all of them (`level`)."""


@dataclass(frozen=True, eq=False)
class Scored:
    """A model and what it says about the evidence's rows, aligned with them."""

    model_version: str
    model_sha256: str
    scores: np.ndarray


def level(error: float, judged_before: int) -> float:
    """The chance of error for the next candidate, so that all that are ever judged on the same nights share `error`.

    The k-th gets error * 6 / (pi k)^2, which sums to `error` however many come: nobody can try until luck lets something through. (A
    spending sequence, as in Foster & Stine, "Alpha-investing", JRSS B 70, 2008, that earns nothing back.)
    """
    return error * 6 / (math.pi * (judged_before + 1)) ** 2
