"""Arrow functions over whole groups: what a dbt model calls where SQL would recompute each row's window from its start.

A model calls one as `name(table(select … distribute by key sort by key, …))`: Spark brings the rows of a key together and in order,
and hands them over in Arrow batches; the function takes whole groups at a time, so it holds few of them however long the table is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import ContractError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

ROWS_HELD = 200_000
"""From so many rows on, the groups that are whole are computed and let go."""

Compute = Callable[["pa.Table", "np.ndarray"], "pa.Table"]
"""Takes rows sorted by their key and the position at which each group begins (and, last, their number); returns rows."""


def over_groups(compute: Compute, key: str, returns: str) -> Any:
    """A table function for `session.udtf.register`; `returns` names and types its columns as DDL.

    `compute` must be a function of a module that Spark's workers can import.
    """
    from pyspark.sql.functions import arrow_udtf

    class OverGroups:
        def __init__(self) -> None:
            self.held: list[pa.RecordBatch] = []
            self.done: set[int] = set()

        def eval(self, rows: pa.RecordBatch) -> Iterator[pa.Table]:
            self.held.append(rows)
            if sum(batch.num_rows for batch in self.held) >= ROWS_HELD:
                yield from self.whole(last=False)

        def terminate(self) -> Iterator[pa.Table]:
            yield from self.whole(last=True)

        def whole(self, last: bool) -> Iterator[pa.Table]:
            groups, self.held = take_whole(self.held, key, self.done, last=last)
            if groups:
                yield compute(*groups)

    return arrow_udtf(OverGroups, returnType=returns)


def take_whole(
    held: list[pa.RecordBatch], key: str, done: set[int], *, last: bool
) -> tuple[tuple[pa.Table, np.ndarray] | None, list[pa.RecordBatch]]:
    """Part the batches into groups that are whole (their rows, and where each begins) and the rest; `last` says that no more rows come.

    `done` collects the keys of groups given out.

    Raises:
        ContractError: a key comes back after its group had ended: the rows were not brought together.
    """
    import numpy as np
    import pyarrow as pa

    held = [batch for batch in held if batch.num_rows]
    if not held:
        return None, []
    table = pa.Table.from_batches(held).combine_chunks()
    keys = table.column(key).to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1, [len(keys)]])
    if not last:
        # The last group may go on in the next batch.
        starts = starts[:-1]
    end = int(starts[-1])
    begun = keys[starts[:-1]].tolist()
    twice = done.intersection(begun)
    if twice or len(set(begun)) < len(begun):
        raise ContractError(
            f"rows of one {key} do not follow each other: the model must `distribute by {key} sort by {key}` before the call"
        )
    done.update(begun)
    rest = table.slice(end)
    return (table.slice(0, end), starts) if end else None, rest.to_batches()
