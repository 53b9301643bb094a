"""Space: where a search looks for a better recipe, and what it may cost, as frozen data. Importing this costs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from include.nightshift.errors import ConfigurationError

Value: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class Between:
    """Every number from `low` to `high`, both included; whole ones for a field that holds whole numbers."""

    low: float
    high: float
    log: bool = False
    """Look as closely between 1 and 2 as between 10 and 20: for rates, and whatever counts by its order of magnitude."""

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ConfigurationError(f"search: between {self.low} and {self.high} lies nothing; write Between(low, high) with low < high")
        if self.log and self.low <= 0:
            raise ConfigurationError(f"search: a logarithm begins above 0, not at {self.low}: raise low, or leave log out")

    @property
    def ends(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    def holds(self, value: Value) -> bool:
        return not isinstance(value, str) and self.low <= value <= self.high


@dataclass(frozen=True)
class OneOf:
    """Each of these, in no order: names, switches, or the few numbers that make sense."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if len(set(self.values)) < max(2, len(self.values)):
            raise ConfigurationError(f"search: one of {self.values} is no choice: give at least two values, each once")

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.values

    def holds(self, value: Value) -> bool:
        return value in self.values


@dataclass(frozen=True, kw_only=True)
class Search:
    """Try variants of the recipe on its training rows, then train the best of them on all of these (`train.search`).

    The first trial is the recipe as it stands, so that the best is never behind it. A search of nothing is that one trial: what the recipe
    reaches on the validation nights.
    """

    space: Mapping[str, Between | OneOf] = field(default_factory=dict)
    """What is looked for, by field of the recipe."""
    trials: int = 1
    """As many at most."""
    seconds: float | None = None
    """Training time that trials may take together: none begins that, as long as they took on average, would go beyond. None: any."""
    money: float | None = None
    """The same for their cost, in the currency of the machine's price."""
    validation_nights: int = 7
    """So many of the last training nights judge trials; what trains them ends as long before as verdicts take."""

    def __post_init__(self) -> None:
        if self.trials < 1 or self.validation_nights < 1:
            raise ConfigurationError(f"search: trials and validation_nights are at least 1, not {self.trials} and {self.validation_nights}")
        for name in ("seconds", "money"):
            budget = getattr(self, name)
            if budget is not None and not 0 < budget < math.inf:
                raise ConfigurationError(f"search: {name} is above 0, not {budget}; leave it out where any amount will do")
        if not self.space and self.trials > 1:
            raise ConfigurationError(f"search: {self.trials} trials of the same recipe: name in `space` what may vary, or ask for one")


def check(search: Search, own: Mapping[str, Value], types: Mapping[str, type]) -> None:
    """Refuse a space that does not fit a recipe, whose own values and types of fields these are.

    Raises:
        ConfigurationError: an unknown field, values of another type, or a space without the recipe's own value.
    """
    for name, values in search.space.items():
        if name not in own:
            raise ConfigurationError(f"search: {name!r} is no field that can be searched; those are {', '.join(sorted(own))}")
        wanted = types[name]
        if isinstance(values, Between) and wanted not in (int, float):
            raise ConfigurationError(f"search: {name} is no number: write OneOf")
        if wrong := [value for value in values.ends if not _is(value, wanted)]:
            raise ConfigurationError(f"search: {name} holds {wanted.__name__}, and {wrong} do not fit: change its space")
        if not values.holds(own[name]):
            raise ConfigurationError(
                f"search: the recipe's own {name} is {own[name]}, outside {values}, and is tried first: widen the space, or change it"
            )


def _is(value: Value, wanted: type) -> bool:
    # True is an int to Python, and 1 a float to everybody else.
    return type(value) in ((int, float) if wanted is float else (wanted,))


def of(told: Mapping[str, Any]) -> Search:
    """A search from what JSON made of its fields.

    Raises:
        ConfigurationError: it cannot be.
    """
    space = {name: OneOf(**values) if "values" in values else Between(**values) for name, values in told.get("space", {}).items()}
    return Search(**dict(told) | {"space": space})
