"""A verdict is a value: what a gate decided, why, and on which figures. Safe for JSON, XCom, MLflow tags and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One gate's decision.

    Raises:
        ValueError: it decides nothing (`passed` is no bool), gives no reason, or has a figure that is no finite number.
    """

    gate: str
    passed: bool
    reasons: tuple[str, ...]
    """At least one sentence, for a pass as well: what was seen against what was asked."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured; finite numbers only, kept as plain floats."""
    waits: bool = False
    """What is missing comes with time: not passed, and no rejection."""

    def __post_init__(self) -> None:
        reasons = (self.reasons,) if isinstance(self.reasons, str) else tuple(str(reason) for reason in self.reasons)
        figures = {name: float(figure) for name, figure in self.figures.items()}
        if not any(reason.strip() for reason in reasons):
            raise ValueError(f"verdict of {self.gate}: no reason given; write what was seen against what was asked")
        for name, figure in figures.items():
            if not math.isfinite(figure):
                raise ValueError(
                    f"verdict of {self.gate}: figure {name} is {figure}; leave out what cannot be measured and say so in a reason"
                )
        if not isinstance(self.passed, bool):
            raise ValueError(
                f"verdict of {self.gate}: passed={self.passed!r} is no bool; say True or False, anything else might be read as a pass"
            )
        if self.passed and self.waits:
            raise ValueError(f"verdict of {self.gate}: it passed, so there is nothing to wait for")
        object.__setattr__(self, "reasons", reasons)
        object.__setattr__(self, "figures", figures)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: what `Verdict(**json.loads(json.dumps(…)))` reads back equal."""
        return {**asdict(self), "reasons": list(self.reasons)}
