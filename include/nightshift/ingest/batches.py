"""Batches: what each night of a feed rests on, in `ops.batches`. A night with its record is whole; equal inputs need no second look."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from include.nightshift.lakehouse import log, records, tables

if TYPE_CHECKING:
    from include.nightshift.ingest.landing import Drop
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed

EDITION = 1
"""Raised when the code judges any row otherwise than before: every night is then looked at again."""


@dataclass(frozen=True)
class Batch:
    """One night's file of a feed, or that there is none (`source` is None)."""

    night: date
    source: str | None
    batch: str
    contract_version: str
    reordered: bool
    landed_at: datetime | None
    rows: int
    """Rows of the file that were taken."""
    inputs: str
    erased: int = 0
    """Rows that were left out, because their person was erased."""

    @property
    def lands(self) -> bool:
        return self.source is not None


def of(feed: Feed, night: date, drop: Drop | None, inputs: str) -> Batch:
    """The batch of a drop, or of a night for which none is owed."""
    if drop is None:
        return Batch(night, None, "", feed.version, False, None, 0, inputs)
    return Batch(night, drop.source, drop.batch, drop.version, drop.reordered, drop.landed_at, drop.rows, inputs, drop.erased)


def held(settings: Settings, feed: Feed, first: date, last: date) -> dict[date, records.Record]:
    """The records of the nights, by night."""
    nights = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return {record["day"]: record for record in records.read(settings, tables.BATCHES, day=nights, feed=feed.name)}


def inputs(feed: Feed, night: date, batch: str, before: Mapping[date, str]) -> str:
    """What a night's silver depends on: its file, the contract, and the nights in which its keys are looked for."""
    window = {str(day): digest for day, digest in sorted(before.items()) if night - timedelta(days=feed.dedup_days) <= day < night}
    return hashlib.sha256(json.dumps([EDITION, feed.digest, batch, window]).encode()).hexdigest()


def whole(settings: Settings, feed: Feed, record: records.Record, digest: str) -> bool:
    """Whether the night was ingested from these inputs, and the tables still hold what the record says."""
    if record["inputs"] != digest:
        return False
    slice_ = {"day": [record["day"]]}
    counts = [sum(log.rows_by_night(settings, table, slice_).values()) for table in (tables.bronze(feed), tables.silver(feed))]
    return counts == [record["rows"] - (record["erased"] or 0), record["accepted"]]


def record(settings: Settings, feed: Feed, batches: Sequence[Batch], accepted: Mapping[date, int]) -> None:
    """Write the nights' records: the last act of ingest."""
    now = datetime.now(UTC)
    written = [
        {
            "day": batch.night,
            "feed": feed.name,
            "source": batch.source,
            "batch": batch.batch,
            "contract_version": batch.contract_version,
            "reordered": batch.reordered,
            "inputs": batch.inputs,
            "rows": batch.rows + batch.erased,
            "erased": batch.erased or None,
            "accepted": accepted[batch.night],
            "rejected": batch.rows - accepted[batch.night],
            "landed_at": batch.landed_at,
            "ingested_at": now,
        }
        for batch in batches
    ]
    records.replace(settings, tables.BATCHES, written, {"day": [batch.night for batch in batches], "feed": [feed.name]})


def recorded(found: Iterable[records.Record]) -> list[Batch]:
    """The batches as they were recorded, to be judged again."""
    return [
        Batch(
            night=r["day"],
            source=r["source"],
            batch=r["batch"],
            contract_version=r["contract_version"],
            reordered=r["reordered"],
            landed_at=r["landed_at"],
            rows=r["rows"] - (r["erased"] or 0),
            inputs=r["inputs"],
            erased=r["erased"] or 0,
        )
        for r in sorted(found, key=lambda r: r["day"])
    ]
