"""dbt's features against a brute-force reference that knows nothing of windows, running sums or joins: equal to the last bit.

Each night is built twice, by itself when nothing later has landed and again together with all others: a night that saw
what came after it, or missed what came late, would differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from include.nightshift.errors import ContractError
from include.nightshift.features import build, project
from include.nightshift.ingest import ingest
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.lakehouse import storage, tables
from include.nightshift.lakehouse.session import rows
from include.nightshift.settings import Settings
from include.nightshift.usecase import Feed, UseCase

DAY = timedelta(days=1)
NIGHTS = [date(2014, 1, 1) + n * DAY for n in (0, 1, 2, 7, 8, 9, 15, 24, 30, 31, 37, 38, 39, 44, 45, 52, 60, 67, 71, 72, 77, 78, 79)]
"""Nights with a drop: few, because each costs files, but as far apart as the longest window and the latest row reach together."""
ONE_BY_ONE = 2
"""So many last nights land and are built one after the other."""
WINDOWS = (1, 7, 30)

Land = Callable[[Feed, date, Iterable[Sequence[object]]], Path]


@dataclass(frozen=True)
class Event:
    id: int
    night: date
    at: datetime
    customer: int
    terminal: int
    cents: int


@dataclass(frozen=True)
class Judged:
    event: int
    night: date
    fraud: int
    reported: datetime


def world(seed: int = 3) -> tuple[list[Event], list[Judged]]:
    """Eighty days of three customers and four terminals: rows late by up to 35 nights, ties, verdicts early, late and on the dot."""
    dice = random.Random(seed)  # noqa: S311 - a world to compute on, not a secret
    events: list[Event] = []
    verdicts: list[Judged] = []
    for night in NIGHTS:
        for _ in range(dice.randint(10, 16)):
            late = dice.choice((0, 0, 1, 2, 3, 5, 8, 13, 35)) * DAY
            # Few times of day, so that rows meet each other and the edges of windows exactly.
            at = datetime.combine(night, datetime.min.time(), UTC) - late + timedelta(hours=dice.choice((0, 6, 7, 12, 23)))
            event = Event(14_000_000 + len(events), night, at, dice.randint(1, 3), dice.randint(1, 4), dice.randint(0, 30_000))
            events.append(event)
            reported = (
                at + 7 * DAY + dice.choice((-3 * DAY, timedelta(0), timedelta(0), timedelta(microseconds=1), timedelta(hours=5), 4 * DAY))
            )
            told = reported.date() + dice.choice((0, 0, 0, 1, 5)) * DAY
            if drop := next((later for later in NIGHTS if later >= told), None):
                verdicts.append(Judged(event.id, drop, int(dice.random() < 0.4), reported))
    return events, verdicts


def reference(events: list[Event], verdicts: list[Judged], event: Event) -> dict[str, float | None]:
    """The features of one event, read off the definition (architecture: every row has two clocks)."""
    known = [e for e in events if e.night <= event.night and e.at <= event.at]
    frauds = {v.event for v in verdicts if v.fraud and v.night <= event.night and v.reported <= event.at}
    features: dict[str, float | None] = {
        "tx_amount": event.cents / 100,
        "is_weekend": float(event.at.weekday() >= 5),
        "is_night": float(event.at.hour <= 6),
    }
    for days in WINDOWS:
        own = [e for e in known if e.customer == event.customer and e.at > event.at - days * DAY]
        end = event.at - 7 * DAY
        there = [e for e in known if e.terminal == event.terminal and end - days * DAY < e.at <= end]
        features[f"customer_count_{days}d"] = float(len(own))
        features[f"customer_mean_{days}d"] = sum(e.cents for e in own) / 100 / len(own)
        features[f"terminal_count_{days}d"] = float(len(there))
        features[f"terminal_risk_{days}d"] = sum(e.id in frauds for e in there) / len(there) if there else 0.0
    habits = {f"customer_{name}": value for name, value in customer_habits(events, event).items()}
    record = {f"terminal_{name}": value for name, value in terminal_record(events, verdicts, event).items()}
    return features | habits | record


def customer_habits(events: list[Event], event: Event) -> dict[str, float | None]:
    """In whole fractions until the end, so that the figure is the nearest double to the true one."""
    others = [
        e
        for e in events
        if e.customer == event.customer and e is not event and e.night <= event.night and event.at - 30 * DAY < e.at <= event.at
    ]
    middle = quantile([e.cents for e in others], Fraction(1, 2)) if others else Fraction(0)
    if not middle:
        return {"amount_to_median": None, "largest_to_median_7d": None}
    week = [e.cents for e in others if e.at > event.at - 7 * DAY]
    return {"amount_to_median": float(event.cents / middle), "largest_to_median_7d": float(max(week, default=0) / middle)}


def terminal_record(events: list[Event], verdicts: list[Judged], event: Event) -> dict[str, float | None]:
    by_id = {e.id: e for e in events}
    known = []
    for v in verdicts:
        of = by_id[v.event]
        reported = max(v.reported, of.at)
        if of.terminal == event.terminal and of.at > event.at - 37 * DAY and reported <= event.at and max(v.night, of.night) <= event.night:
            ratio = customer_habits(events, of)["amount_to_median"]
            known.append((reported, v.fraud, v.fraud and (ratio is None or ratio < 2)))
    genuine = [reported for reported, fraud, _ in known if not fraud]
    in_row = [reported for reported, _, ordinary in known if ordinary and (not genuine or reported > max(genuine))]
    return {
        "days_since_genuine": (event.at - max(genuine)) / DAY if genuine else None,
        "ordinary_frauds_in_row": float(len(in_row)) if known else None,
        "days_ordinary_frauds_in_row": (event.at - min(in_row)) / DAY if in_row else None,
    }


def quantile(values: Sequence[int | Fraction], share: Fraction) -> Fraction:
    """Hyndman and Fan's definition 7."""
    ordered = sorted(map(Fraction, values))
    place = (len(ordered) - 1) * share
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def built(session: SparkSession, use_case: UseCase, first: date, last: date) -> dict[int, dict[str, Any]]:
    table = tables.features(use_case)
    query = f"select transaction_id, {', '.join(use_case.feature_names)} from {table} where day between :first and :last"
    return {row.pop("transaction_id"): row for row in rows(session, query, first=first, last=last)}


@pytest.mark.lakehouse
@pytest.mark.timeout(600)
def test_features_equal_the_reference_built_night_by_night_and_all_at_once(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    events, verdicts = world()
    for night in NIGHTS:
        of_night = [e for e in events if e.night == night]
        land(use_case.events, night, [(e.id, e.at.strftime("%F %T"), e.customer, e.terminal, f"{e.cents / 100:.2f}") for e in of_night])
        told = [v for v in verdicts if v.night == night]
        land(use_case.labels, night, [(v.event, v.fraud, v.reported.strftime("%F %T.%f")) for v in told])
    wanted = {e.id: reference(events, verdicts, e) for e in events}

    opening, last = NIGHTS[:-ONE_BY_ONE], NIGHTS[-ONE_BY_ONE:]
    # Three of four rows are late here, which no contract would stand.
    feeds = [replace(feed, batch_rules=()) for feed in use_case.feeds]
    for feed in feeds:
        brought = ingest(session, installation, feed, opening)
        assert sum(brought.landed.values()) == sum(brought.accepted.values()) > 100

    for night in last:
        for feed in feeds:
            assert ingest(session, installation, feed, [night]).rejected == {night: 0}
        build.build(session, installation, use_case, [night])
        assert built(session, use_case, night, night) == {e.id: wanted[e.id] for e in events if e.night == night}

    everything = build.build(session, installation, use_case, NIGHTS)
    assert everything.rows == {night: sum(e.night == night for e in events) for night in NIGHTS}
    assert built(session, use_case, NIGHTS[0], NIGHTS[-1]) == wanted

    again = build.build(session, installation, use_case, NIGHTS)
    assert again.version == everything.version
    assert session.conf.get("spark.sql.ansi.enabled") == "true"


def test_the_world_of_the_test_holds_what_it_is_about() -> None:
    events, verdicts = world()
    by_id = {e.id: e for e in events}
    values = [reference(events, verdicts, e) for e in events]
    assert sum(0 < (value["terminal_risk_7d"] or 0) < 1 for value in values) > 30
    for name in values[0]:
        assert len({value[name] for value in values}) > 1, f"{name} is always the same"
    assert sum(value["terminal_ordinary_frauds_in_row"] == 2 for value in values) > 5
    assert sum(value["customer_largest_to_median_7d"] == 0 for value in values) > 5
    assert sum(e.night > e.at.date() for e in events) > 100
    assert sum(v.night > v.reported.date() for v in verdicts) > 50
    assert sum(v.reported == by_id[v.event].at + 7 * DAY for v in verdicts) > 50
    # Each clock matters: without it, some figure would be another.
    timeless = [replace(e, night=NIGHTS[0]) for e in events]
    for blind in (
        [reference(timeless, verdicts, e) for e in events],
        [reference(events, [replace(v, night=NIGHTS[0]) for v in verdicts], e) for e in events],
        [reference(events, [replace(v, reported=by_id[v.event].at) for v in verdicts], e) for e in events],
    ):
        assert sum(seen != value for seen, value in zip(blind, values, strict=True)) > 5


@pytest.mark.lakehouse
def test_a_build_that_fails_says_what_dbt_said(session: SparkSession, installation: Settings, use_case: UseCase) -> None:
    with pytest.raises(ContractError, match=r"(?s)dbt build failed: card_fraud_reach: .*no night"):
        project.dbt(
            session, installation, [use_case], ["build", "--select", "card_fraud_reach"], first_night="no night", last_night="no night"
        )


@pytest.mark.lakehouse
def test_dbt_works_on_the_session_it_is_given_also_when_the_first_of_the_process_is_closed(
    installation: Settings, use_case: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, given = lakehouse.opened(installation), lakehouse.opened(installation)
    monkeypatch.setattr(type(given), "_default_session", first)
    try:
        given.range(3).createOrReplaceTempView("known_to_one_session")
        for _ in ("open", "closed"):
            project.dbt(given, installation, [use_case], ["compile", "--inline", "{{ run_query('select * from known_to_one_session') }}"])
            first.stop()
    finally:
        first.stop()
        given.stop()


def test_a_build_that_lost_rows_is_refused_and_tells_what_ran(
    records_home: Settings, use_case: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = date(2014, 1, 1)
    silver, features = tables.silver(use_case.events), tables.features(use_case)
    at = datetime.combine(night, datetime.min.time(), UTC)
    event = {"day": night, "tx_datetime": at, "customer_id": 1, "terminal_id": 1, "tx_amount": Decimal(1), "known_at": at}
    for table, held in ((silver, [event | {"transaction_id": place} for place in (1, 2)]), (features, [])):
        write_deltalake(storage.location(records_home, table), table.arrow(held), partition_by=["day"])
    node = project.Node("card_fraud_features", "model", "success", 1.0, 1, "")
    monkeypatch.setattr(project, "dbt", lambda *_, **__: [node])
    session = cast("SparkSession", None)
    with pytest.raises(project.BuildError, match=r"night 2014-01-01: 0 rows, expected 2, one per row of silver\.transactions") as raised:
        build.build(session, records_home, use_case, [night])
    assert raised.value.nodes == (node,)
