"""Pairs of a candidate and a champion whose true difference is known, for `bench.gates`.

Two models of a simulated world differ by what they differ. The better one is made worse by noise on its logits until the difference in
average precision, the mean over all fresh weeks, is the one that is wanted. A third of the noise's variance is a row's own, a third is its
customer's of that week and a third its terminal's: models are wrong about people and places, not about single rows. Afterwards both are
calibrated, for noise makes a model overconfident, and that is another gate's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.worlds import Fresh

KINDS = {"features": ("more", "span"), "recipe": ("span", "week"), "dice": ("more", "twin")}
"""What candidate and champion differ in, beside the noise; and their models."""
STEP, LIMIT = 2.0**-18, 32.0
"""Logits are multiples of this, from minus to plus that; whatever noise takes beyond ends there. So all who rank them see the same ties."""
BITS = 25
"""Of a logit, when rows are sorted; a week's number and a verdict fit beside them into 32."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """A model of a world: logits of all rows, what calibrates them, and the average precision of each fresh week."""

    logit: np.ndarray
    fit: tuple[float, float]
    """To be added to the logits, after they are multiplied."""
    weekly: np.ndarray

    @property
    def worth(self) -> float:
        return float(self.weekly.mean())

    def scores(self, rows: slice) -> np.ndarray:
        """Probabilities."""
        added, times = self.fit
        return 1 / (1 + np.exp(-added - times * self.logit[rows].astype(np.float64)))


@dataclass(frozen=True, eq=False)
class Pair:
    kind: str
    candidate: Ranked
    champion: Ranked

    @property
    def difference(self) -> float:
        """The true one."""
        return self.candidate.worth - self.champion.worth

    def seen(self, first: int, weeks: int) -> float:
        """The difference in some weeks from the first."""
        here = slice(first, first + weeks)
        return float((self.candidate.weekly - self.champion.weekly)[here].mean())


class Ground:
    """A world on which models can be made worse. Of its rows, those count that the protocol leaves."""

    def __init__(self, fresh: Fresh) -> None:
        self.fresh = fresh
        self.left = np.flatnonzero(fresh.left)
        week = fresh.day[self.left] // 7
        self.starts = np.searchsorted(week, np.arange(fresh.weeks))
        self.target = fresh.target[self.left]
        # Sorted as whole numbers, all weeks come in one go: an order of magnitude faster than by week and logit.
        self._tag = week.astype(np.uint32) << (BITS + 1) | self.target.astype(np.uint32)

    @cached_property
    def noise(self) -> np.ndarray:
        """One number per row, of variance 1; the same at every call."""
        fresh, dice = self.fresh, np.random.default_rng([self.fresh.seed, 1])
        noise = dice.standard_normal(len(fresh.day), np.float32)
        for whose in (fresh.entity, fresh.terminal):
            noise += dice.standard_normal((fresh.weeks, int(whose.max()) + 1), np.float32)[fresh.day // 7, whose]
        return noise / np.float32(3**0.5)

    def weekly(self, logit: np.ndarray) -> np.ndarray:
        """Average precision by week, as `metrics.average_precision` has it, from the logits of the rows that are left."""
        falling = ((LIMIT - _stepped(logit)) * (1 / STEP)).astype(np.uint32)
        key = np.sort(self._tag | falling << 1)
        hit = np.flatnonzero(key & 1)
        week = key[hit] >> (BITS + 1)
        # Among equals, the frauds come last: what stands at or above a fraud ends with the last of its like.
        end = np.searchsorted(key, key[hit], "right")
        before = np.searchsorted(week, np.arange(len(self.starts)))
        precision = (np.searchsorted(hit, end) - before[week]) / (end - self.starts[week])
        return np.bincount(week, precision) / np.bincount(week)

    def pair(self, kind: str, difference: float) -> Pair:
        """A candidate that is better by the difference, or worse where that is below 0.

        Raises:
            ValueError: no noise makes the better one so bad.
        """
        ends = [self.fresh.logit[name] for name in KINDS[kind]]
        candidate, champion = (float(self.weekly(logit[self.left]).mean()) for logit in ends)
        if candidate - champion > difference:
            return Pair(kind, self._worsened(ends[0], champion + difference), self._calibrated(ends[1]))
        return Pair(kind, self._calibrated(ends[0]), self._worsened(ends[1], candidate - difference))

    def _worsened(self, logit: np.ndarray, worth: float) -> Ranked:
        """With just the noise that leaves it this average precision."""
        from scipy.optimize import brentq

        bare, noise = logit[self.left], self.noise[self.left]

        def above(variance: float) -> float:
            return float(self.weekly(bare + np.float32(variance**0.5) * noise).mean()) - worth

        most = 0.5
        while above(most) > 0:
            most *= 2
            if most > 8:
                raise ValueError(f"an average precision of {worth:.4f} is out of reach: take another pair of models")
        variance = brentq(above, 0.0, most, xtol=1e-5, rtol=1e-5)
        return self._calibrated(logit + np.float32(variance**0.5) * self.noise)

    def _calibrated(self, logit: np.ndarray) -> Ranked:
        """Moved and stretched, so that its probabilities fit the rows that are left: their order stays (Platt's scaling)."""
        logit = _stepped(logit)
        left = logit[self.left]
        place = np.clip((left + LIMIT) * (2048 / LIMIT), 0, 4095).astype(np.int64)
        rows, frauds = np.bincount(place, minlength=4096), np.bincount(place, self.target, 4096)
        at = (np.arange(4096) + 0.5) * (LIMIT / 2048) - LIMIT
        terms, fit = np.stack([np.ones(4096), at]), np.array([0.0, 1.0])
        for _ in range(8):  # Newton's steps; from a model that is roughly right, five do.
            promised = 1 / (1 + np.exp(-fit @ terms))
            curve = (terms * (rows * promised * (1 - promised))) @ terms.T
            fit = fit + np.linalg.solve(curve, terms @ (frauds - rows * promised))
        return Ranked(logit, (float(fit[0]), float(fit[1])), self.weekly(left))


def _stepped(logit: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(logit * np.float32(1 / STEP)) * np.float32(STEP), -LIMIT, LIMIT)
