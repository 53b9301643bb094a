"""What the leak scan changes in a world: what must not matter to what was known at a cut, and what must."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from include.nightshift.features.leaks.world import DAY, HOUR, LATEST, TICK, Cut, Hand, Row, Rows, ids_of
from include.nightshift.nights import known_at

TOGETHER = "all of these together"


class Step(NamedTuple):
    """A changed world, and the events to compare."""

    rows: Rows
    compared: set[Any]
    nights: tuple[date, ...] | None = None
    """The nights to compute; None: all."""


# What must not matter.


def _probes(hand: Hand, rows: Rows, cut: Cut) -> set[Any]:
    """The events that a cut leaves as they are, and whose features must stay."""
    key, at = hand.use_case.events.key, hand.use_case.events.event_time
    return {event[key] for event in rows.events if event[at] <= cut.at and event["day"] <= cut.night}


def _later_events(hand: Hand, rows: Rows, cut: Cut) -> Step:
    at, dice = hand.use_case.events.event_time, hand.dice

    def change(event: Row) -> Row:
        then = max(cut.at + TICK, event[at] + dice.choice((-DAY, timedelta(0), HOUR, DAY)))
        return hand.changed(event, then, max(event["day"], then.date()))

    after = [cut.at + step for step in (TICK, TICK, 5 * 60_000_000 * TICK, HOUR, 6 * HOUR, DAY - TICK, DAY, 3 * DAY, 8 * DAY)]
    # What came a microsecond later came on time: only its clock keeps it apart.
    came = [then.date() + (dice.choice((0, 0, 1)) * DAY if then > cut.at + TICK else timedelta(0)) for then in after]
    added = [hand.event(then, night, ids) for then, night in zip(after, came, strict=True) for ids in (cut.ids, None, None)]
    events = hand.shaken(rows.events, lambda event: event[at] > cut.at, change)
    return Step(rows._replace(events=[*events, *added]), _probes(hand, rows, cut))


def _late_events(hand: Hand, rows: Rows, cut: Cut) -> Step:
    at, dice, delay = hand.use_case.events.event_time, hand.dice, hand.use_case.label_delay_days * DAY

    def change(event: Row) -> Row:
        # Half of them now come the very next night, where a clock that is off by one would see them.
        night = dice.choice((event["day"], cut.night + DAY))
        return hand.changed(event, _earlier(event[at], night, dice.choice((timedelta(0), HOUR, DAY))), night)

    before = (timedelta(0), timedelta(0), HOUR, DAY - TICK, 2 * DAY, 6 * DAY, delay, delay + DAY, 2 * delay, 25 * DAY)
    came = [cut.night + dice.choice((1, 1, 2, 4)) * DAY for _ in before]
    added = [hand.event(_earlier(cut.at, night, by), night, ids) for by, night in zip(before, came, strict=True) for ids in (cut.ids, None)]
    events = hand.shaken(rows.events, lambda event: event[at] <= cut.at and event["day"] > cut.night, change)
    return Step(rows._replace(events=[*events, *added]), _probes(hand, rows, cut))


def _earlier(at: datetime, night: date, by: timedelta) -> datetime:
    """So much earlier, unless the row would then be later than any contract takes."""
    return at - by if night - (at - by).date() <= LATEST * DAY else at


def _unreported(hand: Hand, rows: Rows, cut: Cut) -> Step:
    at, reported, dice = hand.use_case.events.event_time, hand.use_case.labels.event_time, hand.dice

    def change(verdict: Row) -> Row:
        then = dice.choice((verdict[reported], verdict[reported], verdict[reported] + HOUR, cut.at + TICK))
        night = max(then.date(), dice.choice((verdict["day"], then.date())))
        return hand.turned(verdict) | {reported: then, "day": night, "known_at": known_at(night)}

    verdicts = hand.shaken(rows.verdicts, lambda verdict: verdict[reported] > cut.at, change)
    for event in hand.unjudged(rows):
        then = max(cut.at, event[at]) + dice.choice((TICK, HOUR, DAY))
        verdicts.append(hand.verdict(event, then, then.date() + dice.choice((0, 1)) * DAY, positive=True))
    return Step(rows._replace(verdicts=verdicts), _probes(hand, rows, cut))


def _late_verdicts(hand: Hand, rows: Rows, cut: Cut) -> Step:
    at, reported, dice = hand.use_case.events.event_time, hand.use_case.labels.event_time, hand.dice
    verdicts = hand.shaken(rows.verdicts, lambda verdict: verdict[reported] <= cut.at and verdict["day"] > cut.night, hand.turned)
    for event in hand.unjudged(rows):
        if event[at] <= cut.at:
            then = max(event[at], cut.at - dice.choice((timedelta(0), HOUR, DAY)))
            verdicts.append(hand.verdict(event, then, cut.night + dice.choice((1, 1, 3)) * DAY, positive=True))
    return Step(rows._replace(verdicts=verdicts), _probes(hand, rows, cut))


def _target_itself(hand: Hand, rows: Rows, cut: Cut) -> Step:
    key, reported = hand.use_case.events.key, hand.use_case.labels.event_time
    probes = _probes(hand, rows, cut)
    own = {verdict[key] for verdict in rows.verdicts if verdict[key] in probes and verdict[reported] > cut.at}
    verdicts = [hand.turned(v) if v[key] in own and v[reported] > cut.at else v for v in rows.verdicts]
    return Step(rows._replace(verdicts=verdicts), own)


def _other_order(hand: Hand, rows: Rows, cut: Cut) -> Step:
    mixed = [hand.dice.sample(side, len(side)) for side in (rows.events, rows.verdicts)]
    return Step(Rows(mixed[0], mixed[1], parts=5), {event[hand.use_case.events.key] for event in rows.events})


def together(hand: Hand, rows: Rows, cut: Cut) -> Step:
    """All of the above at once: what moves nothing here needs no trial one by one. No two of them change the same row."""
    changed = rows
    for change in (_later_events, _late_events, _unreported, _late_verdicts, _other_order):
        changed = change(hand, changed, cut).rows
    return Step(changed, _probes(hand, rows, cut))


def _other_nights(hand: Hand, rows: Rows, cut: Cut) -> Step:
    key = hand.use_case.events.key
    return Step(rows, {event[key] for event in rows.events if event["day"] == cut.night}, (cut.night,))


def _unrelated(hand: Hand, rows: Rows, cut: Cut) -> Step:
    key, at, dice = hand.use_case.events.key, hand.use_case.events.event_time, hand.dice
    islands: tuple[list[Row], list[Row]] = ([], [])
    for event in rows.events:
        islands[hand.island(event)].append(event)
    home = hand.island(dict(cut.ids))
    own, strangers = {event[key] for event in islands[home]}, islands[1 - home]

    def change(event: Row) -> Row:
        return hand.changed(event, event[at], event["day"], ids_of(hand, dice.choice(strangers)))

    added = [hand.event(event[at], event["day"], ids_of(hand, event)) for event in strangers[::20]]
    verdicts = [hand.turned(v) if v[key] not in own and dice.random() < 0.5 else v for v in rows.verdicts]
    events = hand.shaken(rows.events, lambda event: event[key] not in own, change)
    return Step(rows._replace(events=[*events, *added], verdicts=verdicts), own)


# What must matter.


def _past_events(hand: Hand, rows: Rows, cut: Cut) -> Step:
    key, at = hand.use_case.events.key, hand.use_case.events.event_time
    probes = _probes(hand, rows, cut)
    asked = {number for number in sorted(probes) if hand.dice.random() < 0.5}

    def change(event: Row) -> Row:
        return hand.changed(event, event[at], event["day"], ids_of(hand, event))

    return Step(rows._replace(events=hand.shaken(rows.events, lambda event: event[key] in probes - asked, change)), asked)


def _late_known(hand: Hand, rows: Rows, cut: Cut) -> Step:
    key, at = hand.use_case.events.key, hand.use_case.events.event_time
    probes = _probes(hand, rows, cut)
    late = {event[key] for event in rows.events if event[key] in probes and event["day"] > event[at].date()}
    return Step(rows._replace(events=[event for event in rows.events if event[key] not in late]), probes - late)


def _known_verdicts(hand: Hand, rows: Rows, cut: Cut) -> Step:
    reported = hand.use_case.labels.event_time
    verdicts = [hand.turned(v) if v[reported] <= cut.at and v["day"] <= cut.night else v for v in rows.verdicts]
    return Step(rows._replace(verdicts=verdicts), _probes(hand, rows, cut))


def _own_attributes(hand: Hand, rows: Rows, cut: Cut) -> Step:
    key, at, dice = hand.use_case.events.key, hand.use_case.events.event_time, hand.dice
    asked = {number for number in sorted(_probes(hand, rows, cut)) if dice.random() < 0.5}

    def changed(event: Row) -> Row:
        return hand.changed(event, _earlier(event[at], event["day"], dice.choice((HOUR, 13 * HOUR, DAY, 3 * DAY))), event["day"])

    return Step(rows._replace(events=[changed(event) if event[key] in asked else event for event in rows.events]), asked)


Change = Callable[[Hand, Rows, Cut], Step]
SINGLY: Mapping[str, Change] = {
    "later events": _later_events,
    "late-arriving events": _late_events,
    "unreported verdicts": _unreported,
    "late-arriving verdicts": _late_verdicts,
    "the target itself": _target_itself,
    "order of rows": _other_order,
}
"""What must not matter, and is tried one by one where all of it together moved something."""
ONCE: Mapping[str, Change] = {"other nights": _other_nights, "unrelated entities": _unrelated}
"""What must not matter, at the first cut of each world alone: it depends on no instant."""
MATTERS: Mapping[str, Change] = {
    "past events": _past_events,
    "late rows that were known": _late_known,
    "verdicts that were known": _known_verdicts,
    "the event's own attributes": _own_attributes,
}
