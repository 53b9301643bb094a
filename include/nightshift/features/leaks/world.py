"""A small world made up for the leak scan, of any use case: two islands, which no id and no category joins.

A feature may look as far as it likes from row to row, but what happens on one island is nothing to the other.
"""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from include.nightshift.errors import ConfigurationError
from include.nightshift.lakehouse import tables
from include.nightshift.nights import known_at

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.usecase import Column, Feed, UseCase

Row = dict[str, Any]

TICK, HOUR, DAY = timedelta(microseconds=1), timedelta(hours=1), timedelta(days=1)
FIRST = date(2026, 1, 5)
NIGHTS = 52
"""Longer than a window of thirty days behind a week's delay, with room after the last cut."""
LATEST = 30
"""Nights that a made-up row is late at most; contracts take 35."""
TIMES = tuple(timedelta(hours=h, minutes=m) for h, m in ((0, 0), (6, 1), (7, 0), (12, 0), (18, 20), (23, 0)))
"""Few times of day, so that rows meet each other and the edges of windows exactly; two of them off any quarter of an hour."""
OWNERS = 3
"""Values of each id on an island: so few that everybody meets there."""


@dataclass(frozen=True)
class World:
    """The two silver tables of a use case, made up."""

    events: pa.Table
    verdicts: pa.Table


@dataclass(frozen=True)
class Cut:
    """What is known at an instant to a night: events until `at`, verdicts reported until then, brought by `night` or before."""

    at: datetime
    """When an event happened that has a peer of the same ids in the same instant, so that `<` and `<=` are told apart."""
    night: date
    ids: Mapping[str, Any]
    """That event's ids and categories."""


class Rows(NamedTuple):
    events: list[Row]
    verdicts: list[Row]
    parts: int = 1
    """Partitions to lay them in."""


class Hand:
    """Makes up rows of a use case, by its columns' types and what its contract says of single values."""

    def __init__(self, use_case: UseCase, seed: str, first_key: int) -> None:
        self.use_case = use_case
        self.dice = random.Random(seed)  # noqa: S311 - a world to compute on, not a secret
        self.next_key = first_key
        events = use_case.events
        self.ids = [c.name for c in events.columns if c.name != events.key and (_is_id(use_case, c) or c.type == "string")]
        self.promised = {feed.name: _promised(feed) for feed in use_case.feeds}

    def event(self, at: datetime, night: date, ids: Mapping[str, Any] | None = None) -> Row:
        feed, island = self.use_case.events, self.dice.randrange(2)
        drawn = {column.name: self._value(feed, column, at, island) for column in feed.columns}
        self.next_key += 1
        return (
            drawn | (dict(ids) if ids else {}) | {feed.key: self.next_key, feed.event_time: at, "day": night, "known_at": known_at(night)}
        )

    def changed(self, event: Row, at: datetime, night: date, ids: Mapping[str, Any] | None = None) -> Row:
        key = self.use_case.events.key
        return self.event(at, night, ids) | {key: event[key]}

    def verdict(self, event: Row, reported: datetime, night: date, positive: bool | None = None) -> Row:
        feed, target = self.use_case.labels, self.use_case.target
        drawn = {column.name: event.get(column.name, self._value(feed, column, reported, 0)) for column in feed.columns}
        if feed.key != self.use_case.events.key:
            self.next_key += 1
            drawn[feed.key] = self.next_key
        found = self.dice.random() < 0.5 if positive is None else positive
        return drawn | {target: int(found), feed.event_time: reported, "day": night, "known_at": known_at(night)}

    def turned(self, verdict: Row) -> Row:
        """The opposite verdict."""
        target = self.use_case.target
        return verdict | {target: 1 - verdict[target]}

    def shaken(self, rows: Iterable[Row], concerned: Callable[[Row], bool], change: Callable[[Row], Row]) -> list[Row]:
        """Of the rows concerned half are changed, a quarter goes."""
        left = []
        for row in rows:
            fate = self.dice.choice(("stays", "changes", "changes", "goes")) if concerned(row) else "stays"
            if fate != "goes":
                left.append(change(row) if fate == "changes" else row)
        return left

    def unjudged(self, rows: Rows) -> list[Row]:
        key = self.use_case.events.key
        judged = {verdict[key] for verdict in rows.verdicts}
        return [event for event in rows.events if event[key] not in judged]

    def island(self, event: Row) -> int:
        """Which of the two islands it happened on."""
        entity = next(column for column in self.use_case.events.columns if column.name == self.use_case.entity)
        return int(event[entity.name] in self._choices(self.use_case.events, entity)[1])

    def _choices(self, feed: Feed, column: Column) -> tuple[Sequence[Any], Sequence[Any]]:
        """The values of an id or a category on either island; a category of one value alone joins them."""
        if column.type == "string":
            listed = self.promised[feed.name].get(column.name, {}).get("allowed", "abcdef")
            return listed[: (len(listed) + 1) // 2], listed[len(listed) // 2 :]
        return range(1, OWNERS + 1), range(OWNERS + 1, 2 * OWNERS + 1)

    def _value(self, feed: Feed, column: Column, at: datetime, island: int) -> Any:
        if not column.required and column.name != self.use_case.entity and self.dice.random() < 0.2:
            return None
        if column.type == "string" or _is_id(self.use_case, column):
            return self.dice.choice(self._choices(feed, column)[island])
        promised = self.promised[feed.name].get(column.name, {})
        if "allowed" in promised:
            return self.dice.choice(promised["allowed"])
        if column.type in ("timestamp", "date"):
            then = at - self.dice.choice((timedelta(0), HOUR, DAY))
            return then if column.type == "timestamp" else then.date()
        return self._number(column.type, promised.get("low", 0), promised.get("high"))

    def _number(self, kind: str, low: float, high: float | None) -> Any:
        reach = 9 if kind in ("bigint", "int") else 300
        top = low + reach if high is None else min(high, low + reach)
        if kind in ("bigint", "int"):
            return self.dice.randint(int(low), int(top))
        if kind == "double":
            return low + (top - low) * self.dice.randint(0, 64) / 64
        digits, scale = map(int, kind[8:-1].split(","))
        most = 10**digits - 1
        return Decimal(self.dice.randint(int(low * 10**scale), min(int(top * 10**scale), most))).scaleb(-scale)


def _is_id(use_case: UseCase, column: Column) -> bool:
    return column.name == use_case.entity or column.name.endswith("_id")


def _promised(feed: Feed) -> dict[str, dict[str, Any]]:
    """What the contract's range rules allow, by column: `allowed` values, or `low` and `high`."""
    promised: dict[str, dict[str, Any]] = {}
    for rule in feed.rules:
        if listed := re.fullmatch(r"(\w+) not in \((.*)\)", rule.breach):
            promised.setdefault(listed[1], {})["allowed"] = ast.literal_eval(f"[{listed[2]}]")
        for name, sign, bound in re.findall(r"(\w+) ([<>]) (-?\d[\d.e+-]*)(?= or |$)", rule.breach):
            promised.setdefault(name, {})["low" if sign == "<" else "high"] = float(bound)
    return promised


def made_up(use_case: UseCase, seed: int) -> World:
    """Eight weeks of a few owners, made to be misread.

    Rows that came late, ties, peers of the same ids in the same instant; verdicts early, on time to the microsecond, late, in late
    drops, and before their event's own drop.

    Raises:
        ConfigurationError: the use case has a shape that no world can be made up for.
    """
    _check(use_case)
    hand = Hand(use_case, f"world {seed}", 14_000_000)
    dice, at = hand.dice, use_case.events.event_time
    events: list[Row] = []
    for number in range(NIGHTS):
        night = FIRST + number * DAY
        # An event on time and a late one with a peer each, so that there is a cut of each kind; the others as they fall.
        first = [(timedelta(0), TIMES[number % len(TIMES)], 1.0), (dice.choice((1, 2, 5)) * DAY, dice.choice(TIMES), 1.0)]
        rest = [(dice.choice((0, 0, 0, 0, 1, 2, 5, 9, 13, 13)) * DAY, dice.choice(TIMES), 0.2) for _ in range(9)]
        for late, time_of_day, company in (*first, *rest):
            event = hand.event(_midnight(night) - late + time_of_day, night)
            events.append(event)
            if dice.random() < company:
                events.append(hand.event(event[at], night + dice.choice((0, 0, 1, 3)) * DAY, ids_of(hand, event)))
    delay = use_case.label_delay_days * DAY
    verdicts = []
    for event in events:
        if dice.random() < 0.94:
            on_time = event[at] + delay
            reported = dice.choice(
                (event[at] + HOUR, on_time - delay / 2, on_time, on_time, on_time + TICK, on_time + 5 * HOUR, on_time + 4 * DAY)
            )
            verdicts.append(hand.verdict(event, reported, reported.date() + dice.choice((0, 0, 1, 3, 6)) * DAY))
    return World(*as_silver(use_case, Rows(events, verdicts)))


def cuts(use_case: UseCase, world: World, seed: int, number: int) -> list[Cut]:
    """Cuts through the last third of a world: off the quarters of an hour, then at a late event, then on the hour, and so on.

    Raises:
        ConfigurationError: it holds no event with a peer to cut at.
    """
    hand = Hand(use_case, f"cuts {seed}", 0)
    at = use_case.events.event_time
    events = [event for event in world.events.to_pylist() if 0.7 * NIGHTS < (event["day"] - FIRST).days < 0.9 * NIGHTS]
    instants = Counter((event[at], *ids_of(hand, event).values()) for event in events)
    met = [event for event in events if instants[event[at], *ids_of(hand, event).values()] > 1]
    kinds = [
        [event for event in met if event["day"] == event[at].date() and event[at].minute % 15],
        [event for event in met if event["day"] > event[at].date()],
        [event for event in met if event["day"] == event[at].date() and not event[at].minute % 15 and event[at].hour < 20],
    ]
    if not all(kinds):
        raise ConfigurationError(f"{use_case.name}: the world of seed {seed} has no event with a peer to cut at: take another seed")
    chosen = [hand.dice.choice(kinds[position % len(kinds)]) for position in range(number)]
    return [Cut(event[at], event["day"], ids_of(hand, event)) for event in chosen]


def _check(use_case: UseCase) -> None:
    types = {(feed.name, column.name): column.type for feed in use_case.feeds for column in feed.columns}
    wanted: dict[tuple[str, str], tuple[str, ...]] = {(feed.name, feed.event_time): ("timestamp",) for feed in use_case.feeds}
    wanted |= {(feed.name, feed.key): ("bigint", "int") for feed in use_case.feeds}
    wanted[use_case.labels.name, use_case.target] = ("bigint", "int")
    for (feed_name, name), kinds in wanted.items():
        if types[feed_name, name] not in kinds:
            raise ConfigurationError(
                f"{use_case.name}: the leak scan makes up {feed_name}.{name} as {' or '.join(kinds)}, and the contract says "
                f"{types[feed_name, name]}: change the contract, or teach features/leaks/world.py the type"
            )


def _midnight(night: date) -> datetime:
    return datetime.combine(night, datetime.min.time(), UTC)


def ids_of(hand: Hand, event: Row) -> dict[str, Any]:
    return {name: event[name] for name in hand.ids}


def as_silver(use_case: UseCase, rows: Rows) -> tuple[pa.Table, pa.Table]:
    """As silver would hold them, in so many pieces as partitions are wanted."""
    import pyarrow as pa

    made = []
    for feed, records in zip(use_case.feeds, (rows.events, rows.verdicts), strict=True):
        table = tables.silver(feed).arrow(records)
        made.append(pa.Table.from_batches(table.to_batches(max_chunksize=len(table) // rows.parts + 1), table.schema))
    return made[0], made[1]
