"""Pace: how often to save. Young, "A first order approximation to the optimum checkpoint interval" (CACM 1974): the square root of
twice the cost of a save times the time between failures; and never so seldom that more work is at risk than the run allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

AT_RISK_SECONDS = 60.0
"""Work that a kill may cost, unless told otherwise."""

MEAN_LIFE_SECONDS = 8 * 3600.0
"""How long a spot machine is taken to live, before anything is known of its market."""


class Pace:
    """Says after each stretch whether to save, by what saves and stretches have taken so far."""

    def __init__(self, at_risk_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`at_risk_seconds`: work that may have to be done again; a single stretch may take longer, and 0 saves after each."""
        self._at_risk, self._clock = at_risk_seconds, clock
        self._saved_at = self._began = clock()
        self._stretch = self._cost = 0.0

    @property
    def interval(self) -> float:
        """Seconds of work between saves; 0 until a save was measured."""
        return min(self._at_risk, math.sqrt(2 * self._cost * MEAN_LIFE_SECONDS))

    def stretched(self) -> float:
        """A stretch is done; returns what it took."""
        now = self._clock()
        took, self._began = now - self._began, now
        self._stretch = max(self._stretch, took)
        return took

    @property
    def due(self) -> bool:
        """Whether another stretch before the next save would put more than an interval at risk."""
        return self._clock() - self._saved_at + self._stretch > self.interval

    def saved(self) -> float:
        """A save, begun when the last stretch was done, is through; returns what it took."""
        now = self._clock()
        cost = now - self._began
        # The dearest counts: a disk that was slow once may be again.
        self._cost = max(self._cost, cost)
        self._saved_at = self._began = now
        return cost
