"""The leak scan: a feature knows what its night knew when its event happened, and nothing more. `make leak-scan`.

Of an event at time t that night D brought, a feature may use events that happened until t and verdicts reported until t, both brought
by night D or an earlier one. The scan makes up a small world, computes the features, changes what must not matter and computes them
again: nothing may move, to the last bit. Then it changes what must matter, so that a scan that sees nothing is not taken for a pass.

What is scanned is any function of the two tables; `models` makes one of a use case's dbt models. The world is two islands, which no id
and no category joins: a feature may look as far as it likes from row to row, but what happens on one island is nothing to the other.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from include.nightshift import settings as settings_module
from include.nightshift import usecase
from include.nightshift.errors import ConfigurationError, ContractError, NightshiftError
from include.nightshift.features import project
from include.nightshift.lakehouse import tables, writes
from include.nightshift.nights import known_at
from include.nightshift.settings import Ports, Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from include.nightshift.usecase import Column, Feed, UseCase

Row = dict[str, Any]
Compute = Callable[["pa.Table", "pa.Table", Sequence[date]], "pa.Table"]
"""Events, verdicts (the columns of silver) and the nights asked for, to a row of features by event of those nights: key and features."""

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
TOGETHER = "all of these together"
NO_ROW = "no row"


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


@dataclass(frozen=True)
class Leak:
    """A feature that moved with what must not matter to it."""

    feature: str
    perturbation: str
    key: Any
    """The first event whose feature moved."""
    before: Any
    after: Any
    events: int
    """So many moved."""

    def __str__(self) -> str:
        return f"{self.feature} moved with {self.perturbation}: {self.events} events, such as {self.key}, {self.before} -> {self.after}"


@dataclass(frozen=True)
class Scan:
    """What became of the features of one use case."""

    use_case: str
    features: tuple[str, ...]
    leaks: tuple[Leak, ...]
    dead: tuple[str, ...]
    """Features that nothing moved, not even what must matter."""
    blind: tuple[str, ...]
    """What must matter and moved no feature at all: then a pass would say nothing."""
    probed: int
    """Events whose features were compared, counted anew in each changed world."""
    worlds: int
    """Changed worlds computed."""
    seconds: float

    @property
    def passed(self) -> bool:
        return not (self.leaks or self.dead or self.blind)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it failed, a sentence for each finding; or what was seen to stand still."""
        found = [
            *map(str, self.leaks),
            *(f"{feature} is dead: nothing that must matter moved it" for feature in self.dead),
            *(f"{what} moved no feature: the scan is blind to them, or the models never read them" for what in self.blind),
        ]
        still = f"{len(self.features)} features of {self.probed} events stood still in {self.worlds} changed worlds"
        return tuple(found) or (still,)


class _Rows(NamedTuple):
    events: list[Row]
    verdicts: list[Row]
    parts: int = 1
    """Partitions to lay them in."""


class _Step(NamedTuple):
    """A changed world, and the events to compare."""

    rows: _Rows
    compared: set[Any]
    nights: tuple[date, ...] | None = None
    """The nights to compute; None: all."""


class _Hand:
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

    def unjudged(self, rows: _Rows) -> list[Row]:
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
    hand = _Hand(use_case, f"world {seed}", 14_000_000)
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
                events.append(hand.event(event[at], night + dice.choice((0, 0, 1, 3)) * DAY, _ids(hand, event)))
    delay = use_case.label_delay_days * DAY
    verdicts = []
    for event in events:
        if dice.random() < 0.94:
            on_time = event[at] + delay
            reported = dice.choice(
                (event[at] + HOUR, on_time - delay / 2, on_time, on_time, on_time + TICK, on_time + 5 * HOUR, on_time + 4 * DAY)
            )
            verdicts.append(hand.verdict(event, reported, reported.date() + dice.choice((0, 0, 1, 3, 6)) * DAY))
    return World(*_arrow(use_case, _Rows(events, verdicts)))


def cuts(use_case: UseCase, world: World, seed: int, number: int) -> list[Cut]:
    """Cuts through the last third of a world: off the quarters of an hour, then at a late event, then on the hour, and so on.

    Raises:
        ConfigurationError: it holds no event with a peer to cut at.
    """
    hand = _Hand(use_case, f"cuts {seed}", 0)
    at = use_case.events.event_time
    events = [event for event in world.events.to_pylist() if 0.7 * NIGHTS < (event["day"] - FIRST).days < 0.9 * NIGHTS]
    instants = Counter((event[at], *_ids(hand, event).values()) for event in events)
    met = [event for event in events if instants[event[at], *_ids(hand, event).values()] > 1]
    kinds = [
        [event for event in met if event["day"] == event[at].date() and event[at].minute % 15],
        [event for event in met if event["day"] > event[at].date()],
        [event for event in met if event["day"] == event[at].date() and not event[at].minute % 15 and event[at].hour < 20],
    ]
    if not all(kinds):
        raise ConfigurationError(f"{use_case.name}: the world of seed {seed} has no event with a peer to cut at: take another seed")
    chosen = [hand.dice.choice(kinds[position % len(kinds)]) for position in range(number)]
    return [Cut(event[at], event["day"], _ids(hand, event)) for event in chosen]


def _check(use_case: UseCase) -> None:
    types = {(feed.name, column.name): column.type for feed in use_case.feeds for column in feed.columns}
    wanted: dict[tuple[str, str], tuple[str, ...]] = {(feed.name, feed.event_time): ("timestamp",) for feed in use_case.feeds}
    wanted |= {(feed.name, feed.key): ("bigint", "int") for feed in use_case.feeds}
    wanted[use_case.labels.name, use_case.target] = ("bigint", "int")
    for (feed_name, name), kinds in wanted.items():
        if types[feed_name, name] not in kinds:
            raise ConfigurationError(
                f"{use_case.name}: the leak scan makes up {feed_name}.{name} as {' or '.join(kinds)}, and the contract says "
                f"{types[feed_name, name]}: change the contract, or teach features/leaks.py the type"
            )


def _midnight(night: date) -> datetime:
    return datetime.combine(night, datetime.min.time(), UTC)


def _ids(hand: _Hand, event: Row) -> dict[str, Any]:
    return {name: event[name] for name in hand.ids}


def _arrow(use_case: UseCase, rows: _Rows) -> tuple[pa.Table, pa.Table]:
    """As silver would hold them, in so many pieces as partitions are wanted."""
    import pyarrow as pa

    made = []
    for feed, records in zip(use_case.feeds, (rows.events, rows.verdicts), strict=True):
        table = tables.silver(feed).arrow(records)
        made.append(pa.Table.from_batches(table.to_batches(max_chunksize=len(table) // rows.parts + 1), table.schema))
    return made[0], made[1]


# What must not matter.


def _probes(hand: _Hand, rows: _Rows, cut: Cut) -> set[Any]:
    """The events that a cut leaves as they are, and whose features must stay."""
    key, at = hand.use_case.events.key, hand.use_case.events.event_time
    return {event[key] for event in rows.events if event[at] <= cut.at and event["day"] <= cut.night}


def _later_events(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    at, dice = hand.use_case.events.event_time, hand.dice

    def change(event: Row) -> Row:
        then = max(cut.at + TICK, event[at] + dice.choice((-DAY, timedelta(0), HOUR, DAY)))
        return hand.changed(event, then, max(event["day"], then.date()))

    after = [cut.at + step for step in (TICK, TICK, 5 * 60_000_000 * TICK, HOUR, 6 * HOUR, DAY - TICK, DAY, 3 * DAY, 8 * DAY)]
    # What came a microsecond later came on time: only its clock keeps it apart.
    came = [then.date() + (dice.choice((0, 0, 1)) * DAY if then > cut.at + TICK else timedelta(0)) for then in after]
    added = [hand.event(then, night, ids) for then, night in zip(after, came, strict=True) for ids in (cut.ids, None, None)]
    events = hand.shaken(rows.events, lambda event: event[at] > cut.at, change)
    return _Step(rows._replace(events=[*events, *added]), _probes(hand, rows, cut))


def _late_events(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    at, dice, delay = hand.use_case.events.event_time, hand.dice, hand.use_case.label_delay_days * DAY

    def change(event: Row) -> Row:
        # Half of them now come the very next night, where a clock that is off by one would see them.
        night = dice.choice((event["day"], cut.night + DAY))
        return hand.changed(event, _earlier(event[at], night, dice.choice((timedelta(0), HOUR, DAY))), night)

    before = (timedelta(0), timedelta(0), HOUR, DAY - TICK, 2 * DAY, 6 * DAY, delay, delay + DAY, 2 * delay, 25 * DAY)
    came = [cut.night + dice.choice((1, 1, 2, 4)) * DAY for _ in before]
    added = [hand.event(_earlier(cut.at, night, by), night, ids) for by, night in zip(before, came, strict=True) for ids in (cut.ids, None)]
    events = hand.shaken(rows.events, lambda event: event[at] <= cut.at and event["day"] > cut.night, change)
    return _Step(rows._replace(events=[*events, *added]), _probes(hand, rows, cut))


def _earlier(at: datetime, night: date, by: timedelta) -> datetime:
    """So much earlier, unless the row would then be later than any contract takes."""
    return at - by if night - (at - by).date() <= LATEST * DAY else at


def _unreported(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    at, reported, dice = hand.use_case.events.event_time, hand.use_case.labels.event_time, hand.dice

    def change(verdict: Row) -> Row:
        then = dice.choice((verdict[reported], verdict[reported], verdict[reported] + HOUR, cut.at + TICK))
        night = max(then.date(), dice.choice((verdict["day"], then.date())))
        return hand.turned(verdict) | {reported: then, "day": night, "known_at": known_at(night)}

    verdicts = hand.shaken(rows.verdicts, lambda verdict: verdict[reported] > cut.at, change)
    for event in hand.unjudged(rows):
        then = max(cut.at, event[at]) + dice.choice((TICK, HOUR, DAY))
        verdicts.append(hand.verdict(event, then, then.date() + dice.choice((0, 1)) * DAY, positive=True))
    return _Step(rows._replace(verdicts=verdicts), _probes(hand, rows, cut))


def _late_verdicts(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    at, reported, dice = hand.use_case.events.event_time, hand.use_case.labels.event_time, hand.dice
    verdicts = hand.shaken(rows.verdicts, lambda verdict: verdict[reported] <= cut.at and verdict["day"] > cut.night, hand.turned)
    for event in hand.unjudged(rows):
        if event[at] <= cut.at:
            then = max(event[at], cut.at - dice.choice((timedelta(0), HOUR, DAY)))
            verdicts.append(hand.verdict(event, then, cut.night + dice.choice((1, 1, 3)) * DAY, positive=True))
    return _Step(rows._replace(verdicts=verdicts), _probes(hand, rows, cut))


def _target_itself(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    key, reported = hand.use_case.events.key, hand.use_case.labels.event_time
    probes = _probes(hand, rows, cut)
    own = {verdict[key] for verdict in rows.verdicts if verdict[key] in probes and verdict[reported] > cut.at}
    verdicts = [hand.turned(v) if v[key] in own and v[reported] > cut.at else v for v in rows.verdicts]
    return _Step(rows._replace(verdicts=verdicts), own)


def _other_order(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    mixed = [hand.dice.sample(side, len(side)) for side in (rows.events, rows.verdicts)]
    return _Step(_Rows(mixed[0], mixed[1], parts=5), {event[hand.use_case.events.key] for event in rows.events})


def _together(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    """All of the above at once: what moves nothing here needs no trial one by one. No two of them change the same row."""
    changed = rows
    for change in (_later_events, _late_events, _unreported, _late_verdicts, _other_order):
        changed = change(hand, changed, cut).rows
    return _Step(changed, _probes(hand, rows, cut))


def _other_nights(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    key = hand.use_case.events.key
    return _Step(rows, {event[key] for event in rows.events if event["day"] == cut.night}, (cut.night,))


def _unrelated(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    key, at, dice = hand.use_case.events.key, hand.use_case.events.event_time, hand.dice
    islands: tuple[list[Row], list[Row]] = ([], [])
    for event in rows.events:
        islands[hand.island(event)].append(event)
    home = hand.island(dict(cut.ids))
    own, strangers = {event[key] for event in islands[home]}, islands[1 - home]

    def change(event: Row) -> Row:
        return hand.changed(event, event[at], event["day"], _ids(hand, dice.choice(strangers)))

    added = [hand.event(event[at], event["day"], _ids(hand, event)) for event in strangers[::20]]
    verdicts = [hand.turned(v) if v[key] not in own and dice.random() < 0.5 else v for v in rows.verdicts]
    events = hand.shaken(rows.events, lambda event: event[key] not in own, change)
    return _Step(rows._replace(events=[*events, *added], verdicts=verdicts), own)


# What must matter.


def _past_events(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    key, at = hand.use_case.events.key, hand.use_case.events.event_time
    probes = _probes(hand, rows, cut)
    asked = {number for number in sorted(probes) if hand.dice.random() < 0.5}

    def change(event: Row) -> Row:
        return hand.changed(event, event[at], event["day"], _ids(hand, event))

    return _Step(rows._replace(events=hand.shaken(rows.events, lambda event: event[key] in probes - asked, change)), asked)


def _late_known(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    key, at = hand.use_case.events.key, hand.use_case.events.event_time
    probes = _probes(hand, rows, cut)
    late = {event[key] for event in rows.events if event[key] in probes and event["day"] > event[at].date()}
    return _Step(rows._replace(events=[event for event in rows.events if event[key] not in late]), probes - late)


def _known_verdicts(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    reported = hand.use_case.labels.event_time
    verdicts = [hand.turned(v) if v[reported] <= cut.at and v["day"] <= cut.night else v for v in rows.verdicts]
    return _Step(rows._replace(verdicts=verdicts), _probes(hand, rows, cut))


def _own_attributes(hand: _Hand, rows: _Rows, cut: Cut) -> _Step:
    key, at, dice = hand.use_case.events.key, hand.use_case.events.event_time, hand.dice
    asked = {number for number in sorted(_probes(hand, rows, cut)) if dice.random() < 0.5}

    def changed(event: Row) -> Row:
        return hand.changed(event, _earlier(event[at], event["day"], dice.choice((HOUR, 13 * HOUR, DAY, 3 * DAY))), event["day"])

    return _Step(rows._replace(events=[changed(event) if event[key] in asked else event for event in rows.events]), asked)


_Change = Callable[[_Hand, _Rows, Cut], _Step]
SINGLY: Mapping[str, _Change] = {
    "later events": _later_events,
    "late-arriving events": _late_events,
    "unreported verdicts": _unreported,
    "late-arriving verdicts": _late_verdicts,
    "the target itself": _target_itself,
    "order of rows": _other_order,
}
"""What must not matter, and is tried one by one where all of it together moved something."""
ONCE: Mapping[str, _Change] = {"other nights": _other_nights, "unrelated entities": _unrelated}
"""What must not matter, at the first cut of each world alone: it depends on no instant."""
MATTERS: Mapping[str, _Change] = {
    "past events": _past_events,
    "late rows that were known": _late_known,
    "verdicts that were known": _known_verdicts,
    "the event's own attributes": _own_attributes,
}


@dataclass
class _Trial:
    """One made-up world, its features, and what changes of it did to them."""

    use_case: UseCase
    compute: Compute
    seed: int
    probed: int = 0
    worlds: int = 0

    @cached_property
    def world(self) -> World:
        return made_up(self.use_case, self.seed)

    @cached_property
    def rows(self) -> _Rows:
        return _Rows(self.world.events.to_pylist(), self.world.verdicts.to_pylist())

    @cached_property
    def nights(self) -> tuple[date, ...]:
        return tuple(sorted({event["day"] for event in self.rows.events}))

    @cached_property
    def base(self) -> dict[Any, Row]:
        base = self._computed(_Step(self.rows, set()))
        if lost := {event[self.use_case.events.key] for event in self.rows.events} - base.keys():
            raise ContractError(
                f"{self.use_case.name}: {len(lost)} of {len(self.rows.events)} events have no row of features, such as {min(lost)}: "
                "look for an inner join that should be a left one"
            )
        return base

    def leaks(self, places: Sequence[Cut]) -> Iterator[Leak]:
        """What moved and must not."""
        for name, change in ONCE.items():
            yield from self.moved(name, change, places[0])
        for cut in places:
            if moved := self.moved(TOGETHER, _together, cut):
                singly = [leak for name, change in SINGLY.items() for leak in self.moved(name, change, cut)]
                yield from singly
                told = {leak.feature for leak in singly}
                yield from (leak for leak in moved if leak.feature not in told)

    def moved(self, name: str, change: _Change, cut: Cut) -> list[Leak]:
        """What moved, by feature."""
        step = change(_Hand(self.use_case, f"{name} {self.seed} {cut.at} {cut.night}", 50_000_000), self.rows, cut)
        if (step.rows == self.rows and step.nights in (None, self.nights)) or not step.compared:
            raise ConfigurationError(
                f"{self.use_case.name}, seed {self.seed}, cut at {cut.at} in night {cut.night}: {name} changed nothing, or left nothing to "
                "compare, so that the scan would show nothing. Take another seed; if it stays, the feeds lack what it changes"
            )
        after = self._computed(step)
        self.probed, self.worlds = self.probed + len(step.compared), self.worlds + 1
        found = []
        for feature in self.features:
            pairs = ((key, self.base[key][feature], after.get(key, {}).get(feature, NO_ROW)) for key in sorted(step.compared))
            different = [(key, old, new) for key, old, new in pairs if not _same(old, new)]
            if different:
                found.append(Leak(feature, name, *different[0], events=len(different)))
        return found

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(next(iter(self.base.values())))

    def _computed(self, step: _Step) -> dict[Any, Row]:
        table = self.compute(*_arrow(self.use_case, step.rows), step.nights or self.nights)
        key = self.use_case.events.key
        features = {row.pop(key): row for row in table.to_pylist()}
        if len(features) != table.num_rows:
            raise ContractError(
                f"{self.use_case.name}: {table.num_rows} rows of features for {len(features)} events: look for a join that doubles rows"
            )
        return features


def _same(one: Any, other: Any) -> bool:
    """Equal to the last bit; NaN equals itself."""
    return bool(one == other or (one != one and other != other))


def scan(use_case: UseCase, compute: Compute, *, seeds: Iterable[int] = (1,), cuts_each: int = 2, verdicts_matter: bool = True) -> Scan:
    """Scan all features that `compute` returns, in one made-up world a seed, each cut a few times.

    Args:
        verdicts_matter: whether at least one feature must follow the verdicts that were known; False for models that read none.

    Raises:
        ConfigurationError: the use case's shape leaves nothing to change.
        ContractError: `compute` loses or doubles events.
    """
    started = time.monotonic()
    leaks: dict[tuple[str, str], Leak] = {}
    answered: dict[str, set[str]] = {name: set() for name in MATTERS}
    trials = [_Trial(use_case, compute, seed) for seed in seeds]
    if not trials or cuts_each < 1:
        raise ConfigurationError("a leak scan needs at least one seed and one cut")
    for trial in trials:
        places = cuts(use_case, trial.world, trial.seed, cuts_each)
        for leak in trial.leaks(places):
            first = leaks.get((leak.feature, leak.perturbation), replace(leak, events=0))
            leaks[leak.feature, leak.perturbation] = replace(first, events=first.events + leak.events)
        for name, change in MATTERS.items():
            answered[name] |= {moved.feature for moved in trial.moved(name, change, places[0])}
    features = trials[0].features
    alive = set().union(*answered.values())
    return Scan(
        use_case=use_case.name,
        features=features,
        leaks=tuple(sorted(leaks.values(), key=lambda leak: (features.index(leak.feature), leak.perturbation))),
        dead=tuple(feature for feature in features if feature not in alive),
        blind=tuple(_blind(answered, verdicts_matter)),
        probed=sum(trial.probed for trial in trials),
        worlds=sum(trial.worlds for trial in trials),
        seconds=time.monotonic() - started,
    )


def _blind(answered: Mapping[str, set[str]], verdicts_matter: bool) -> Iterable[str]:
    if verdicts_matter and not answered["verdicts that were known"]:
        yield "verdicts that were known"
    # Features of the event alone need no history, neither in time nor late.
    if answered["past events"] and not answered["late rows that were known"]:
        yield "late rows that were known"


def models(session: SparkSession, settings: Settings, use_case: UseCase) -> Compute:
    """The use case's dbt models, over views of the tables given."""
    compiled = project.compiled(session, settings, use_case)

    def compute(events: pa.Table, verdicts: pa.Table, nights: Sequence[date]) -> pa.Table:
        views = {}
        for feed, table in zip(use_case.feeds, (events, verdicts), strict=True):
            view = views[str(tables.silver(feed))] = f"leaks_{feed.name}"
            parts = max(column.num_chunks for column in table.columns)
            frame = writes.in_memory(session, table)
            (frame if parts == 1 else frame.repartition(parts)).createOrReplaceTempView(view)
        try:
            with compiled.over(session, settings, nights, views) as frame:
                return frame.select(use_case.events.key, *use_case.feature_names).toArrow()
        finally:
            for view in views.values():
                session.catalog.dropTempView(view)

    return compute


def scan_models(session: SparkSession, settings: Settings, use_case: UseCase, *, seeds: Iterable[int] = (1,), cuts_each: int = 2) -> Scan:
    """Scan a use case's own features. A minute or two for a seed.

    Raises:
        ConfigurationError: the use case's shape leaves nothing to change.
        ContractError: dbt cannot compile the models, or they lose or double events.
    """
    queries = [query for _, query in project.compiled(session, settings, use_case).models]
    reads = any(str(tables.silver(use_case.labels)) in query for query in queries)
    return scan(use_case, models(session, settings, use_case), seeds=seeds, cuts_each=cuts_each, verdicts_matter=reads)


def report(done: Scan) -> str:
    """A scan as a small table for people, a line a feature."""
    verdicts = {feature: "dead" if feature in done.dead else "ok" for feature in done.features}
    verdicts |= {leak.feature: "leak" for leak in done.leaks}
    wide = max(map(len, verdicts))
    lines = [f"{done.use_case}: {'passed' if done.passed else 'FAILED'} in {done.seconds:.0f} s, {done.worlds} changed worlds"]
    return "\n".join([*lines, *(f"  {feature:{wide}}  {verdict}" for feature, verdict in verdicts.items()), *done.reasons])


def main(arguments: Sequence[str] | None = None) -> int:
    """Scan every registered use case on a lakehouse server of its own; 1 where one fails."""
    parser = argparse.ArgumentParser(description="Look for features that know what their night did not.")
    parser.add_argument("--use-case", help="this one alone")
    parser.add_argument("--seeds", type=int, default=1, help="so many made-up worlds")
    options = parser.parse_args(arguments)
    home = Path(tempfile.mkdtemp(prefix="leaks-"))
    try:
        settings = settings_module.load()
        asked = [usecase.load(options.use_case, settings)] if options.use_case else usecase.registered(settings)
        scans = _scans(settings, home, asked, range(1, options.seeds + 1))
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)  # noqa: T201 - a program's answer
        return 1
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if all(done.passed for done in scans) else 1


def _scans(settings: Settings, home: Path, use_cases: Sequence[UseCase], seeds: Sequence[int]) -> list[Scan]:
    from include.nightshift.lakehouse import jars
    from include.nightshift.operate.served import connected

    jars.fetch(replace(settings, lakehouse=None))
    (home / "jars").symlink_to(settings.home / "jars")
    own = Settings(home=home, ports=Ports.free(), clock=False, lakehouse_memory="2g", usecases=settings.usecases)
    scans = []
    # As in the tests: a query runs a few times, and the second compiler costs more than it wins.
    with connected(own, JDK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m") as session:
        for use_case in use_cases:
            scans.append(scan_models(session, own, use_case, seeds=seeds))
            print(report(scans[-1]), flush=True)  # noqa: T201
    return scans


if __name__ == "__main__":
    raise SystemExit(main())
