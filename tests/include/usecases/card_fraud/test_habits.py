"""Habits against their definitions, said once more in whole fractions: the same double, whatever the amounts, ties and late rows."""

from __future__ import annotations

import itertools
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.usecases.card_fraud.habits import COLUMNS, DAY, customer_habits

EPOCH = date(1970, 1, 1)
Row = tuple[int, int, int, bool]
"""Half days since 2000, nights of delay, cents, whether it is asked about."""
CENTS = st.integers(0, 9) | st.integers(0, 10**9)
ROW = st.tuples(st.integers(0, 80), st.sampled_from((0, 0, 0, 1, 4, 35)), CENTS, st.booleans())
HISTORIES = st.lists(st.lists(ROW, max_size=14), max_size=4)


def rows_of(customers: list[list[Row]]) -> tuple[pa.Table, np.ndarray]:
    ordered = [sorted(rows) for rows in customers if rows]
    flat = [row for rows in ordered for row in rows]
    at = [10_957 * DAY + half * DAY // 2 for half, *_ in flat]
    table = pa.table(
        {
            "transaction_id": pa.array(range(len(flat)), pa.int64()),
            "at": pa.array(at, pa.int64()),
            "day": pa.array([EPOCH + timedelta(days=t // DAY + late) for t, (_, late, *_) in zip(at, flat, strict=True)], pa.date32()),
            "cents": pa.array([cents for _, _, cents, _ in flat], pa.int64()),
            "is_asked": pa.array([asked for *_, asked in flat], pa.bool_()),
        }
    )
    return table, np.cumsum([0, *map(len, ordered)])


def quantile(values: list[Fraction], share: Fraction) -> Fraction:
    place = (len(values) - 1) * share
    below, ordered = int(place), sorted(values)
    return ordered[below] + (place - below) * (ordered[min(below + 1, len(values) - 1)] - ordered[below])


def wanted(rows: list[dict[str, Any]], me: dict[str, Any]) -> dict[str, float | None]:
    others = [r for r in rows if r is not me and r["day"] <= me["day"] and me["at"] - 30 * DAY < r["at"] <= me["at"]]
    told: dict[str, float | None] = dict.fromkeys(COLUMNS)
    amounts = [Fraction(r["cents"]) for r in others]
    if not amounts or not (median := quantile(amounts, Fraction(1, 2))):
        return told
    mine = Fraction(me["cents"])
    week = [r for r in others if r["at"] > me["at"] - 7 * DAY]
    told["amount_to_median"] = float(mine / median)
    told["largest_to_median_7d"] = float(max((Fraction(r["cents"]) for r in week), default=Fraction(0)) / median)
    return told


@settings(deadline=None, max_examples=150)
@given(HISTORIES)
def test_habits_are_what_their_definition_says(customers: list[list[Row]]) -> None:
    table, starts = rows_of(customers)
    held = table.to_pylist()
    groups = [held[a:b] for a, b in itertools.pairwise(starts)]
    expected = [{"transaction_id": me["transaction_id"]} | wanted(group, me) for group in groups for me in group if me["is_asked"]]
    assert customer_habits(table, starts).to_pylist() == expected


def test_a_customer_of_thousands_of_rows_is_no_different() -> None:
    dice = np.random.default_rng(4)
    halves, cents = dice.integers(0, 60, 3000).tolist(), dice.integers(1, 10**6, 3000).tolist()
    many = [(half, 0, amount, place % 700 == 0) for place, (half, amount) in enumerate(zip(halves, cents, strict=True))]
    table, starts = rows_of([many])
    held = table.to_pylist()
    assert customer_habits(table, starts).to_pylist() == [
        {"transaction_id": me["transaction_id"]} | wanted(held, me) for me in held if me["is_asked"]
    ]


@pytest.mark.parametrize(("others", "ratio"), [([], None), ([0, 0], None), ([10], 4.0), ([10, 30], 2.0), ([10, 30, 40], 4 / 3)])
def test_an_amount_of_forty_is_so_many_medians(others: list[int], ratio: float | None) -> None:
    table, starts = rows_of([[*((place, 0, cents, False) for place, cents in enumerate(others)), (20, 0, 40, True)]])
    assert customer_habits(table, starts).column("amount_to_median").to_pylist() == [ratio]
