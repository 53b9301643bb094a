"""Arrow functions over whole groups: what a dbt model calls where SQL would recompute each row's window from its start.

A model calls one as `name(table(select * from packed(table(select …), 'key') distribute by bucket))`. Rows travel packed: `packed` parts
them into buckets by their key, and all rows that one task has for a bucket are one Arrow block. Spark brings a bucket's blocks together,
the function unpacks and sorts them, and can hand its own rows on packed by another key. Spark shuffles, sorts and converts row by row,
which costs more than what is computed (decision 0012). A task holds the blocks of its buckets, and works on one bucket at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from include.nightshift.errors import ContractError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from pyspark import TaskContext
    from pyspark.sql import SparkSession

BUCKETS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13, 14, 15, 16, 18)
"""Spark's hash sends four of them to each of the lakehouse's four partitions: tasks of one size."""
ROWS_HELD = 200_000
"""From so many rows on, `packed` lets go of what it holds."""

Compute = Callable[["pa.Table", "np.ndarray"], "pa.Table"]
"""Takes rows sorted by their key and the position at which each group begins (and, last, their number); returns rows."""

_PACKED = "bucket int, block binary"
_STAGE = b"nightshift.stage"


def register(session: SparkSession) -> None:
    """Make `packed(table(…), 'key')` known to the session."""
    from pyspark.sql.functions import arrow_udtf

    class Packed:
        def __init__(self) -> None:
            self.held: list[pa.RecordBatch] = []
            self.key = ""

        def eval(self, rows: pa.RecordBatch, key: pa.Array) -> Iterator[pa.Table]:
            self.key = key[0].as_py()
            self.held.append(rows)
            if sum(batch.num_rows for batch in self.held) >= ROWS_HELD:
                yield self.let_go()

        def terminate(self) -> Iterator[pa.Table]:
            if self.held:
                yield self.let_go()

        def let_go(self) -> pa.Table:
            import pyarrow as pa

            rows, self.held = pa.Table.from_batches(self.held), []
            return pack(rows, self.key, _stage())

    session.udtf.register("packed", arrow_udtf(Packed, returnType=_PACKED))


def over_groups(compute: Compute, key: str, order: str, returns: str, then: str = "") -> Any:
    """A table function over packed rows, for `session.udtf.register`.

    Args:
        compute: works on groups of `key`, sorted by `order`. A function of a module that Spark's workers can import.
        key: what the rows were packed by.
        returns: names and types of the columns as DDL.
        then: a column by which the returned rows are packed again; without one they are rows.
    """
    from pyspark.sql.functions import arrow_udtf

    class OverGroups:
        def __init__(self) -> None:
            self.blocks: dict[int, list[pa.Buffer]] = {}

        def eval(self, rows: pa.RecordBatch) -> Iterator[pa.Table]:
            for bucket, block in zip(rows.column("bucket").to_pylist(), rows.column("block"), strict=True):
                self.blocks.setdefault(bucket, []).append(block.as_buffer())
            yield from ()

        def terminate(self) -> Iterator[pa.Table]:
            for bucket in sorted(self.blocks):
                found = compute(*unpack(self.blocks.pop(bucket), key, order, _stage()))
                yield pack(found, then, _stage()) if then else found

    return arrow_udtf(OverGroups, returnType=_PACKED if then else returns)


def pack(rows: pa.Table, key: str, stage: int) -> pa.Table:
    """The rows as blocks, one for each of the BUCKETS that has any: `bucket`, `block` (an Arrow stream). `stage` is Spark's.

    Raises:
        ContractError: the key is not of whole numbers.
    """
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_integer(rows.schema.field(key).type):
        raise ContractError(f"rows are packed by whole numbers, and {key} is {rows.schema.field(key).type}: cast it in the model")
    rows = rows.combine_chunks().replace_schema_metadata({_STAGE: str(stage).encode()})
    # Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4): the upper bits of a product.
    hashed = rows.column(key).to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    place = (hashed >> np.uint64(48)) % np.uint64(len(BUCKETS))
    order = np.argsort(place, kind="stable")
    rows = rows.take(pa.array(order))
    ends = np.searchsorted(place[order], np.arange(len(BUCKETS) + 1))
    blocks = {bucket: _block(rows.slice(low, high - low)) for bucket, low, high in zip(BUCKETS, ends, ends[1:], strict=False) if low < high}
    return pa.table({"bucket": pa.array(blocks, pa.int32()), "block": pa.array(blocks.values(), pa.binary())})


def unpack(blocks: Sequence[pa.Buffer], key: str, order: str, stage: int) -> tuple[pa.Table, np.ndarray]:
    """The rows of a bucket's blocks, sorted by key and `order`, and where each key begins (and, last, their number).

    Raises:
        ContractError: a block was packed by the task that unpacks it: there may be more of its bucket elsewhere.
    """
    import numpy as np
    import pyarrow as pa

    parts = [pa.ipc.open_stream(block).read_all() for block in blocks]
    if any(int(part.schema.metadata[_STAGE]) == stage for part in parts):
        raise ContractError(f"rows of one {key} are not brought together: the model must `distribute by bucket` what it packed")
    rows = pa.concat_tables(part.replace_schema_metadata() for part in parts).combine_chunks()
    sorted_ = np.lexsort((rows.column(order).to_numpy(), rows.column(key).to_numpy()))
    rows = rows.take(pa.array(sorted_))
    keys = rows.column(key).to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1, [len(keys)]])
    return rows, starts


def _block(rows: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return bytes(sink.getvalue())


def _stage() -> int:
    """Spark's number of the stage that this task belongs to."""
    from pyspark import TaskContext

    return cast("TaskContext", TaskContext.get()).stageId()
