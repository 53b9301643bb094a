"""Sources: bronze as it was when a night was published, laid out for a rebuild.

A landed night is rarely landed again, so the live table mostly is what it was. Where it is not, an older version may still be there:
`ingest` pins one before it replaces rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, pins, records, tables
from include.nightshift.replay import rebuild

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.lakehouse.records import Record
    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed, UseCase


@dataclass(frozen=True)
class Source:
    """Bronze of one feed, at the version that is nearest to what a night was made from."""

    table: Table
    version: int
    changed: tuple[tuple[date, datetime], ...]
    """Nights up to that one whose rows came after it was published, each with the moment: no version is left without them."""


def of(settings: Settings, use_case: UseCase, publication: Record) -> tuple[Source, ...]:
    """For each feed, the version that holds what bronze held when the night was published, or the live one and what it holds instead."""
    versions: dict[str, int] = json.loads(publication["versions"] or "{}")
    return tuple(_of(settings, tables.bronze(feed), publication, versions.get(str(tables.bronze(feed)))) for feed in use_case.feeds)


def _of(settings: Settings, table: Table, publication: Record, version: int | None) -> Source:
    night, at = publication["day"], publication["published_at"]
    live = log.version(settings, table)
    changed = _came_later(settings, table, live, night, at)
    if changed and version is not None:
        pinned = [pin.version for pin in pins.held(settings, table, datetime.now(UTC).date()) if pin.version >= version]
        for older in dict.fromkeys((version, *pinned)):
            if not _came_later(settings, table, older, night, at) and not pins.lost(settings, table, older):
                return Source(table, older, ())
    return Source(table, live, changed)


def _came_later(settings: Settings, table: Table, version: int, night: date, at: datetime) -> tuple[tuple[date, datetime], ...]:
    """Nights up to that one of which a version holds rows that were ingested after a moment."""
    newest: dict[date, datetime] = {}
    try:
        found = log.ranges(settings, table, "_ingested_at", version)
    except LakehouseError:
        return ((night, at),)
    for day, _, high in found:
        moment = high if high is None or high.tzinfo else high.replace(tzinfo=UTC)
        if day <= night and moment is not None and moment > at:
            newest[day] = max(moment, newest.get(day, moment))
    return tuple(sorted(newest.items()))


def lay_out(settings: Settings, use_case: UseCase, sources: Sequence[Source], last: date, folder: Path) -> None:
    """Write the rows of all nights up to the last one, and the batches they came in, as Parquet: what `rebuild` reads.

    Of all nights, not of those alone that windows reach: a key that came once is known for good.
    """
    import pyarrow.dataset as ds
    from pyarrow import parquet

    batches: list[dict[str, Any]] = []
    for feed, source in zip(use_case.feeds, sources, strict=True):
        rows = log.dataset(log.opened(settings, source.table, source.version)).scanner(filter=ds.field("day") <= last)
        # One file a feed, in no order: whatever depends on order would not be a replay of anything.
        with parquet.ParquetWriter(folder / f"{feed.name}.parquet", rows.projected_schema) as file:
            for batch in rows.to_batches():
                if batch.num_rows:
                    file.write_batch(batch)
        batches += _batches(settings, feed, folder, last)
    parquet.write_table(tables.BATCHES.arrow(batches), folder / rebuild.BATCHES)


def _batches(settings: Settings, feed: Feed, folder: Path, last: date) -> list[dict[str, Any]]:
    """What each night rests on; of a night that was landed again, what its old rows say of themselves."""
    held = {record["day"]: record for record in records.read(settings, tables.BATCHES, feed=feed.name) if record["day"] <= last}
    came = laid(folder, feed, ["day", "_source", "_batch"])
    counted = came.group_by(["day", "_batch"]).aggregate([("_source", "min"), ("_source", "count")])
    told = {}
    for row in counted.to_pylist():
        night, batch, known = row["day"], row["_batch"], held.get(row["day"])
        own = known if known and known["batch"] == batch else {"reordered": False, "landed_at": None, "contract_version": feed.version}
        found = {"day": night, "feed": feed.name, "source": row["_source_min"], "batch": batch, "rows": row["_source_count"]}
        told[night] = {**own, **found, "erased": None}
    # Nights for which no file was owed, or whose file held no row.
    return [*told.values(), *(record for night, record in held.items() if night not in told and not record["rows"])]


def laid(folder: Path, feed: Feed, names: Sequence[str], night: date | None = None) -> pa.Table:
    """Some columns of a feed's rows as they were laid out, of all nights or of one."""
    import pyarrow.dataset as ds

    return ds.dataset(folder / f"{feed.name}.parquet").to_table(names, filter=None if night is None else ds.field("day") == night)
