"""A customer's habits: what an amount is beside the customer's other amounts of the last thirty days.

Of a transaction at time t in night D, the others are the customer's transactions in (t - 30 days, t] that came with D or an earlier
night, the transaction itself left out. Amounts are whole cents, and the median of an even number of them is the mean of the middle two,
so every figure is a ratio of two integers: the same on every machine, however the rows were parted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

DAY = 86_400_000_000
"""In microseconds, the unit of `at`."""

COLUMNS = ("amount_to_median", "largest_to_median_7d")
RETURNS = "transaction_id bigint, " + ", ".join(f"{name} double" for name in COLUMNS)


def customer_habits(rows: pa.Table, starts: np.ndarray) -> pa.Table:
    """The habits at each transaction that is asked about.

    Args:
        rows: `transaction_id`, `at` (microseconds since 1970), `day`, `cents`, `is_asked`, by customer and `at`.
        starts: where each customer begins.

    Returns:
        A row per transaction asked about; null where there is no median: no others, or one of nothing.
    """
    import pyarrow as pa

    asked = rows.column("is_asked").to_numpy(zero_copy_only=False)
    at, cents = (rows.column(name).to_numpy() for name in ("at", "cents"))
    day = rows.column("day").cast(pa.int32()).to_numpy()
    figures = _scan(starts, at, day, cents, asked)
    columns = {name: pa.array(figures[:, place], from_pandas=True) for place, name in enumerate(COLUMNS)}
    return pa.table({"transaction_id": rows.column("transaction_id").filter(pa.array(asked)), **columns})


@numba.njit(cache=True)
def _scan(starts: np.ndarray, at: np.ndarray, day: np.ndarray, cents: np.ndarray, asked: np.ndarray) -> Any:
    """(transactions asked about, COLUMNS); NaN where a figure is not defined."""
    figures = np.full((int(asked.sum()), len(COLUMNS)), np.nan)
    others = np.empty(1024, np.int64)
    place = 0
    for group in range(len(starts) - 1):
        begin, end = starts[group], starts[group + 1]
        if end - begin > len(others):
            others = np.empty(2 * (end - begin), np.int64)
        low = high = begin
        for row in range(begin, end):
            while high < end and at[high] <= at[row]:
                high += 1
            while at[low] <= at[row] - 30 * DAY:
                low += 1
            if not asked[row]:
                continue
            count = 0
            for other in range(low, high):
                if other != row and day[other] <= day[row]:
                    others[count] = cents[other]
                    count += 1
            if count:
                _judge(figures[place], others[:count], row, low, high, at, day, cents)
            place += 1
    return figures


@numba.njit(cache=True)
def _judge(
    figures: np.ndarray, others: np.ndarray, row: int, low: int, high: int, at: np.ndarray, day: np.ndarray, cents: np.ndarray
) -> None:
    """One transaction's figures, from the amounts of the others (which are sorted in place)."""
    others.sort()
    median_2 = others[(len(others) - 1) // 2] + others[len(others) // 2]
    if median_2 <= 0:
        return
    largest = 0
    for other in range(low, high):
        if other != row and day[other] <= day[row] and at[other] > at[row] - 7 * DAY:
            largest = max(largest, cents[other])
    figures[0] = 2 * cents[row] / median_2
    figures[1] = 2 * largest / median_2
