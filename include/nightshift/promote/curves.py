"""Curves: what a report's page draws, computed when the candidate is judged, while the scores are at hand; nothing is decided by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from include.nightshift.errors import NotMaturedError
from include.nightshift.promote import compare
from include.nightshift.promote.evidence import FOLD_NIGHTS

if TYPE_CHECKING:
    import numpy as np

    from include.nightshift.promote.evidence import Evidence, Fold, Scored

POINTS = 200
"""Of a curve, at most."""
BINS = 10

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One model on the rows that the protocol leaves."""

    model_version: str
    ranking: tuple[Point, ...]
    """Recall and precision, from the highest score down."""
    reliability: tuple[Point, ...]
    """What it promised and what there was, the mean of each of some bins that it promises equally many positives in."""


@dataclass(frozen=True)
class Week:
    """How far the two are apart in one fold, in average precision."""

    first: str
    estimate: float
    low: float
    high: float
    """Bounds of 95 %."""


@dataclass(frozen=True)
class Curves:
    """The drawings of one report."""

    models: tuple[Curve, ...]
    """The candidate, and the champion where there is one."""
    weeks: tuple[Week, ...]
    """None where there is no champion."""


def curves(evidence: Evidence, candidate: Scored, champion: Scored | None) -> Curves:
    """The drawings of a judgement; a fold that cannot be compared is left out.

    Raises:
        ValueError: scores that are not one for each row.
    """
    shown = [candidate] if champion is None else [candidate, champion]
    weeks = [] if champion is None else _weeks(evidence, candidate.scores, champion.scores)
    return Curves(tuple(_curve(evidence.held.folds, scored) for scored in shown), tuple(weeks))


def _curve(folds: Sequence[Fold], scored: Scored) -> Curve:
    import numpy as np

    target = np.concatenate([fold.target for fold in folds])
    scores = np.concatenate([scored.scores[fold.rows] for fold in folds])
    falling = np.argsort(-scores, kind="stable")
    found = np.cumsum(target[falling])
    # At each positive row, and of those as many as fit.
    hits = np.flatnonzero(target[falling])
    hits = hits[np.unique(np.linspace(0, len(hits) - 1, min(POINTS, len(hits))).astype(int))] if len(hits) else hits
    ranking = zip(found[hits] / max(1, found[-1]), found[hits] / (hits + 1), strict=True)
    promised = np.cumsum(scores[falling])
    parts = np.minimum((promised / promised[-1] * BINS).astype(int), BINS - 1) if promised[-1] > 0 else np.zeros(len(scores), int)
    reliability = []
    for part in np.unique(parts):
        rows = falling[parts == part]
        reliability.append((float(scores[rows].mean()), float(target[rows].mean())))
    return Curve(scored.model_version, tuple((float(recall), float(precision)) for recall, precision in ranking), tuple(reliability))


def _weeks(evidence: Evidence, candidate: np.ndarray, champion: np.ndarray) -> list[Week]:
    weeks = []
    for number, fold in enumerate(evidence.held.folds):
        first = evidence.held.first_test_day + timedelta(days=FOLD_NIGHTS * number)
        try:
            apart = compare.average_precision([fold], candidate, champion)
        except NotMaturedError:
            continue
        weeks.append(Week(first.isoformat(), apart.estimate, apart.low(0.025), apart.high(0.025)))
    return weeks
