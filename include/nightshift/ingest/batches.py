"""Batches: what each night of a feed rests on, in `ops.batches`. A night with its record is whole; equal inputs need no second look."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
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


@dataclass(frozen=True)
class Rewritten:
    """A landed file that gives way to one without some of its rows."""

    old: str
    new: str
    """SHA-256 of both."""
    rows: int
    """Rows of the new one."""


def reconcile(settings: Settings, feed: Feed, nights: Collection[date], rewritten: Mapping[date, Rewritten]) -> None:
    """Make the records agree with tables from which rows of these nights were erased, and with files that are about to be rewritten.

    The chain of inputs is made anew over all nights: each that was whole is whole afterwards, and a night that was waiting for a second
    look still is. Rows of a file that stays as it is count as left out. Doing it again changes nothing.
    """
    taken, accepted = (log.rows_by_night(settings, table) for table in (tables.bronze(feed), tables.silver(feed)))

    def agreed(held: list[records.Record]) -> list[records.Record]:
        before: dict[date, str] = {}
        after: dict[date, str] = {}
        changed = []
        for record in sorted(held, key=lambda record: record["day"]):
            night, new = record["day"], dict(record)
            file = rewritten.get(night)
            if file is not None and record["batch"] in (file.old, file.new):
                new |= {"batch": file.new, "rows": file.rows, "erased": None}
            elif night in nights:
                new |= {"erased": (record["rows"] - taken.get(night, 0)) or None}
            if night in nights:
                new |= {"accepted": accepted.get(night, 0)}
                new |= {"rejected": new["rows"] - (new["erased"] or 0) - new["accepted"]}
            if record["inputs"] == inputs(feed, night, record["batch"], before):
                new |= {"inputs": inputs(feed, night, new["batch"], after)}
            before[night], after[night] = record["inputs"], new["inputs"]
            changed.append(new)
        return changed

    records.amend(settings, tables.BATCHES, agreed, {"feed": [feed.name]})
    news = {(night, file.old): file.new for night, file in rewritten.items()}

    def renamed(held: list[records.Record]) -> list[records.Record]:
        return [record | {"batch": news.get((record["day"], record["batch"]), record["batch"])} for record in held]

    # Where a person has accepted a batch, it is for the file by its hash.
    if rewritten:
        records.amend(settings, tables.CONTRACT_RESULTS, renamed, {"feed": [feed.name], "day": sorted(rewritten)})
