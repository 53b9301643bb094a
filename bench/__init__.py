"""Benches: one program per headline figure. `make bench NAME=x ARGS="…"` runs `bench/x.py`; see bench/README.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """A figure beside its target."""

    what: str
    seen: float
    target: float
    unit: str
    at_least: bool = False
    """Whether more is better."""

    @property
    def share(self) -> float:
        """Of its target that it takes; above 1 is short. A target of 0 is kept or missed, and 0 is short of any that is to be reached."""
        over, under = (self.target, self.seen) if self.at_least else (self.seen, self.target)
        return over / under if under else (math.inf if over else 0.0)

    def __str__(self) -> str:
        sign = "at least " if self.at_least else ""
        return f"{self.what:74} {self.seen:8.2f} {self.unit:3} target {sign}{self.target:g} {'ok' if self.share <= 1 else 'short'}"


def tell(taken: Mapping[str, Sequence[float]]) -> None:
    """Print what each way took in its rounds, in seconds."""
    for way, seconds in taken.items():
        print(f"  {way:24} median {median(seconds):7.2f} s   {' '.join(f'{second:.2f}' for second in seconds)}", flush=True)


def report(name: str, figures: Sequence[Figure]) -> int:
    """Print the figures and the closing line of a bench that has several; its exit code."""
    print("\n" + "\n".join(map(str, figures)))
    worst = max(figures, key=lambda figure: figure.share)
    verdict = "ok" if worst.share <= 1 else "short"
    print(f"{name}: {worst.share:.2f} (share of its target that '{worst.what}' takes) target 1 {verdict}")
    return 0 if worst.share <= 1 else 1
