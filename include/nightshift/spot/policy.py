"""Policy: when to train on spot, when to wait for it, and when to pay for on-demand so that the run comes in time.

The market is taken for a Markov chain that is known by its rates: how often a machine is taken away, how likely another place has one
at once, how long until some place has one again. Given the rates, the cheapest plan is exact, by backward induction (Bellman, *Dynamic
Programming*, 1957) over the time left, the work left and what runs. The rates are learnt from what this run and earlier ones met.

A wrong rate costs money and never the deadline: each rate lies strictly between 0 and 1, and what could come late costs infinitely much,
so no plan ever leaves less time than a fresh on-demand machine needs for the rest. Wu et al., "Can't Be Late: Optimizing Spot Instance
Savings under Deadlines" (NSDI 2024) pose the problem and have the rules of thumb that `bench/spot_policies.py` sets beside this one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from include.nightshift.errors import ConfigurationError
from include.nightshift.train.pace import MEAN_LIFE_SECONDS

if TYPE_CHECKING:
    import numpy as np

ON_DEMAND = "on-demand"
"""What runs, where it is no spot place."""

PRIOR_WEIGHT, PRIOR_LIFE_HOURS, PRIOR_DROUGHT_HOURS = 2.0, MEAN_LIFE_SECONDS / 3600, 0.5
"""Believed before anything was met: two machines lost in twice eight hours, two droughts of half an hour. Life or drought four times
as long moves the cost of the reference traces by 1 %."""

_STEPS = 256
"""A plan looks ahead in at most so many steps; a long job's are longer than the market's own."""

_EARLINESS = 0.01
"""What is paid, as a share of the rest, to be done sooner."""

# What runs, as a row of the plan's tables; from _STARTING on, a spot machine that works after 1, 2, … more steps.
_NONE, _SOME, _SPOT, _DEMAND_NONE, _DEMAND_SOME, _STARTING = range(6)


@dataclass
class Market:
    """What is known of the places where spot machines may be had: what they cost, and how they have behaved so far."""

    prices: Mapping[str, float]
    """Spot price of each place as a share of the on-demand price."""
    ran_hours: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    losses: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    droughts: int = 0
    """Times that a place gave a machine after all had refused."""
    drought_hours: float = 0.0
    _dry: bool = False

    def __post_init__(self) -> None:
        if not self.prices or min(self.prices.values()) <= 0:
            raise ConfigurationError(f"spot prices {dict(self.prices)}: a market has places, each with a price above 0")

    def ran(self, place: str, hours: float) -> None:
        """A spot machine was ours there for so long."""
        self.ran_hours[place] += hours

    def lost(self, place: str) -> None:
        """It was taken away."""
        self.losses[place] += 1

    def asked(self, refused: Iterable[str], given: str | None, hours: float) -> None:
        """Places were asked for a machine; `hours` until they are asked again, should all have refused."""
        self.refused.update(refused)
        if given is not None:
            self.given[given] += 1
            self.droughts += self._dry
        else:
            self.drought_hours += hours
        self._dry = given is None

    def loss_rate(self, place: str) -> float:
        """Losses an hour, the mean of a gamma posterior."""
        return (PRIOR_WEIGHT + self.losses[place]) / (PRIOR_WEIGHT * PRIOR_LIFE_HOURS + self.ran_hours[place])

    @property
    def return_rate(self) -> float:
        """Ends of a drought an hour, the mean of a gamma posterior."""
        return (PRIOR_WEIGHT + self.droughts) / (PRIOR_WEIGHT * PRIOR_DROUGHT_HOURS + self.drought_hours)

    def another(self, place: str) -> float:
        """The chance that when a machine is lost at a place, one of the others gives one at once; they are taken for independent."""
        refusals = [
            (0.5 + self.refused[other]) / (2.5 + self.refused[other] + self.given[other]) for other in self.prices if other != place
        ]
        return 1 - math.prod(refusals)

    def ranked(self, changeover_hours: float) -> list[str]:
        """The places, cheapest first by what a useful hour costs there: the price, and the changeovers that losses bring."""
        return sorted(self.prices, key=lambda place: self.prices[place] * (1 + self.loss_rate(place) * changeover_hours))


@dataclass(frozen=True)
class Wish:
    """What to do now."""

    places: tuple[str, ...]
    """Ask these for a spot machine, in this order, and move to the first that gives one. Empty: ask nobody."""
    otherwise: Literal["keep", "wait", "on_demand"]
    """What to do where none gave one: go on with what runs, let nothing run, or run on demand."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans one run. Hours throughout; a changeover is what a fresh machine takes until it works, and is paid for."""

    market: Market
    hours: float
    """Until the deadline, at the most that will be asked."""
    work_hours: float
    """Work, at the most that will be asked."""
    changeover_hours: float
    tick_hours: float
    """How often it is asked."""

    def __post_init__(self) -> None:
        if min(self.hours, self.work_hours, self.tick_hours) <= 0 or self.changeover_hours < 0:
            raise ConfigurationError(
                f"a run needs time, work and ticks above 0, not {self.hours}, {self.work_hours}, {self.tick_hours} hours"
            )

    @property
    def step_hours(self) -> float:
        """The plan's own step: whole ticks."""
        return self.tick_hours * max(1, math.ceil(self.hours / self.tick_hours / _STEPS))

    def wish(self, hours_left: float, work_left: float, running: str | None, starting_hours: float = 0.0) -> Wish:
        """What to do with so much time and work left.

        Args:
            hours_left: until the deadline.
            work_left: hours that a machine which works needs for the rest.
            running: a place, `ON_DEMAND`, or None.
            starting_hours: until what runs works.
        """
        step = self.step_hours
        # Rounded against us: time down, work and changeovers up.
        left, work, changeover, starting = (
            _whole(hours_left / step, math.floor),
            _whole(work_left / step, math.ceil),
            max(1, _whole(self.changeover_hours / step, math.ceil)),
            _whole(starting_hours / step, math.ceil),
        )
        if running == ON_DEMAND and starting:
            return Wish((), "keep")
        if running not in (None, ON_DEMAND) and not starting:
            return Wish((), "keep")
        order = self.market.ranked(self.changeover_hours)
        rates = self._rates(order[0])
        size = (_whole(self.hours / step, math.ceil), _whole(self.work_hours / step, math.ceil), changeover)
        if not 0 < left <= size[0] or work > size[1]:
            return Wish((), "keep" if running == ON_DEMAND else "on_demand")
        table = _solve(*size, rates)
        now, then = table[left], table[left - 1]
        demand = _on_demand(table, left, rates)[work]
        if running not in (None, ON_DEMAND):
            return Wish((), "on_demand" if demand <= now[_STARTING + starting - 1][work] else "keep")
        spot = now[_STARTING + changeover - 1][work]
        if running == ON_DEMAND:
            stay = 1 + _mixed(then, _DEMAND_SOME, _DEMAND_NONE, 1 - rates.loss)[work - 1]
            return Wish(tuple(order) if spot < stay else (), "keep")
        wait = _mixed(then, _SOME, _NONE, rates.comes_back)[work]
        wait_though = _mixed(then, _SOME, _NONE, 1 - rates.loss)[work]
        # Strictly below on-demand: in the table a start may be given up in its first step and so never costs more; asked for, it has begun.
        # With time to spare, waiting though there is a machine costs as much as starting, and the run would end later for nothing.
        worth = spot < demand and spot <= wait_though * (1 + _EARLINESS)
        # All infinite: time is short even for on-demand, which then is the least late.
        return Wish(tuple(order) if worth else (), "wait" if wait < demand else "on_demand")

    def _rates(self, place: str) -> _Rates:
        def chance(per_hour: float) -> float:
            return -math.expm1(-per_hour * self.step_hours)

        market = self.market
        return _Rates(
            loss=_coarse(chance(market.loss_rate(place))),
            another=_coarse(market.another(place)),
            comes_back=_coarse(chance(market.return_rate)),
            price=market.prices[place],
        )


class _Rates(NamedTuple):
    """Chances per step, and the price."""

    loss: float
    another: float
    comes_back: float
    price: float


@lru_cache(maxsize=16)
def _solve(steps: int, work: int, changeover: int, rates: _Rates) -> np.ndarray:
    """Expected cost, (steps left, what runs, work left), in on-demand prices of a step.

    A row says what is known once this step's losses and offers are: a machine that stands there is ours for this step.
    """
    import numpy as np

    table = np.full((steps + 1, _STARTING + changeover, work + 1), np.inf, dtype="float32")
    table[:, :, 0] = 0
    for left in range(1, steps + 1):
        now, then = table[left, :, 1:], table[left - 1]
        done, same = then[:, :-1], then[:, 1:]  # after a step of work, and after one without
        lost = _mixed(then, _SOME, _NONE, rates.another)
        now[_SPOT] = rates.price + (1 - rates.loss) * done[_SPOT] + rates.loss * lost[:-1]
        for wait in range(changeover):
            arrived = same[_STARTING + wait - 1] if wait else same[_SPOT]
            now[_STARTING + wait] = rates.price + (1 - rates.loss) * arrived + rates.loss * lost[1:]
        demand = _on_demand(table, left, rates)[1:]
        # A machine that still starts may be given up for one that will be there.
        np.minimum(now[_STARTING:], demand, out=now[_STARTING:])
        spot = now[_STARTING + changeover - 1]
        now[_NONE] = np.minimum(demand, _mixed(same, _SOME, _NONE, rates.comes_back))
        now[_SOME] = np.minimum(np.minimum(demand, spot), _mixed(same, _SOME, _NONE, 1 - rates.loss))
        now[_DEMAND_NONE] = 1 + _mixed(done, _DEMAND_SOME, _DEMAND_NONE, rates.comes_back)
        now[_DEMAND_SOME] = np.minimum(spot, 1 + _mixed(done, _DEMAND_SOME, _DEMAND_NONE, 1 - rates.loss))
    return table


def _on_demand(table: np.ndarray, left: int, rates: _Rates) -> np.ndarray:
    """Expected cost of starting an on-demand machine now, by work left."""
    changeover = table.shape[1] - _STARTING
    if left < changeover:
        return table[0, _NONE]  # as with no time left: whatever is still to do comes late
    # Whether spot is to be had by then: as often as in the long run.
    some = rates.comes_back / (rates.comes_back + rates.loss)
    return changeover + _mixed(table[left - changeover], _DEMAND_SOME, _DEMAND_NONE, some)


def _mixed(rows: np.ndarray, one: int, other: int, chance: float) -> np.ndarray:
    return chance * rows[one] + (1 - chance) * rows[other]


def _coarse(chance: float) -> float:
    """To the next of 4 values in e, and within (0, 1): plans for nearly the same rates are one plan, solved once."""
    return min(max(math.exp(round(math.log(max(chance, 1e-9)) * 4) / 4), 1e-4), 0.95)


def _whole(steps: float, rounded: Callable[[float], int]) -> int:
    """Rounded, but 3.0000000004 is 3."""
    near = round(steps)
    return near if math.isclose(steps, near, abs_tol=1e-6) else rounded(steps)
