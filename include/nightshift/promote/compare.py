"""Compare: how far apart two models are on the same rows, and how sure that is.

Rows hang together: a customer's resemble each other, and so do those of a terminal that thieves hold. An error that takes rows for
independent is too small, and so is one that looks at customers alone: on a simulated world it said 0.0135 where weeks really scatter by
0.0163. The error here is a bootstrap over entities, drawn once for both models (paired: what both find hard cancels), times what other
clusters add to it (`_widening`), which on that world makes 0.0151.

Sources: Field & Welsh, "Bootstrapping clustered data", JRSS B 69 (2007); Efron & Tibshirani, "An Introduction to the Bootstrap" (1993),
chapter 6 for draws, 20 for the infinitesimal jackknife; Cameron, Gelbach, Miller, "Robust inference with multiway clustering", JBES 29
(2011), equation 2.11.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.nightshift.promote import metrics

if TYPE_CHECKING:
    import numpy as np

    from include.nightshift.promote.evidence import Fold

    Drawn = Callable[[np.ndarray], np.ndarray]
    """A measure of one model on one fold, by draw: from the entities' weights, (draws, entities), to (draws,)."""

DRAWS = 400
"""Bootstrap draws: for a standard error two hundred do (Efron & Tibshirani, 6.4); from so many it is within 3.5 % of that from all."""
BINS = 15
"""Of the calibration error, of equally many rows each."""
_AT_ONCE = 200
"""Draws that are held at once: memory is this times the entities, four bytes each."""
_BLOCK = 8192
"""Entities that are multiplied at a time: so the steps of a fold times these are held, however many there are."""
_SEED = 20260401


@dataclass(frozen=True)
class Difference:
    """Candidate less champion, in one measure."""

    candidate: float
    champion: float
    error: float
    """Standard error of the difference."""
    degrees: int
    """Of freedom: clusters with a positive row, less one. Few of them make a bound wider than a normal one."""

    @property
    def estimate(self) -> float:
        return self.candidate - self.champion

    def low(self, level: float) -> float:
        """The lower bound: it exceeds the true difference in a share `level` of cases."""
        return self.estimate - self._quantile(level) * self.error

    def high(self, level: float) -> float:
        """The upper bound: it falls short of the true difference in a share `level` of cases."""
        return self.estimate + self._quantile(level) * self.error

    def needed(self, level: float, power: float = 0.9) -> float:
        """The true difference at which the lower bound exceeds 0 with probability `power`."""
        return (self._quantile(level) + self._quantile(1 - power)) * self.error

    def _quantile(self, level: float) -> float:
        from scipy.stats import t

        return float(t.ppf(1 - level, self.degrees))


def average_precision(folds: Sequence[Fold], candidate: np.ndarray, champion: np.ndarray) -> Difference:
    """In average precision, the mean over folds.

    Args:
        folds: the rows, by fold, that the protocol leaves.
        candidate, champion: scores of all rows that the folds were taken from.

    Raises:
        NotMaturedError: a fold lacks a class.
        ValueError: scores that are no finite numbers.
    """
    import numpy as np

    entities = _entities(folds)
    figures = [np.mean([metrics.average_precision(fold.target, scores[fold.rows]) for fold in folds]) for scores in (candidate, champion)]
    ranked = [[_ranked(fold, scores[fold.rows], entities) for fold in folds] for scores in (candidate, champion)]
    error = _drawn_error(ranked, len(entities))
    # Not by the number of folds, as the mean would have it: what is asked of them is a ratio.
    apart = [_influence(fold.target, candidate[fold.rows]) - _influence(fold.target, champion[fold.rows]) for fold in folds]
    return Difference(float(figures[0]), float(figures[1]), error * _widening(folds, np.concatenate(apart)), _degrees(folds))


def card_precision(folds: Sequence[Fold], candidate: np.ndarray, champion: np.ndarray, list_size: int) -> Difference:
    """In card precision, the mean over folds; raises as `average_precision` does. Entities alone are drawn: they are what is listed."""
    import numpy as np

    entities = _entities(folds)
    figures = [
        np.mean([metrics.card_precision(fold.day, fold.entity, fold.target, scores[fold.rows], list_size) for fold in folds])
        for scores in (candidate, champion)
    ]
    listed = [[_listed(fold, scores[fold.rows], entities, list_size) for fold in folds] for scores in (candidate, champion)]
    return Difference(float(figures[0]), float(figures[1]), _drawn_error(listed, len(entities)), _degrees(folds))


def brier(folds: Sequence[Fold], candidate: np.ndarray, champion: np.ndarray) -> Difference:
    """In the mean squared error of the probabilities, over all rows: smaller is better."""
    import numpy as np

    losses = [np.concatenate([(scores[fold.rows] - fold.target) ** 2 for fold in folds]) for scores in (candidate, champion)]
    apart = losses[0] - losses[1]
    influence = (apart - apart.mean()) / len(apart)
    return Difference(float(losses[0].mean()), float(losses[1].mean()), _clustered_error(folds, influence), _degrees(folds))


def calibration_error(target: np.ndarray, scores: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error over the share of positives: 0.1 says that a tenth of them is promised where they are not.

    Over their share, because where one row in a hundred is positive a model that promises nothing at all has an expected calibration
    error of 0.01 (Naeini, Cooper, Hauskrecht, AAAI 2015, has it as such). Bins hold equally many rows.
    """
    import numpy as np

    order = np.argsort(scores, kind="stable")
    apart = [abs(part.sum()) for part in np.array_split((scores - target)[order], bins)]
    return float(np.sum(apart) / np.sum(target))


def _entities(folds: Sequence[Fold]) -> np.ndarray:
    import numpy as np

    entities: np.ndarray = np.unique(np.concatenate([fold.entity for fold in folds]))
    return entities


def _degrees(folds: Sequence[Fold]) -> int:
    """Of the kind of cluster that fewest of have a positive row."""
    import numpy as np

    kinds = zip(*(((fold.entity, *fold.clusters)) for fold in folds), strict=True)
    positive = [fold.target == 1 for fold in folds]
    return max(1, min(len(np.unique(np.concatenate([of[hit] for of, hit in zip(kind, positive, strict=True)]))) for kind in kinds) - 1)


# The bootstrap


def _drawn_error(models: Sequence[Sequence[Drawn]], entities: int) -> float:
    """Standard deviation over draws of the mean over folds, the first model's less the second's; a draw without a positive row has none."""
    import numpy as np

    apart = []
    for weights in _weights(entities):
        candidate, champion = (np.mean([drawn(weights) for drawn in folds], axis=0) for folds in models)
        apart.append(candidate - champion)
    return float(np.nanstd(np.concatenate(apart), ddof=1))


def _weights(entities: int) -> Iterator[np.ndarray]:
    """How often each entity is drawn, (draws, entities), some draws at a time; the same numbers at every call."""
    import numpy as np

    dice = np.random.default_rng(_SEED)
    for _ in range(DRAWS // _AT_ONCE):
        # Poisson draws are what drawing with replacement comes to, and need no memory of each other.
        yield dice.poisson(1.0, (_AT_ONCE, entities)).astype("float32")


def _ranked(fold: Fold, scores: np.ndarray, entities: np.ndarray) -> Drawn:
    """Average precision by draw. Rows are sorted once: a draw changes how much each counts, not where it stands; so what stands at or
    above each step is a product of matrices."""
    import numpy as np

    falling, step = _steps(fold.target, scores)
    whose = np.searchsorted(entities, fold.entity)
    every, found = (_counts(step[rows], whose[rows], len(falling)) for rows in (step < len(falling), fold.target == 1))

    def drawn(weights: np.ndarray) -> np.ndarray:
        hits = _weighed(found, weights)
        right, listed = np.cumsum(hits, axis=0), np.cumsum(_weighed(every, weights), axis=0)
        with np.errstate(invalid="ignore"):
            area: np.ndarray = np.sum(hits * np.nan_to_num(right / listed), axis=0) / right[-1]
        return area

    return drawn


def _counts(step: np.ndarray, whose: np.ndarray, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows by step and entity: blocks of entities that have any, each with its (steps, block)."""
    import numpy as np

    present, place = np.unique(whose, return_inverse=True)
    counts = []
    for first in range(0, len(present), _BLOCK):
        block, here = present[first : first + _BLOCK], (place >= first) & (place < first + _BLOCK)
        flat = np.bincount(step[here] * len(block) + place[here] - first, minlength=steps * len(block))
        counts.append((block, flat.reshape(steps, len(block)).astype("float32")))
    return counts


def _weighed(counts: Sequence[tuple[np.ndarray, np.ndarray]], weights: np.ndarray) -> np.ndarray:
    """Rows by step and draw; exact, as long as a fold has fewer than 16 million."""
    import numpy as np

    total: np.ndarray = np.sum([rows @ weights[:, block].T for block, rows in counts], axis=0, dtype="float64")
    return total


def _steps(target: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct scores of positive rows, falling, and for each row the first of them that is not above its own score; below all of
    them stands one step more."""
    import numpy as np

    falling = -np.unique(-scores[target == 1])
    return falling, np.searchsorted(-falling, -scores)


def _listed(fold: Fold, scores: np.ndarray, entities: np.ndarray, list_size: int) -> Drawn:
    """Card precision by draw: an entity that is drawn twice takes two places, and is found twice."""
    import numpy as np

    days = []
    for day in np.unique(fold.day):
        here = fold.day == day
        whose, place = np.unique(np.searchsorted(entities, fold.entity[here]), return_inverse=True)
        highest, positive = np.full(len(whose), -np.inf), np.zeros(len(whose), bool)
        np.maximum.at(highest, place, scores[here])
        np.logical_or.at(positive, place, fold.target[here] == 1)
        # Whoever stands far below the list comes onto it in no draw.
        top = np.lexsort((whose, -highest))[: 10 * list_size]
        days.append((whose[top], positive[top]))

    def drawn(weights: np.ndarray) -> np.ndarray:
        left, right = weights.copy(), np.zeros(len(weights))
        for whose, positive in days:
            held = left[:, whose]
            before = np.cumsum(held, axis=1) - held
            places = np.clip(list_size - before, 0, held) * positive
            right += places.sum(axis=1) / list_size
            # Found on one day, an entity is left out of all later ones.
            left[:, whose] = held - places
        return right / len(days)

    return drawn


# Clusters


def _influence(target: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """By how much average precision changes with the weight of each row, (rows,): the infinitesimal jackknife's values."""
    import numpy as np

    falling, step = _steps(target, scores)
    steps, positives = len(falling), int((target == 1).sum())
    every = np.cumsum(np.bincount(step, minlength=steps)[:steps])
    found = np.bincount(step[target == 1], minlength=steps)[:steps]
    right = np.cumsum(found)
    precision = right / every

    def from_here(values: np.ndarray) -> np.ndarray:
        """Sums over this step and all later ones; nothing comes after the last."""
        return np.append(np.cumsum(values[::-1])[::-1], 0.0)

    hit = target == 1
    influence = hit * from_here(found / every)[step] - from_here(found * right / every**2)[step]
    influence[hit] += precision[step[hit]] - np.sum(found * precision) / positives
    return influence / positives


def _widening(folds: Sequence[Fold], influence: np.ndarray) -> float:
    """What the other clusters add to an error that is clustered by entity alone, as a factor; never below 1."""
    alone = _variance(folds, influence, (0,))
    return 1.0 if alone <= 0 else max(1.0, _clustered_error(folds, influence) / alone**0.5)


def _clustered_error(folds: Sequence[Fold], influence: np.ndarray) -> float:
    """Standard error clustered by entity and by all other clusters at once: sums by each, less those by each two together, and so on.

    Where that is less than by one of them alone, which can happen by chance, it is that one.
    """
    kinds = range(1 + len(folds[0].clusters))
    sets = [chosen for size in range(1, len(kinds) + 1) for chosen in itertools.combinations(kinds, size)]
    variance = {chosen: _variance(folds, influence, chosen) for chosen in sets}
    together = sum((-1) ** (len(chosen) + 1) * value for chosen, value in variance.items())
    return float(max(together, *(variance[(kind,)] for kind in kinds)) ** 0.5)


def _variance(folds: Sequence[Fold], influence: np.ndarray, kinds: Sequence[int]) -> float:
    """The sum over clusters of the square of their influence; a cluster is what has the same identifiers of all these kinds.

    `influence`: of the folds' rows, one fold after another.
    """
    import numpy as np

    cluster = np.zeros(sum(len(fold.rows) for fold in folds), np.int64)
    for kind in kinds:
        values, place = np.unique(np.concatenate([(fold.entity, *fold.clusters)[kind] for fold in folds]), return_inverse=True)
        # One number for both, and then as few as there are: rows of numbers would be sorted byte by byte.
        _, cluster = np.unique(cluster * len(values) + place, return_inverse=True)
    return float(np.sum(np.bincount(cluster, weights=influence) ** 2))
