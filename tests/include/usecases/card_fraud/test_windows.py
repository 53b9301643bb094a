"""Sums and counts against their definitions, row by row: both clocks, ties, late rows, late verdicts."""

from __future__ import annotations

import itertools
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from include.usecases.card_fraud.habits import DAY
from include.usecases.card_fraud.windows import CARRIED, CUSTOMER, DELAY, TERMINAL, WINDOWS, customer_windows, terminal_windows

EPOCH = date(1970, 1, 1)
LATE = st.sampled_from((0, 0, 0, 1, 4, 35))
Row = tuple[int, int, int, bool, tuple[int, int] | None]
"""Half days since 2000, nights of delay, cents, whether it is an event; of a fraud, half days until its report and nights until told."""
VERDICT = st.none() | st.tuples(st.integers(0, 20), st.integers(-5, 20))
ROW = st.tuples(st.integers(0, 90), LATE, st.integers(0, 10**9), st.booleans(), VERDICT)
HISTORIES = st.lists(st.lists(ROW, max_size=14), max_size=4)


def rows_of(groups: list[list[Row]]) -> tuple[pa.Table, np.ndarray]:
    ordered = [sorted(rows, key=lambda row: row[0]) for rows in groups if rows]
    held = []
    for half, late, cents, is_event, verdict in (row for rows in ordered for row in rows):
        at = 10_957 * DAY + half * DAY // 2
        day = EPOCH + timedelta(days=at // DAY + late)
        told = verdict and max(day, EPOCH + timedelta(days=at // DAY + verdict[1]))
        reported = verdict and at + verdict[0] * DAY // 2
        held.append({"at": at, "day": day, "cents": cents, "is_event": is_event, "fraud_reported": reported, "fraud_told": told})
    types = {"at": pa.int64(), "day": pa.date32(), "cents": pa.int64(), "is_event": pa.bool_()}
    types |= {"fraud_reported": pa.int64(), "fraud_told": pa.date32()}
    table = pa.Table.from_pylist(held, schema=pa.schema(list(types.items())))
    table = table.append_column("transaction_id", pa.array(range(len(held)), pa.int64()))
    table = table.append_column("terminal_id", pa.array(range(len(held)), pa.int64()))
    return table, np.cumsum([0, *map(len, ordered)])


def within(me: dict[str, Any], rows: list[dict[str, Any]], days: int, delay: int) -> list[dict[str, Any]]:
    end = me["at"] - delay * DAY
    return [row for row in rows if end - days * DAY < row["at"] <= end and row["day"] <= me["day"]]


def groups_of(table: pa.Table, starts: np.ndarray) -> list[list[dict[str, Any]]]:
    held = table.to_pylist()
    return [held[a:b] for a, b in itertools.pairwise(starts)]


@settings(deadline=None, max_examples=150)
@given(HISTORIES)
def test_a_customers_counts_and_cents_are_what_its_night_knew(customers: list[list[Row]]) -> None:
    table, starts = rows_of(customers)
    expected = []
    for group in groups_of(table, starts):
        for me in group:
            seen = [within(me, group, days, 0) for days in WINDOWS]
            figures = [*map(len, seen), *(sum(row["cents"] for row in rows) for rows in seen)]
            expected.append({name: me[name] for name in CARRIED} | dict(zip(CUSTOMER, figures, strict=True)))
    assert customer_windows(table, starts).to_pylist() == expected


@settings(deadline=None, max_examples=150)
@given(HISTORIES)
def test_a_terminals_counts_and_frauds_are_what_was_known_of_the_days_that_end_a_week_ago(terminals: list[list[Row]]) -> None:
    table, starts = rows_of(terminals)
    for place, name in enumerate(CUSTOMER):
        table = table.append_column(name, pa.array(range(place, place + table.num_rows), pa.int64()))
    expected = []
    for group in groups_of(table, starts):
        for me in (row for row in group if row["is_event"]):
            seen = [within(me, group, days, DELAY) for days in WINDOWS]
            known = [
                [row for row in rows if row["fraud_told"] and row["fraud_reported"] <= me["at"] and row["fraud_told"] <= me["day"]]
                for rows in seen
            ]
            figures = [*map(len, seen), *map(len, known)]
            expected.append({name: me[name] for name in ("transaction_id", *CUSTOMER)} | dict(zip(TERMINAL, figures, strict=True)))
    assert terminal_windows(table, starts).to_pylist() == expected
