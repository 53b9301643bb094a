"""Shares of cases that are not independent, such as many weeks of few simulated worlds, with bounds that hold where nothing was seen.

Bounds are Clopper and Pearson's on an effective number of cases: their number over the worlds' design effect, reduced for the few degrees
of freedom that it is estimated with (Korn & Graubard, "Confidence intervals for proportions with small expected number of positive
counts estimated from survey data", Survey Methodology 24, 1998). They are one-sided, at 95 %. A bootstrap over worlds would say that what
was never seen never happens.

How much cases of a world resemble each other cannot be told from cases of which none, or nearly none, are so; then it is for the caller to
say, from where it was seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
FEWEST = 5
"""Cases that are so, and that are not, from which on their likeness within worlds is estimated."""


@dataclass(frozen=True, eq=False)
class Share:
    """Of how many cases something is so."""

    so: np.ndarray
    world: np.ndarray
    """Each case's."""

    @classmethod
    def of(cls, cases: Iterable[tuple[int, bool]]) -> Share:
        """From each case's world, and whether it is so."""
        world, so = zip(*cases, strict=True)
        return cls(np.array(so, float), np.array(world))

    @property
    def cases(self) -> int:
        return len(self.so)

    @property
    def seen(self) -> float:
        return float(self.so.mean())

    def likeness(self) -> float | None:
        """The correlation of two cases of a world; None where there are too few to tell, or one world."""
        sizes, apart = self._by_world(self.so - self.seen)
        if not FEWEST <= self.so.sum() <= self.cases - FEWEST or len(sizes) < 2:
            return None
        variance = len(sizes) / (len(sizes) - 1) * np.sum(apart**2) / self.cases**2
        effect = variance * self.cases / (self.seen * (1 - self.seen))
        return float((effect - 1) / max(1e-9, np.sum(sizes**2) / self.cases - 1))

    def effective(self, likeness: float) -> float:
        """So many independent cases would tell as much; a likeness below 0 is taken for chance."""
        from scipy.stats import t

        sizes, _ = self._by_world(self.so)
        effect = 1 + (np.sum(sizes**2) / self.cases - 1) * max(0.0, likeness)
        if len(sizes) < 2:
            return 1.0
        return float(self.cases / effect * (t.ppf(LEVEL, self.cases - 1) / t.ppf(LEVEL, len(sizes) - 1)) ** 2)

    def upper(self, likeness: float) -> float:
        """What the true share exceeds in one of twenty such studies."""
        from scipy.stats import beta

        cases = self.effective(likeness)
        return float(beta.ppf(LEVEL, self.seen * cases + 1, (1 - self.seen) * cases)) if self.seen < 1 else 1.0

    def lower(self, likeness: float) -> float:
        """What the true share falls short of in one of twenty such studies."""
        from scipy.stats import beta

        cases = self.effective(likeness)
        return float(beta.ppf(1 - LEVEL, self.seen * cases, (1 - self.seen) * cases + 1)) if self.seen > 0 else 0.0

    def _by_world(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many cases each world has, and the sum of a value over them."""
        _, place = np.unique(self.world, return_inverse=True)
        return np.bincount(place), np.bincount(place, value)
