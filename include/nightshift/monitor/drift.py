"""Drift: how far each column of a night has moved from what the champion was trained on. Diagnosis and warning only.

`reference` is taken once, when a model is trained, and travels with it as JSON; `judge` holds a night against it. The
labelled layer (`trigger`) decides about retraining: a moved column may be harmless, and a harmful change may move none.

The measure is the population stability index, the symmetrised Kullback-Leibler divergence of two binned shares,
`sum((p - q) * ln(p / q))`; see Yurdakul and Naranjo, "Statistical properties of the population stability index",
Journal of Risk Model Validation 14(4), 2020. They show that without any drift it is about chi-square with (bins - 1)
degrees of freedom times (1/n + 1/m), so small samples look drifted: give it thousands of rows, not dozens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from include.nightshift.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ColumnDrift:
    """The verdict on one column of one night: a row of `ops.drift_metrics`."""

    column: str
    measure: Literal["psi"]
    value: float | None
    """None where the verdict is `unknown`."""
    threshold: float
    verdict: Literal["stable", "drifted", "unknown"]
    """`drifted` above the threshold; `unknown` where either side lacks the column or has no rows."""


def reference(columns: Mapping[str, np.ndarray], bins: int = 10) -> dict[str, dict[str, Any]]:
    """Describe columns by their binned shares, as a JSON-serialisable value.

    Bins are cut at the column's quantiles. A value that fills a quantile bin by itself, and every value of a column with
    at most `bins` of them (flags, constants), is a *point*: it gets a bin of its own, so that a flag that turns rare or a
    constant that breaks is seen. Values that are no finite number (NaN, infinities, None) share the last bin.

    Args:
        columns: numbers by column name; rows need not be aligned between columns.
        bins: quantile bins of a column with many values.

    Returns:
        By column name: `n` rows, ascending `edges`, whether each is one of the `points`, and the `shares` of the
        2 * len(edges) + 2 bins: below the first edge, at it, between it and the second, at the second, …, above the last,
        not a number. A share "at" an edge that is no point stays 0: its rows are counted below it.

    Raises:
        ConfigurationError: fewer than two bins.
    """
    if bins < 2:
        raise ConfigurationError(f"drift reference with bins={bins}: one bin sees nothing, ask for at least 2 (usually 10)")
    return {name: _describe(values, bins) for name, values in columns.items()}


def population_stability_index(reference_column: Mapping[str, Any], values: np.ndarray) -> float:
    """How far `values` have moved from the reference: 0 for equal counts, never negative, the order of rows is ignored.

    Shares are Laplace-smoothed (one row is added to each bin that either side uses), so an empty bin costs a finite amount.

    Args:
        reference_column: one column's entry in what `reference` returned.
        values: that column's numbers today.

    Raises:
        ValueError: either side has no rows; nothing can be said then.
    """
    import numpy as np

    n = reference_column["n"]
    if n == 0 or len(values) == 0:
        raise ValueError(f"no stability index of {len(values)} rows against a reference of {n}: both need rows, judge() calls this unknown")
    before = np.rint(np.asarray(reference_column["shares"], dtype=np.float64) * n)
    now = _counts(values, np.asarray(reference_column["edges"], dtype=np.float64), np.asarray(reference_column["points"], dtype=bool))
    used = before + now > 0
    expected, actual = before[used] + 1, now[used] + 1
    expected, actual = expected / expected.sum(), actual / actual.sum()
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def judge(reference: Mapping[str, Mapping[str, Any]], columns: Mapping[str, np.ndarray], threshold: float) -> list[ColumnDrift]:
    """Hold each column of a night against the reference.

    Args:
        reference: what `reference` returned, possibly read back from JSON.
        columns: the night's numbers by column name.
        threshold: the index above which a column is `drifted`.

    Returns:
        One verdict per column that either side knows: the reference's in its order, then those that are new.
    """
    judged = []
    for name in [*reference, *(name for name in columns if name not in reference)]:
        known, values = reference.get(name), columns.get(name)
        if known is None or values is None or known["n"] == 0 or len(values) == 0:
            judged.append(ColumnDrift(name, "psi", None, threshold, "unknown"))
            continue
        value = population_stability_index(known, values)
        judged.append(ColumnDrift(name, "psi", value, threshold, "drifted" if value > threshold else "stable"))
    return judged


def _describe(values: np.ndarray, bins: int) -> dict[str, Any]:
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    distinct = np.unique(finite)
    if len(distinct) <= bins:
        edges, points = distinct, np.ones(len(distinct), dtype=bool)
    else:
        # Quantiles that are values of the column, not midpoints: a heavy value then repeats exactly, and shows as a point.
        cuts = np.quantile(finite, np.arange(1, bins) / bins, method="inverted_cdf")
        edges, repeats = np.unique(cuts, return_counts=True)
        points = repeats > 1
    counts = _counts(numbers, edges, points)
    shares = counts / len(numbers) if len(numbers) else counts
    return {"n": len(numbers), "edges": edges.tolist(), "points": points.tolist(), "shares": shares.tolist()}


def _counts(values: np.ndarray, edges: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Rows per bin, in the order that `reference` documents."""
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(numbers)
    # An odd bin lies at an edge, the even bins lie between edges.
    place = np.searchsorted(edges, numbers, side="left") + np.searchsorted(edges, numbers, side="right")
    at_no_point = np.concatenate([np.column_stack([np.zeros(len(edges), dtype=bool), ~points]).ravel(), [False]])
    place = np.where(finite, place - at_no_point[np.where(finite, place, 0)], 2 * len(edges) + 1)
    return np.bincount(place, minlength=2 * len(edges) + 2).astype(np.float64)
