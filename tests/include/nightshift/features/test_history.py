"""However a history came to be (late rows, corrected days, gaps, nights in another order), once the stale nights are rebuilt in order
its features are those of one full build, row for row.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from include.nightshift import nights as nights_module
from include.nightshift.features import build
from include.nightshift.lakehouse import stale, tables, writes
from include.nightshift.lakehouse.session import rows
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

DAY = timedelta(days=1)
OFFSETS = (0, 1, 6, 7, 8, 29, 36)
"""Nights that may have a drop: as near and as far from each other as windows are long."""
APART = 200
"""Days between the histories of two examples: no window reaches over, so that they need not be cleared."""
EXAMPLES = itertools.count()

HISTORIES = int(os.environ.get("NIGHTSHIFT_TEST_HISTORIES", "0"))
"""So many are drawn beside the one that is told here: each costs a minute (`bench/histories.py`)."""

LATE, HOURS, CENTS, SLACK = (0, 0, 0, 1, 7, 34), (0, 7, 23), (100, 250, 900), (-1, 0, 0, 0, 3)
EVENT = st.tuples(st.sampled_from(LATE), st.sampled_from(HOURS), st.integers(1, 2), st.integers(1, 2), st.sampled_from(CENTS))
"""Days late, hour, customer, terminal, cents."""
VERDICT = st.tuples(st.sampled_from(SLACK), st.booleans())
"""Days that the report is late (or early), fraud."""
DROP = st.lists(st.tuples(EVENT, VERDICT), min_size=1, max_size=5)


@dataclass(frozen=True)
class History:
    """What each night's drop holds when it has come for the last time, and the order in which drops come, with their contents."""

    landings: tuple[tuple[int, Any], ...]


def history(nights: Sequence[int], rows: int) -> History:
    """Drops of those nights, in that order; one that comes twice is corrected by the second."""
    dice = random.Random(5)  # noqa: S311 - a world to compute on, not a secret

    def row() -> Any:
        event = (dice.choice(LATE), dice.choice(HOURS), dice.randint(1, 2), dice.randint(1, 2), dice.choice(CENTS))
        return event, (dice.choice(SLACK), dice.random() < 0.5)

    return History(tuple((night, [row() for _ in range(rows)]) for night in nights))


@st.composite
def histories(draw: st.DrawFn) -> History:
    drops = draw(st.dictionaries(st.sampled_from(OFFSETS), DROP, min_size=3, max_size=4))
    corrected = draw(st.lists(st.sampled_from(sorted(drops)), max_size=1))
    landings = [(night, drop) for night, drop in drops.items()] + [(night, draw(DROP)) for night in corrected]
    return History(tuple(draw(st.permutations(landings))))


def land(
    session: SparkSession, installation: Settings, use_case: UseCase, first: date, offset: int, drop: Any, told: dict[int, Any]
) -> None:
    """Put a night's rows, and the verdicts on them, into silver as ingest does."""
    night = first + offset * DAY
    before = silver_rows(first, told)
    told[offset] = drop
    for feed, held, made in zip(use_case.feeds, before, silver_rows(first, told), strict=True):
        table = tables.silver(feed)
        # Equal nights are left alone, as by a second ingest.
        slice_ = {"day": sorted({row["day"] for row in (*held, *made)} | {night})}
        writes.replace(
            session,
            installation,
            table,
            writes.in_memory(session, table.arrow(made)),
            slice_,
            rows_expected=len(made),
            changing=lambda nights, feed=feed: stale.mark_dependents(installation, feed, nights),
        )


def silver_rows(first: date, told: dict[int, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    events, labels = [], []
    for offset, drop in told.items():
        night = first + offset * DAY
        for place, ((late, hour, customer, terminal, cents), (slack, fraud)) in enumerate(drop):
            key = night.toordinal() * 10 + place
            at = datetime.combine(night - late * DAY, datetime.min.time(), UTC) + timedelta(hours=hour)
            ids = {"transaction_id": key, "customer_id": 70 + customer, "terminal_id": 70 + terminal}
            events.append(
                ids | {"day": night, "tx_datetime": at, "tx_amount": Decimal(cents) / 100, "known_at": nights_module.known_at(night)}
            )
            reported = at + (7 + slack) * DAY
            day = max(reported.date(), night)
            labels.append(
                {
                    "day": day,
                    "transaction_id": key,
                    "tx_fraud": int(fraud),
                    "reported_at": reported,
                    "known_at": nights_module.known_at(day),
                }
            )
    return events, labels


@pytest.mark.lakehouse
@pytest.mark.timeout(900 + 300 * HISTORIES)
@settings(
    max_examples=HISTORIES or 1,
    phases=[Phase.explicit, Phase.generate, Phase.shrink] if HISTORIES else [Phase.explicit],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(history(nights=(36, 0, 7, 0), rows=6))
@given(histories())
def test_nights_built_as_they_came_and_mended_in_order_equal_one_full_build(
    session: SparkSession, installation: Settings, use_case: UseCase, history: History
) -> None:
    first = date(1982, 1, 1) + next(EXAMPLES) * APART * DAY
    told: dict[int, Any] = {}
    for offset, drop in history.landings:
        land(session, installation, use_case, first, offset, drop, told)
        build.build(session, installation, use_case, [first + offset * DAY])
    last = first + max(told) * DAY
    table = tables.features(use_case)
    for night in [night for night in stale.waiting(installation, table) if first <= night <= last]:
        build.build(session, installation, use_case, [night])
    query = f"select * from {table} where day between :first and :last order by transaction_id"
    mended = rows(session, query, first=first, last=last)
    assert {row["day"] for row in mended} == {first + offset * DAY for offset in told}

    session.sql(f"delete from {table} where day between date'{first}' and date'{last}'")
    build.build(session, installation, use_case, list(nights_module.between(first, last)))
    assert rows(session, query, first=first, last=last) == mended
    assert [night for night in stale.waiting(installation, table) if first <= night <= last] == []
