"""The simulated world: its customers and terminals on a map, what they do each day, and who defrauds them how.

A `World` is all there is to choose; `Simulator` lives it day by day, with the truth. Every day is drawn from seeds of its
own, so a day is the same whether it is lived alone, in a range, or years later. (numpy promises its streams within a
version, not across them.) Who hears of a fraud, and when, is not decided here: see `reporting`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import IntEnum
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from include.nightshift.errors import ConfigurationError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Change = Literal["harmful", "benign"]

EPOCH = date(2000, 1, 1)
"""Day 0 of every world; seeds and transaction ids count from it."""
IDS_PER_DAY = 1_000_000


class Kind(IntEnum):
    """The hidden truth of a transaction: genuine, or one of the ways to steal."""

    GENUINE = 0
    LARGE = 1
    """An implausibly large amount."""
    TERMINAL = 2
    """Paid at a compromised terminal."""
    CARD = 3
    """A compromised card, charged far beyond its owner's habit."""
    BURST = 4
    """A compromised card, milked in small sums at night."""


@dataclass(frozen=True, kw_only=True)
class Frauds:
    """How thieves work. Shares, not counts: a small world has the fraud of a large one. Ranges include both ends."""

    large_share: float = 0.0005
    """Of the everyday transactions."""
    large_amount: tuple[float, float] = (350.0, 1500.0)
    """In currency."""
    terminal_share: float = 0.0002
    """Of the terminals, newly compromised each day."""
    terminal_days: tuple[int, int] = (18, 32)
    """How long a terminal stays compromised."""
    terminal_hit: float = 0.95
    """Of the transactions at a compromised terminal, so many are fraud."""
    card_share: float = 0.0007
    """Of the cards, newly compromised each day."""
    card_days: tuple[int, int] = (14, 14)
    """How long a card stays compromised."""
    card_hit: float = 0.33
    """Of the transactions on a compromised card, so many are fraud."""
    card_factor: tuple[float, float] = (3.5, 6.0)
    """By so much they exceed what the owner would have paid."""
    burst_chance: float = 0.0
    """That a compromised card suffers a burst on a given night."""
    burst_size: tuple[int, int] = (5, 9)
    """Transactions in a burst."""
    burst_amount: tuple[float, float] = (1.0, 12.0)
    """In currency, each."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                if not 0 < value[0] <= value[1]:
                    raise ConfigurationError(f"frauds: {name}={value} is no range: write (lower, upper), above 0")
            elif not 0 <= value <= 1:
                raise ConfigurationError(f"frauds: {name}={value} is a share: 0..1")


AFTER_HARM = Frauds(terminal_days=(7, 14), terminal_hit=0.5, card_hit=0.0, burst_chance=0.25)
"""As many cards and terminals fall, but they are used otherwise: every other payment at a terminal for a week or two,
small sums at night on cards."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Who lives, how they pay and how they are robbed. Nothing of it may be known to features or models."""

    seed: int = 7
    customers: int = 5_000
    """One card each."""
    terminals: int = 10_000
    daily_rate: float = 2.0
    """Transactions of a customer a day, the mean over customers."""
    terminals_per_km2: float = 1.0
    """Sets the size of the (square) map."""
    town_share: float = 0.5
    """Of customers and terminals, so many gather in towns; the others live anywhere."""
    reach_km: float = 5.0
    """Customers pay at terminals no farther from home; at the nearest where there is none."""
    typical_amount: float = 38.0
    """Median over customers of their mean amount, in currency."""
    amount_range: tuple[float, float] = (6.0, 110.0)
    """The smallest and largest mean amount of a customer, in currency."""
    frauds: Frauds = field(default_factory=Frauds)
    change: Change | None = None
    """What happens on `change_on`: thieves change their ways (harmful), or business grows and thieves go on (benign)."""
    change_on: date | None = None
    """First day of the changed world."""
    frauds_after_harm: Frauds = AFTER_HARM
    benign_growth: float = 0.10
    """Of volume, and of amounts."""

    def __post_init__(self) -> None:
        if self.customers < 1 or self.terminals < 1 or self.seed < 0:
            raise ConfigurationError(
                f"world: at least one customer and one terminal, seed not negative; not {self.customers}, {self.terminals}, {self.seed}"
            )
        for name in ("daily_rate", "terminals_per_km2", "reach_km", "typical_amount"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"world: {name}={getattr(self, name)}: it must be above 0")
        if self.customers * self.daily_rate > IDS_PER_DAY / 2:
            raise ConfigurationError(
                f"world: {self.customers} customers at {self.daily_rate} a day outgrow the {IDS_PER_DAY} ids of a day: take fewer"
            )
        if not 0 <= self.town_share <= 1 or not 0 < self.amount_range[0] <= self.amount_range[1] or self.benign_growth <= -1:
            raise ConfigurationError("world: town_share lies in 0..1, amount_range is (lower, upper) above 0, benign_growth above -1")
        if self.change is not None and self.change not in get_args(Change):
            raise ConfigurationError(f"world: change {self.change!r}: choose {' or '.join(get_args(Change))}, or none")
        if (self.change is None) != (self.change_on is None):
            raise ConfigurationError("world: a change needs its day, and a day needs its change: set both change and change_on, or neither")

    @classmethod
    def of_size(cls, transactions_per_day: int, *, seed: int = 7, change: Change | None = None, change_on: date | None = None) -> World:
        """The default world, scaled to so many transactions a day."""
        customers = round(transactions_per_day / cls.daily_rate)
        return cls(seed=seed, customers=customers, terminals=2 * customers, change=change, change_on=change_on)

    def changed(self, day: date, change: Change) -> bool:
        """Whether `day` lies in a world changed that way."""
        return self.change == change and self.change_on is not None and day >= self.change_on

    def frauds_on(self, day: date) -> Frauds:
        return self.frauds_after_harm if self.changed(day, "harmful") else self.frauds

    def growth_on(self, day: date) -> float:
        """The factor on volume and on amounts."""
        return 1 + self.benign_growth if self.changed(day, "benign") else 1.0


@dataclass(frozen=True)
class Day:
    """One day of transactions and the truth about them; arrays of one length, in order of time, then id."""

    transaction_id: Ints
    tx_datetime: npt.NDArray[np.datetime64]
    """UTC, whole seconds (`datetime64[s]`)."""
    customer_id: Ints
    terminal_id: Ints
    cents: Ints
    fraud: npt.NDArray[np.int8]
    """A `Kind`."""

    def __len__(self) -> int:
        return len(self.transaction_id)

    def none(self) -> Day:
        """A day without transactions, of the same types."""
        return Day(*(column[:0] for column in vars(self).values()))


class _Stream(IntEnum):
    """What a stream of random numbers is for: one thing more drawn here does not move what is drawn there."""

    PEOPLE = 0
    HABITS = 1
    TERMINALS = 2
    CARDS = 3
    THEFTS = 4


_ROW = np.dtype([("customer", "i8"), ("terminal", "i8"), ("second", "i8"), ("amount", "f8"), ("kind", "i1")])


@dataclass(frozen=True)
class People:
    """Customers (one entry each), where they live and how they pay."""

    home: Floats
    shops: Floats
    """Where the terminals are: kilometres, as is `home`."""
    rate: Floats
    mean: Floats
    spread: Floats
    """Of amounts: standard deviation over mean."""
    hour: Floats
    hour_spread: Floats
    reach: Ints
    """Terminals in reach, all customers' one after the other: `reach_count` of them from `reach_start`."""
    reach_start: Ints
    reach_count: Ints

    @classmethod
    def of(cls, world: World, rng: np.random.Generator) -> People:
        side = (world.terminals / world.terminals_per_km2) ** 0.5
        towns = rng.uniform(0, side, (1 + world.terminals // 500, 2))

        def settle(number: int) -> Floats:
            where = rng.uniform(0, side, (number, 2))
            urban = rng.random(number) < world.town_share
            centre = towns[rng.integers(len(towns), size=number)]
            return np.where(urban[:, None], np.clip(centre + rng.normal(0, 3.0, (number, 2)), 0, side), where)

        home, shops, number = settle(world.customers), settle(world.terminals), world.customers
        rate = rng.gamma(2.0, 1.0, number)
        reach, count = _in_reach(home, shops, world.reach_km)
        return cls(
            home=home,
            shops=shops,
            # Scaled to the exact mean, so that a small world has the volume it was asked for.
            rate=rate * world.daily_rate / rate.mean(),
            mean=np.clip(world.typical_amount * np.exp(rng.normal(0, 0.6, number)), *world.amount_range),
            spread=rng.uniform(0.35, 0.65, number),
            hour=rng.normal(13.0, 2.0, number),
            hour_spread=rng.uniform(3.0, 5.0, number),
            reach=reach,
            reach_start=np.cumsum(count) - count,
            reach_count=count,
        )

    def pick_terminals(self, customer: Ints, rng: np.random.Generator) -> Ints:
        """For each customer named, one terminal in reach."""
        nth = rng.random(len(customer)) * self.reach_count[customer]
        return self.reach[self.reach_start[customer] + nth.astype(np.int64)]


def _in_reach(home: Floats, shops: Floats, reach_km: float) -> tuple[Ints, Ints]:
    """The terminals in reach of each home, joined, and how many each has."""
    west_to_east = np.argsort(shops[:, 0], kind="stable")
    x = shops[west_to_east, 0]
    # Only terminals of the stripe around the home are measured, or a large map would cost customers times terminals.
    begin, end = np.searchsorted(x, home[:, 0] - reach_km), np.searchsorted(x, home[:, 0] + reach_km, "right")
    found = []
    for place, low, high in zip(home, begin, end, strict=True):
        stripe = west_to_east[low:high]
        near = stripe[((shops[stripe] - place) ** 2).sum(axis=1) <= reach_km**2]
        found.append(near if near.size else ((shops - place) ** 2).sum(axis=1).argmin(keepdims=True))
    return np.concatenate(found), np.array([near.size for near in found])


class Simulator:
    """Lives a world. Days may be asked for in any order; each is drawn from its own seeds."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.people = People.of(world, np.random.default_rng(np.random.SeedSequence(world.seed, spawn_key=(_Stream.PEOPLE,))))

    def day(self, day: date) -> Day:
        """Everything that was paid on a day, with the truth.

        Raises:
            ConfigurationError: the day lies so early that the compromises before it have no seed.
        """
        habits, thefts = self._rng(_Stream.HABITS, day), self._rng(_Stream.THEFTS, day)
        rows = self._everyday(habits, self.world.growth_on(day))
        cards = self.compromised_cards(day)
        self._steal(rows, thefts, self.world.frauds_on(day), self.compromised_terminals(day), cards)
        rows = np.concatenate([rows, self._bursts(thefts, self.world.frauds_on(day), cards)])
        rows = rows[np.argsort(rows["second"], kind="stable")]
        return Day(
            transaction_id=(day - EPOCH).days * IDS_PER_DAY + np.arange(len(rows)),
            tx_datetime=np.datetime64(day, "s") + rows["second"].astype("timedelta64[s]"),
            customer_id=rows["customer"],
            terminal_id=rows["terminal"],
            cents=np.maximum(np.rint(rows["amount"] * 100), 1).astype(np.int64),
            fraud=rows["kind"],
        )

    def compromised_terminals(self, day: date) -> Ints:
        frauds = self.world.frauds_on(day)
        return self._compromised(_Stream.TERMINALS, day, self.world.terminals, frauds.terminal_share, frauds.terminal_days)

    def compromised_cards(self, day: date) -> Ints:
        frauds = self.world.frauds_on(day)
        return self._compromised(_Stream.CARDS, day, self.world.customers, frauds.card_share, frauds.card_days)

    def _compromised(self, stream: _Stream, day: date, members: int, share: float, days: tuple[int, int]) -> Ints:
        """Whoever fell on this day or before and is not free again, derived from the earlier days' own seeds.

        The thieves of `day` are taken to have always worked as they do now, so a harmful change is whole on its first day.
        """
        held = []
        for age in range(days[1]):
            rng = self._rng(stream, day - timedelta(days=age))
            fallen = rng.integers(members, size=rng.poisson(share * members))
            held.append(fallen[rng.integers(*days, size=fallen.size, endpoint=True) > age])
        return np.unique(np.concatenate(held))

    def _rng(self, stream: _Stream, day: date) -> np.random.Generator:
        if day < EPOCH:
            raise ConfigurationError(f"{day} lies before {EPOCH}, where seeds begin: simulate later days (a month of lead at least)")
        return np.random.default_rng(np.random.SeedSequence(self.world.seed, spawn_key=(stream, (day - EPOCH).days)))

    def _everyday(self, rng: np.random.Generator, growth: float) -> np.ndarray:
        """What honest customers pay on a day, by customer."""
        people = self.people
        customer = np.repeat(np.arange(self.world.customers), rng.poisson(people.rate * growth))
        rows = np.zeros(len(customer), _ROW)
        rows["customer"] = customer
        rows["terminal"] = people.pick_terminals(customer, rng)
        hour = rng.normal(people.hour[customer], people.hour_spread[customer])
        rows["second"] = (hour * 3600).astype(np.int64) % 86_400
        spread = people.spread[customer]
        rows["amount"] = growth * rng.gamma(spread**-2, people.mean[customer] * spread**2)
        return rows

    def _steal(self, rows: np.ndarray, rng: np.random.Generator, frauds: Frauds, terminals: Ints, cards: Ints) -> None:
        """Turn some everyday transactions into fraud, in place. The last thief to touch one names its kind."""
        luck = rng.random((3, len(rows)))
        charged = np.isin(rows["customer"], cards) & (luck[0] < frauds.card_hit)
        rows["amount"][charged] *= rng.uniform(*frauds.card_factor, size=charged.sum())
        rows["kind"][charged] = Kind.CARD
        rows["kind"][np.isin(rows["terminal"], terminals) & (luck[1] < frauds.terminal_hit)] = Kind.TERMINAL
        large = luck[2] < frauds.large_share
        rows["amount"][large] = rng.uniform(*frauds.large_amount, size=large.sum())
        rows["kind"][large] = Kind.LARGE

    def _bursts(self, rng: np.random.Generator, frauds: Frauds, cards: Ints) -> np.ndarray:
        """Several small payments within minutes, in the small hours, on some compromised cards."""
        struck = cards[rng.random(len(cards)) < frauds.burst_chance]
        size = rng.integers(*frauds.burst_size, size=len(struck), endpoint=True)
        rows = np.zeros(size.sum(), _ROW)
        rows["customer"] = np.repeat(struck, size)
        rows["terminal"] = self.people.pick_terminals(rows["customer"], rng)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(size) - size, size)
        start = rng.integers(0, 5 * 3600, size=len(struck))
        rows["second"] = np.repeat(start, size) + nth * 240 + rng.integers(0, 240, size=len(rows))
        rows["amount"] = rng.uniform(*frauds.burst_amount, size=len(rows))
        rows["kind"] = Kind.BURST
        return rows
