"""Writes that can be repeated: a slice of a table is replaced in one commit, and equal content commits nothing.

Two runs of one night meet; whoever comes second finds the same content and leaves the table alone.
"""

from __future__ import annotations

import functools
import operator
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from include.nightshift.errors import ContractError, WriteConflictError
from include.nightshift.lakehouse import log, storage
from include.nightshift.lakehouse.session import where

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

ATTEMPTS = 8
"""How often one write meets another writer before it gives up."""

ROWS_PER_FILE = 400_000
"""Rows of a single night from which on it is written as two files, at once."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Written:
    """What a write left behind."""

    table: str
    rows: int
    """Rows of the slice."""
    changed: bool
    """False where the table already held this content."""
    version: int
    """The table's version that holds it."""
    nights: tuple[date, ...] = ()
    """The nights whose content changed."""


def replace(
    session: SparkSession,
    settings: Settings,
    table: Table,
    frame: DataFrame,
    slice_: Mapping[str, Collection[Any]],
    *,
    rows_expected: int,
    changing: Callable[[list[date]], None] | None = None,
) -> Written:
    """Make the slice `column in (values) and …` of the table's partition columns hold exactly the frame's rows.

    The frame holds all columns of the table, in any order; they are cast to the table's types. Nights that hold their rows already
    are left alone; `changing` is told of the others before anything is written. Retried while other writers win (Delta's
    concurrent-append errors), looking at the content anew each time.

    Raises:
        ContractError: the frame has another number of rows than `rows_expected`.
        WriteConflictError: others won every attempt.
    """
    from pyspark.sql import functions as F

    typed = frame.select(*(F.col(column.name).cast(column.type).alias(column.name) for column in table.columns))

    def attempt() -> Written:
        # Counts are those of the frame, taken as it was compared: by then the table may hold other rows than when its log was read.
        counts: dict[date, int] = {}
        nights = sorted(slice_["day"]) if rows_expected else []
        if any(log.rows_by_night(settings, table, slice_).values()):
            nights, counts = _compared(session, table, typed, slice_)
        if not nights:
            return Written(str(table), sum(counts.values()), False, log.version(settings, table), ())
        if changing is not None:
            changing(nights)
        predicate = where({**slice_, "day": nights})
        wanted = typed if len(nights) == len(slice_["day"]) else typed.where(where({"day": nights}))
        # One file per night, or few: what a table costs to read is its files.
        packed = wanted.repartition(*table.partition) if len(nights) > 1 else wanted.coalesce(1 + rows_expected // ROWS_PER_FILE)
        mark = uuid.uuid4().hex
        # By its path: by its name, Spark would also write the unchanged table to its catalog.
        options = {"replaceWhere": predicate, "userMetadata": mark}
        packed.write.format("delta").mode("overwrite").options(**options).save(storage.location(settings, table))
        commit = log.committed(settings, table, mark)
        kept = sum(rows for night, rows in counts.items() if night not in set(nights))
        return Written(str(table), kept + commit.rows, True, commit.version, tuple(nights))

    written = retried(attempt, str(table))
    if written.rows != rows_expected:
        raise ContractError(
            f"{table}, {where(slice_)}: {written.rows} rows were written, {rows_expected} expected. Another run of this night may be "
            "writing: run it again; if it stays, a row was lost or doubled on the way"
        )
    return written


def _compared(
    session: SparkSession, table: Table, wanted: DataFrame, slice_: Mapping[str, Collection[Any]]
) -> tuple[list[date], dict[date, int]]:
    """The nights of the slice whose content differs between the table and the frame, and the frame's rows by night, in one job."""
    from pyspark.sql import functions as F

    held = session.table(str(table)).where(where(slice_))
    sides = [_hashed(frame, table.content, "day").withColumn("side", F.lit(side)) for side, frame in enumerate((held, wanted))]
    rows = sides[0].unionByName(sides[1]).groupBy("day", "side").agg(*_sums()).toArrow().to_pylist()
    seen = {(row["day"], row["side"]): _figures(row) for row in rows}
    different = sorted({night for night, _ in seen if seen.get((night, 0)) != seen.get((night, 1))})
    return different, {night: count for (night, side), (count, *_) in seen.items() if side == 1}


def in_memory(session: SparkSession, table: pa.Table) -> DataFrame:
    """An Arrow table as a frame; unlike `createDataFrame` alone also an empty one."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return session.createDataFrame(table if table.num_rows else [], schema=from_arrow_schema(table.schema))


@contextmanager
def staged(session: SparkSession, settings: Settings, table: pa.Table) -> Iterator[DataFrame]:
    """An Arrow table as a frame, by way of a Parquet file that the server reads, gone afterwards.

    A frame made of rows in the message itself is planned row by row and held twice: 95 nights of two feeds ended a 3 GB server.
    """
    from pyarrow import parquet
    from pyspark.sql.pandas.types import from_arrow_schema

    (settings.home / "staging").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home / "staging") as folder:
        parquet.write_table(table, f"{folder}/rows.parquet", coerce_timestamps="us")
        yield session.read.schema(from_arrow_schema(table.schema)).parquet(folder)


def fingerprint(frame: DataFrame, columns: Iterable[str]) -> tuple[int, int, int]:
    """Count and two order-free sums over 64-bit row hashes: equal content gives equal figures, whatever the layout.

    Against accidents, not against an adversary.
    """
    return _figures(_hashed(frame, columns).agg(*_sums()).toArrow().to_pylist()[0])


def fingerprints(frame: DataFrame, columns: Iterable[str]) -> dict[date, tuple[int, int, int]]:
    """The `fingerprint` of each night's rows, in one job; nights without rows are left out."""
    rows = _hashed(frame, columns, "day").groupBy("day").agg(*_sums()).toArrow().to_pylist()
    return {row["day"]: _figures(row) for row in rows}


def _hashed(frame: DataFrame, columns: Iterable[str], *beside: str) -> DataFrame:
    from pyspark.sql import functions as F

    names = sorted(columns)
    # Which columns are null is hashed beside the values, a bit for each, because xxhash64 passes over nulls.
    bits = [F.shiftleft(F.col(name).isNull().cast("bigint"), number % 60) for number, name in enumerate(names)]
    nulls = [functools.reduce(operator.add, bits[begin : begin + 60]) for begin in range(0, len(bits), 60)]
    return frame.select(*beside, F.xxhash64(*names, *nulls).alias("h"))


def _sums() -> list[Any]:
    """Count, sum of the hashes (by halves, so that no sum overflows) and their exclusive or."""
    from pyspark.sql import functions as F

    halves = [F.coalesce(F.sum(F.expr(half)), F.lit(0)).alias(name) for name, half in (("high", "h >> 32"), ("low", "h & 4294967295L"))]
    return [F.count(F.lit(1)).alias("n"), *halves, F.coalesce(F.bit_xor("h"), F.lit(0)).alias("mixed")]


def _figures(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return int(row["n"]), (int(row["high"]) << 32) + int(row["low"]), int(row["mixed"])


def retried(attempt: Callable[[], Result], table: str) -> Result:
    """Run a write, again while it loses against concurrent ones, after jittered waits that grow to a few seconds.

    Raises:
        WriteConflictError: all attempts lost.
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except Exception as error:
            if not is_conflict(error):
                raise
            if number == ATTEMPTS:
                raise WriteConflictError(
                    f"{table}: {ATTEMPTS} attempts to write lost against other writers; nothing was written. "
                    "Run the task again once the other runs of this night have ended"
                ) from error
            time.sleep(random.uniform(0.1, 0.5) * number)  # noqa: S311
    raise AssertionError("unreachable")


def is_conflict(error: BaseException) -> bool:
    """Whether Delta (Spark's or delta-rs) refused a commit because another one came first, or a purge took the log it was reading."""
    text = str(error)
    if "_delta_log" in text and "FAILED_READ_FILE.FILE_NOT_EXIST" in text:
        return True
    sparks = ("DELTA_CONCURRENT", "ConcurrentAppend", "ConcurrentDelete", "ConcurrentWrite", "DELTA_METADATA_CHANGED")
    return any(mark in text for mark in (*sparks, "Failed to commit transaction"))
