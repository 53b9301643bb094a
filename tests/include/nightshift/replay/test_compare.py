"""What differs between two versions of the same rows, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.nightshift.lakehouse import tables
from include.nightshift.replay.compare import NAMED, Difference, compared
from include.usecases.card_fraud.usecase import USE_CASE

TABLE = tables.scores(USE_CASE)
SCHEMA = pa.schema([("key", pa.int64()), ("score", pa.float64()), ("why", pa.string())])
Rows = list[tuple[int, float | None, str | None]]
THEN: Rows = [(1, 0.5, "a"), (2, None, "b"), (3, float("nan"), None)]


def difference(then: Rows, now: Rows, rounding: float = 0.0) -> Difference | None:
    def made(rows: Rows) -> pa.Table:
        return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)

    return compared(made(then), made(now), "key", lambda keys: [f"row {key}" for key in keys], TABLE, rounding=rounding)


def test_equal_rows_in_another_order_differ_in_nothing() -> None:
    assert difference(THEN, THEN[::-1]) is None
    assert difference([], []) is None


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ([(1, 0.25, "a"), *THEN[1:]], "score is another in 1 (by 0.25 at most); other: row 1"),
        ([THEN[0], (2, 0.0, "b"), THEN[2]], "score is another in 1; other: row 2"),
        ([THEN[0], (2, float("nan"), "b"), THEN[2]], "score is another in 1; other: row 2"),
        ([*THEN[:2], (3, float("nan"), "c")], "why is another in 1; other: row 3"),
        ([*THEN[:1], (2, None, None), *THEN[2:]], "why is another in 1; other: row 2"),
        (THEN[1:], "1 rows are not there; not there: row 1"),
        ([*THEN, (4, 0.1, "d")], "1 rows are beside them; beside: row 4"),
        ([*THEN, THEN[1]], "1 rows are beside them; twice: row 2"),
        ([(9, 0.5, "a"), *THEN[1:]], "1 rows are not there, 1 rows are beside them; not there: row 1; beside: row 9"),
    ],
)
def test_each_kind_of_difference_is_told_with_its_rows(now: Rows, told: str) -> None:
    assert str(difference(THEN, now)) == f"gold.card_fraud_scores, of 3 rows rebuilt: {told}"


def test_a_score_within_the_rounding_of_its_model_is_no_other_one() -> None:
    assert difference([(1, 0.5, "a")], [(1, 0.5 + 1e-8, "a")], rounding=1e-7) is None
    assert difference([(1, 0.5, "a")], [(1, 0.5 + 1e-6, "a")], rounding=1e-7) is not None


def test_some_rows_are_named_and_all_are_counted() -> None:
    many: Rows = [(number, 0.5, "a") for number in range(NAMED + 3)]
    found = difference(many, [])
    assert found
    assert found.lacking == len(many)
    assert found.which == (f"not there: {', '.join(f'row {number}' for number in range(NAMED))} …",)


def test_columns_that_only_one_side_has_are_passed_over() -> None:
    rows = pa.table({"key": pa.array([1]), "score": pa.array([0.5])})
    more = rows.append_column("later", pa.array(["x"]))
    assert compared(rows, more, "key", lambda keys: [], TABLE) is None


@given(
    st.lists(st.tuples(st.integers(0, 5), st.none() | st.sampled_from([0.0, 0.5, float("nan")]), st.none() | st.sampled_from("ab"))),
    st.data(),
)
def test_any_change_of_one_value_is_found_in_its_column(rows: Sequence[Any], data: st.DataObject) -> None:
    then: Rows = [(number, score, why) for number, (_, score, why) in enumerate(rows)]
    assert difference(then, then) is None
    if then:
        place = data.draw(st.integers(0, len(then) - 1))
        changed = [*then[:place], (place, 0.75, then[place][2]), *then[place + 1 :]]
        found = difference(then, changed)
        assert found
        assert (dict(found.columns), found.lacking, found.added) == ({"score": 1}, 0, 0)
