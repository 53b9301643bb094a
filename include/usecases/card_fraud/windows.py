"""Sums and counts over the last 1, 7 and 30 days, of a customer and of a terminal, as the transaction's own night knew them.

Whole numbers only, as differences of running sums: exact, and a row costs the same however long its window. A running sum holds what
came with a later night or was reported later; that is taken off again, row by row, for it is little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from include.usecases.card_fraud.habits import DAY

if TYPE_CHECKING:
    import pyarrow as pa

WINDOWS = (1, 7, 30)
"""In days."""
DELAY = 7
"""Days after which verdicts come in: a terminal's windows end so many days ago, because its frauds are not known before."""


def _columns(*figures: str) -> tuple[str, ...]:
    return tuple(f"{figure}_{days}d" for figure in figures for days in WINDOWS)


CUSTOMER, TERMINAL = _columns("count", "cents"), _columns("terminal_count", "terminal_frauds")
CARRIED = {
    "transaction_id": "bigint",
    "terminal_id": "bigint",
    "day": "date",
    "at": "bigint",
    "is_event": "boolean",
    "fraud_reported": "bigint",
    "fraud_told": "date",
}
"""What the terminal's windows need: carried along, because joining it again costs more than all sums."""


def _returns(*names: str) -> str:
    return ", ".join(f"{name} bigint" for name in names)


CUSTOMER_RETURNS = ", ".join(f"{name} {type_}" for name, type_ in CARRIED.items()) + ", " + _returns(*CUSTOMER)
TERMINAL_RETURNS = _returns("transaction_id", *CUSTOMER, *TERMINAL)


def customer_windows(rows: pa.Table, starts: np.ndarray) -> pa.Table:
    """What the customer did until each transaction, this one included.

    Args:
        rows: transactions by customer and `at` (microseconds since 1970): `cents`, and the columns CARRIED. `day` is the night that
            brought the row, never before the day of `at`.
        starts: where each customer begins.

    Returns:
        A row per transaction: CARRIED, counts and cents.
    """
    at, cents = (rows.column(name).to_numpy() for name in ("at", "cents"))
    day = _days(rows.column("day"))
    counted = (known_sums(starts, at, day, value, at, day, 0) for value in (np.ones_like(cents), cents))
    return _with(rows.select(list(CARRIED)), CUSTOMER, counted)


def terminal_windows(rows: pa.Table, starts: np.ndarray) -> pa.Table:
    """What happened at the terminal until DELAY days before each transaction that is an event, and how much of it was known as fraud.

    Args:
        rows: what `customer_windows` returns, by terminal and `at`. Of a fraud, `fraud_reported` (as `at`) and `fraud_told` (the night
            that brought verdict and transaction) say since when it was known; both are null for others.
        starts: where each terminal begins.

    Returns:
        A row per event: `transaction_id`, the customer's counts and cents, the terminal's counts and frauds.
    """
    at = rows.column("at").to_numpy()
    day = _days(rows.column("day"))
    is_fraud = rows.column("fraud_told").is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
    reported = rows.column("fraud_reported").fill_null(0).to_numpy()
    told = _days(rows.column("fraud_told"))
    counts = known_sums(starts, at, day, np.ones_like(at), at, day, DELAY * DAY)
    frauds = known_sums(starts, at, day, is_fraud, reported, told, DELAY * DAY)
    told_of = _with(rows.select(["transaction_id", *CUSTOMER]), TERMINAL, (counts, frauds))
    return told_of.filter(rows.column("is_event"))


def _days(column: pa.ChunkedArray) -> np.ndarray:
    """Dates as days since 1970; null as 0."""
    import pyarrow as pa

    days: np.ndarray = column.cast(pa.int32()).fill_null(0).to_numpy()
    return days


def _with(table: pa.Table, names: tuple[str, ...], figures: Any) -> pa.Table:
    import pyarrow as pa

    columns = (figure[:, place] for figure in figures for place in range(len(WINDOWS)))
    for name, column in zip(names, columns, strict=True):
        table = table.append_column(name, pa.array(column))
    return table


@numba.njit(cache=True)
def known_sums(
    starts: np.ndarray, at: np.ndarray, day: np.ndarray, value: np.ndarray, reported: np.ndarray, told: np.ndarray, delay: int
) -> Any:
    """Sums of `value` over the rows of the same group in (at - delay - window, at - delay] that were known.

    A value is known to a row at time t in night D when it was reported by t and told by D.

    Returns:
        (rows, WINDOWS), int64.
    """
    sums = np.zeros((len(at), len(WINDOWS)), np.int64)
    running = np.concatenate((np.zeros(1, np.int64), np.cumsum(value)))
    # Only these can be unknown to a row that is `delay` later: no row's night is before its own day.
    tardy = np.flatnonzero((value != 0) & ((reported > at + delay) | (told > (at + delay) // DAY)))
    oldest = 0
    for group in range(len(starts) - 1):
        low = np.full(len(WINDOWS), starts[group])
        high = starts[group]
        for row in range(starts[group], starts[group + 1]):
            last = at[row] - delay
            while high < starts[group + 1] and at[high] <= last:
                high += 1
            for place in range(len(WINDOWS)):
                while low[place] < high and at[low[place]] <= last - WINDOWS[place] * DAY:
                    low[place] += 1
                sums[row, place] = running[high] - running[low[place]]
            while oldest < len(tardy) and tardy[oldest] < low[-1]:
                oldest += 1
            number = oldest
            while number < len(tardy) and tardy[number] < high:
                other = tardy[number]
                if reported[other] > at[row] or told[other] > day[row]:
                    sums[row] -= np.where(other >= low, value[other], 0)
                number += 1
    return sums
