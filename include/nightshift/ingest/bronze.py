"""Bronze: every row of a landed file as it came, those that could not be parted too, with file, line and batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from include.nightshift.ingest.landing import Drop
from include.nightshift.lakehouse import log, pins, tables, writes
from include.nightshift.lakehouse.session import where

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed

REPLAYABLE = timedelta(days=365)
"""So long rows that were replaced are kept, for a `replay` of the nights that were made from them."""


@contextmanager
def staged(session: SparkSession, settings: Settings, feed: Feed, drops: Sequence[Drop]) -> Iterator[DataFrame]:
    """The drops' rows, as bronze holds them, staged for the server."""
    import pyarrow as pa

    table, now = tables.bronze(feed), datetime.now(UTC)
    landed = pa.concat_tables([table.arrow([]), *(_provenanced(drop, now).select(table.names) for drop in drops)])
    with writes.staged(session, settings, landed) as frame:
        yield frame


def write(
    session: SparkSession, settings: Settings, feed: Feed, landed: DataFrame, nights: Sequence[date], rows_expected: int
) -> writes.Written:
    """Replace the nights' rows by the landed ones, in one commit. Rows that give way to others are pinned: lists were made from them."""
    table, frame = tables.bronze(feed), landed.where(where({"day": nights}))

    def keep(changing: Sequence[date]) -> None:
        if again := list(log.rows_by_night(settings, table, {"day": changing})):
            why = f"{', '.join(map(str, again[:3]))}{' …' if len(again) > 3 else ''} landed again"
            pins.pin(settings, table, log.version(settings, table), why, datetime.now(UTC).date() + REPLAYABLE)

    return writes.replace(session, settings, table, frame, {"day": nights}, rows_expected=rows_expected, changing=keep)


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
