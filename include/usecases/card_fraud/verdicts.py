"""A terminal's record of verdicts: what was known of its transactions of the last 37 days when another one happened there.

A terminal at which one fraud after the other is ordinary in its amount has been compromised; one whose frauds are all far above what
their customers usually spend has seen stolen cards. *Ordinary* is a fraud below twice its customer's median (`habits`), or of a
customer who has none. Ordinary frauds come in a row until a genuine verdict ends it; others neither count nor end it.

Of a transaction at time t in night D, a verdict is known when its report and the drops that brought it and its transaction are no
later than t and D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from include.usecases.card_fraud.habits import DAY

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("days_since_genuine", "ordinary_frauds_in_row", "days_ordinary_frauds_in_row")
RETURNS = "transaction_id bigint, " + ", ".join(f"{name} double" for name in COLUMNS)

REACH = 37 * DAY
"""Verdicts come a week late: these are the thirty days before that week, and what is known of the week itself."""


def terminal_verdicts(rows: pa.Table, starts: np.ndarray) -> pa.Table:
    """The record at each transaction that is asked about.

    Args:
        rows: by terminal and `at` (microseconds since 1970): transactions asked about (`is_fraud` null; `happened` as `at`), and
            verdicts (`at` is when it was reported, `happened` when its transaction was, `is_ordinary` said of frauds). `day` is the
            night that brought the row. `transaction_id`.
        starts: where each terminal begins.

    Returns:
        A row per transaction asked about; null where a figure is not defined (nothing of the kind is known).
    """
    import pyarrow as pa

    is_fraud = rows.column("is_fraud")
    asked = is_fraud.is_null().to_numpy(zero_copy_only=False)
    fraud, ordinary = (_flags(rows.column(name)) for name in ("is_fraud", "is_ordinary"))
    at, happened = (rows.column(name).to_numpy() for name in ("at", "happened"))
    day = rows.column("day").cast(pa.int32()).to_numpy()
    figures = _scan(starts, at, happened, day, asked, fraud, fraud & ordinary)
    columns = {name: pa.array(figures[:, place], from_pandas=True) for place, name in enumerate(COLUMNS)}
    return pa.table({"transaction_id": rows.column("transaction_id").filter(pa.array(asked)), **columns})


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    flags: np.ndarray = column.fill_null(False).to_numpy(zero_copy_only=False)
    return flags


@numba.njit(cache=True)
def _scan(
    starts: np.ndarray,
    at: np.ndarray,
    happened: np.ndarray,
    day: np.ndarray,
    asked: np.ndarray,
    fraud: np.ndarray,
    ordinary: np.ndarray,
) -> Any:
    """(transactions asked about, COLUMNS); NaN where a figure is not defined."""
    figures = np.full((int(asked.sum()), len(COLUMNS)), np.nan)
    known = np.empty(1024, np.int64)
    place = 0
    for group in range(len(starts) - 1):
        begin, end = starts[group], starts[group + 1]
        if end - begin > len(known):
            known = np.empty(2 * (end - begin), np.int64)
        low = high = begin
        for row in range(begin, end):
            while high < end and at[high] <= at[row]:
                high += 1
            while at[low] <= at[row] - REACH:
                low += 1
            if not asked[row]:
                continue
            count = 0
            for other in range(low, high):
                if not asked[other] and day[other] <= day[row] and happened[other] > at[row] - REACH:
                    known[count] = other
                    count += 1
            if count:
                _judge(figures[place], known[:count], at[row], at, fraud, ordinary)
            place += 1
    return figures


@numba.njit(cache=True)
def _judge(figures: np.ndarray, known: np.ndarray, now: int, at: np.ndarray, fraud: np.ndarray, ordinary: np.ndarray) -> None:
    """One transaction's figures, from the verdicts known then, by the time of their report."""
    last_genuine = -1
    for verdict in known:
        if not fraud[verdict]:
            last_genuine = at[verdict]
    if last_genuine >= 0:
        figures[0] = (now - last_genuine) / DAY
    in_row = 0
    for verdict in known:
        if ordinary[verdict] and at[verdict] > last_genuine:
            in_row += 1
            if in_row == 1:
                figures[2] = (now - at[verdict]) / DAY
    figures[1] = in_row
