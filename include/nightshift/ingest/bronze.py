"""Bronze: every row that could be parted, as it came, with the file, row and batch it came from."""

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


def write(session: SparkSession, settings: Settings, feed: Feed, nights: Sequence[date], drops: Sequence[Drop]) -> writes.Written:
    """Replace the nights' rows by those of the drops, in one commit."""
    import pyarrow as pa

    table = tables.bronze(feed)
    now = datetime.now(UTC)
    parts = [
        drop.table.append_column("day", pa.array([drop.night] * drop.table.num_rows, pa.date32()))
        .append_column("_source", pa.array([drop.source] * drop.table.num_rows, pa.string()))
        .append_column("_batch", pa.array([drop.batch] * drop.table.num_rows, pa.string()))
        .append_column("_ingested_at", pa.array([now] * drop.table.num_rows, pa.timestamp("us", tz="UTC")))
        for drop in drops
    ]
    if not parts:
        return writes.replace(session, settings, table, writes.in_memory(session, table.arrow([])), {"day": nights}, rows_expected=0)
    landed = pa.concat_tables(parts)
    with _staged(session, settings, landed) as frame:
        return writes.replace(session, settings, table, frame, {"day": nights}, rows_expected=landed.num_rows)


@contextmanager
def _staged(session: SparkSession, settings: Settings, landed: pa.Table) -> Iterator[DataFrame]:
    """The rows as a Parquet file that the server reads, gone afterwards.

    A frame made of rows in the message itself is planned row by row and held twice: 95 nights of two feeds ended a 3 GB server.
    """
    from pyarrow import parquet
    from pyspark.sql.pandas.types import from_arrow_schema

    (settings.home / "staging").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home / "staging") as folder:
        parquet.write_table(landed, f"{folder}/landed.parquet", coerce_timestamps="us")
        yield session.read.schema(from_arrow_schema(landed.schema)).parquet(folder)
