"""Bronze: every row of a landed file as it came, those that could not be parted too, with file, line and batch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from include.nightshift.ingest.landing import Drop
from include.nightshift.lakehouse import tables, writes

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed


@contextmanager
def staged(session: SparkSession, settings: Settings, feed: Feed, drops: Sequence[Drop]) -> Iterator[DataFrame]:
    """The drops' rows, as bronze holds them, in a Parquet file that the server reads, gone afterwards.

    A frame made of rows in the message itself is planned row by row and held twice: 95 nights of two feeds ended a 3 GB server.
    """
    import pyarrow as pa
    from pyarrow import parquet
    from pyspark.sql.pandas.types import from_arrow_schema

    table, now = tables.bronze(feed), datetime.now(UTC)
    landed = pa.concat_tables([table.arrow([]), *(_provenanced(drop, now).select(table.names) for drop in drops)])
    (settings.home / "staging").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home / "staging") as folder:
        parquet.write_table(landed, f"{folder}/landed.parquet", coerce_timestamps="us")
        yield session.read.schema(from_arrow_schema(landed.schema)).parquet(folder)


def write(
    session: SparkSession, settings: Settings, feed: Feed, landed: DataFrame, nights: Sequence[date], rows_expected: int
) -> writes.Written:
    """Replace the nights' rows by the landed ones, in one commit."""
    from include.nightshift.lakehouse.session import where

    frame = landed.where(where({"day": nights}))
    return writes.replace(session, settings, tables.bronze(feed), frame, {"day": nights}, rows_expected=rows_expected)


def _provenanced(drop: Drop, now: datetime) -> pa.Table:
    import pyarrow as pa

    constants = {
        "day": pa.scalar(drop.night, pa.date32()),
        "_source": pa.scalar(drop.source, pa.string()),
        "_batch": pa.scalar(drop.batch, pa.string()),
        "_ingested_at": pa.scalar(now, pa.timestamp("us", tz="UTC")),
    }
    table = drop.table
    for name, value in constants.items():
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table
