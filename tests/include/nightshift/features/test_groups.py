"""Whole groups out of packed rows: none is cut, none is lost, each is in order, however the rows were spread over tasks."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from include.nightshift.errors import ContractError
from include.nightshift.features.groups import BUCKETS, over_groups, pack, register, unpack
from include.nightshift.lakehouse.session import rows

KEYS = st.sampled_from([-(2**63), -1, 0, 1, 2, 70, 2**40, 2**63 - 1])


def table(values: list[tuple[int, int]]) -> pa.Table:
    keys, at = ([value[place] for value in values] for place in (0, 1))
    return pa.table({"key": pa.array(keys, pa.int64()), "at": pa.array(at, pa.int64()), "name": [f"{key}/{at}" for key, at in values]})


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(KEYS, st.integers(0, 5)), min_size=1, max_size=20), max_size=4))
def test_each_group_comes_whole_and_in_order_from_one_bucket(tasks: list[list[tuple[int, int]]]) -> None:
    blocks: dict[int, list[pa.Buffer]] = {}
    for values in tasks:
        packed = pack(table(values), "key", stage=1)
        assert set(packed.column("bucket").to_pylist()) <= set(BUCKETS)
        for bucket, block in zip(packed.column("bucket").to_pylist(), packed.column("block"), strict=True):
            blocks.setdefault(bucket, []).append(block.as_buffer())
    came: Counter[tuple[int, int]] = Counter()
    keys_seen: list[int] = []
    for held in blocks.values():
        found, starts = unpack(held, "key", "at", stage=2)
        values = list(zip(found.column("key").to_pylist(), found.column("at").to_pylist(), strict=True))
        assert found.column("name").to_pylist() == [f"{key}/{at}" for key, at in values]
        came.update(values)
        for low, high in itertools.pairwise(starts):
            group = values[low:high]
            assert group == sorted(group)
            assert len({key for key, _ in group}) == 1
            keys_seen.append(group[0][0])
    assert came == Counter(itertools.chain.from_iterable(tasks))
    assert len(keys_seen) == len(set(keys_seen))


def test_buckets_are_of_one_size() -> None:
    for keys in (np.arange(100_000), np.arange(100_000) * 4096, np.random.default_rng(1).integers(-(2**63), 2**63, 100_000)):
        packed = pack(pa.table({"key": keys}), "key", stage=1)
        sizes = [pa.ipc.open_stream(block.as_buffer()).read_all().num_rows for block in packed.column("block")]
        assert len(sizes) == len(BUCKETS)
        assert max(sizes) < 1.2 * min(sizes)


def test_a_key_that_is_no_whole_number_is_refused() -> None:
    with pytest.raises(ContractError, match="key is string: cast it in the model"):
        pack(pa.table({"key": ["a"]}), "key", stage=1)


def test_blocks_of_the_same_stage_are_refused() -> None:
    packed = pack(table([(1, 1)]), "key", stage=7)
    with pytest.raises(ContractError, match="must `distribute by bucket` what it packed"):
        unpack([packed.column("block")[0].as_buffer()], "key", "at", stage=7)


def group_sizes(rows: pa.Table, starts: np.ndarray) -> pa.Table:
    return pa.table({"key": rows.column("key").take(pa.array(starts[:-1])), "size": np.diff(starts)})


@pytest.mark.lakehouse
def test_spark_brings_groups_together_and_a_model_that_forgot_to_ask_is_refused(session: SparkSession) -> None:
    register(session)
    session.udtf.register("group_sizes", over_groups(group_sizes, "key", "at", "key bigint, size bigint"))
    packed = "select * from packed(table(select id % 100 as key, id as at from range(0, 5000, 1, 3)), 'key')"
    sizes = rows(session, f"select * from group_sizes(table({packed} distribute by bucket)) order by key")
    assert sizes == [{"key": key, "size": 50} for key in range(100)]
    with pytest.raises(PySparkException, match="must `distribute by bucket` what it packed"):
        rows(session, f"select * from group_sizes(table({packed}))")
    spread = rows(session, f"select pmod(hash(bucket), 4) as task, count(distinct bucket) as buckets from ({packed}) group by 1")
    assert sorted(row["buckets"] for row in spread) == [4, 4, 4, 4]
