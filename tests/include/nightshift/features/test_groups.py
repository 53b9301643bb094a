"""Whole groups out of batches: none is cut, none comes twice, however the batches fall."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.nightshift.errors import ContractError
from include.nightshift.features.groups import take_whole


def batches(keys: list[int], sizes: list[int]) -> list[pa.RecordBatch]:
    table = pa.table({"key": pa.array(keys, pa.int64()), "place": pa.array(range(len(keys)), pa.int64())})
    found, begin = [], 0
    for size in [*sizes, len(keys)]:
        found += table.slice(begin, size).combine_chunks().to_batches()
        begin += size
    return found


def given_out(batches: list[pa.RecordBatch]) -> list[list[int]]:
    """The groups' keys, as a function would see them that gets one batch after the other."""
    held: list[pa.RecordBatch] = []
    done: set[int] = set()
    came: list[list[int]] = []
    for batch in [*batches, None]:
        held += [batch] if batch is not None else []
        groups, held = take_whole(held, "key", done, last=batch is None)
        if groups:
            table, starts = groups
            values = table.column("key").to_pylist()
            came += [values[a:b] for a, b in itertools.pairwise(starts)]
    assert held == []
    return came


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), max_size=8), st.lists(st.integers(0, 4), max_size=12))
def test_each_group_comes_once_and_whole(lengths: list[int], sizes: list[int]) -> None:
    keys = [key for key, length in enumerate(lengths) for _ in range(length)]
    assert given_out(batches(keys, sizes)) == [[key] * length for key, length in enumerate(lengths)]


@pytest.mark.parametrize("sizes", [[5], [2, 2, 1], [1, 1, 1, 1, 1]])
def test_rows_that_were_not_brought_together_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ContractError, match="`distribute by key sort by key`"):
        given_out(batches([1, 1, 2, 1, 3], sizes))
