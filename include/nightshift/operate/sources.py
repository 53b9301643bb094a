"""Sources: what every feed owes, by its contract, and how it has kept that, as one page for people: `<home>/reports/sources.html`.

`python -m include.nightshift.operate.sources` writes it, whether anything has landed or not; so does each run of `ingest`. Read from
the contracts and from `ops.*`, without the server.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from include.nightshift import settings as settings_module
from include.nightshift import usecase
from include.nightshift.errors import NightshiftError
from include.nightshift.lakehouse import log, records, storage, tables
from include.nightshift.nights import between
from include.nightshift.operate import sources_page
from include.nightshift.rules import Freshness

if TYPE_CHECKING:
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed, UseCase

NIGHTS = 30
"""So many nights, up to a feed's last one, are looked back on."""

State = Literal["stopped", "missing", "warned", "rejected", "fine", "none"]


@dataclass(frozen=True)
class Landing:
    """A file that was ingested."""

    night: date
    source: str
    """Below the landing folder."""
    landed_at: datetime | None
    rows: int
    rejected: int


@dataclass(frozen=True)
class Failure:
    """A rule that a night broke."""

    night: date
    rule: str
    severity: str
    verdict: str
    """failed, or accepted: a person let the batch through."""
    rows: int
    failed_rows: int
    reason: str


@dataclass(frozen=True)
class Night:
    """What became of one night's drop."""

    night: date
    state: State
    """The worst that is to be said of it; none: no drop was owed."""
    rows: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Source:
    """A feed and its record."""

    feed: Feed
    last: Landing | None = None
    """The newest night that has a file."""
    nights: tuple[Night, ...] = ()
    failures: tuple[Failure, ...] = ()
    """Of these nights, the newest first."""
    in_time: int = 0
    late: int = 0
    """Files of these nights within, and beyond, the promised hours; those landed as history are neither."""
    stale: tuple[date, ...] = ()
    """Nights of its silver table that wait to be ingested again."""


@dataclass(frozen=True)
class Chapter:
    """A use case and its sources."""

    use_case: UseCase
    sources: tuple[Source, ...]
    stale: Mapping[str, tuple[date, ...]]
    """Nights to rebuild, by gold table."""


def write(settings: Settings) -> Path:
    """Put the page in its place, whole; returns where that is.

    Raises:
        LakehouseError: records are there and cannot be read.
        OSError: the page cannot be written.
    """
    page = settings.home / "reports" / "sources.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two nights may end at once.
    aside = page.with_name(f".{page.name}.{secrets.token_hex(4)}")
    try:
        aside.write_text(sources_page.render(read(settings), datetime.now(UTC)), encoding="utf-8")
        os.replace(aside, page)
    finally:
        aside.unlink(missing_ok=True)
    return page


def read(settings: Settings) -> list[Chapter]:
    """What is known of every source of this installation."""
    stale = _stale(settings)
    return [
        Chapter(
            use_case,
            tuple(_source(settings, feed, stale.get(str(tables.silver(feed)), ())) for feed in use_case.feeds),
            {str(table): stale[str(table)] for table in tables.of(use_case) if table.schema == "gold" and str(table) in stale},
        )
        for use_case in usecase.registered(settings)
    ]


def _source(settings: Settings, feed: Feed, stale: tuple[date, ...]) -> Source:
    known = _nights(settings, feed)
    if not known:
        return Source(feed, stale=stale)
    window = list(between(max(known[-1] - timedelta(days=NIGHTS - 1), known[0]), known[-1]))
    batches = {record["day"]: record for record in records.read(settings, tables.BATCHES, day=window, feed=feed.name)}
    results = records.read(settings, tables.CONTRACT_RESULTS, day=window, feed=feed.name)
    failures = [
        Failure(r["day"], r["rule"], r["severity"], r["verdict"], r["rows"], r["failed_rows"], r["reason"])
        for r in results
        if r["verdict"] in ("failed", "accepted")
    ]
    promises = {rule.name for rule in feed.batch_rules if isinstance(rule, Freshness)}
    kept = [record["verdict"] for record in results if record["rule"] in promises]
    return Source(
        feed,
        last=_last(batches.values()) or _last(records.read(settings, tables.BATCHES, feed=feed.name)),
        nights=tuple(_night(feed, night, batches.get(night), [f for f in failures if f.night == night]) for night in window),
        failures=tuple(sorted(failures, key=lambda failure: (-failure.night.toordinal(), failure.rule))),
        in_time=kept.count("passed"),
        late=kept.count("failed"),
        stale=stale,
    )


def _nights(settings: Settings, feed: Feed) -> list[date]:
    """The nights of which anything is known, in order; a night that was stopped has results and no batch."""
    found: set[date] = set()
    for table in (tables.BATCHES, tables.CONTRACT_RESULTS):
        if storage.is_table(settings, table):
            found |= {night for night, rows in log.rows_by_night(settings, table, {"feed": [feed.name]}).items() if rows}
    return sorted(found)


def _last(batches: Iterable[records.Record]) -> Landing | None:
    landed = [record for record in batches if record["source"] is not None]
    newest = max(landed, key=lambda record: record["day"], default=None)
    if newest is None:
        return None
    return Landing(newest["day"], newest["source"], newest["landed_at"], newest["rows"], newest["rejected"])


def _night(feed: Feed, night: date, batch: records.Record | None, failures: list[Failure]) -> Night:
    rows, rejected = (batch["rows"], batch["rejected"]) if batch else (0, 0)
    broken = {failure.severity for failure in failures if failure.verdict == "failed"}
    state: State
    if "stop" in broken:
        state = "stopped"
    elif batch is None:
        state = "missing" if feed.drops_on(night) else "none"
    elif batch["source"] is None:
        state = "none"
    elif "warn" in broken or any(failure.verdict == "accepted" for failure in failures):
        state = "warned"
    else:
        state = "rejected" if rejected else "fine"
    return Night(night, state, rows, rejected)


def _stale(settings: Settings) -> dict[str, tuple[date, ...]]:
    if not storage.is_table(settings, tables.STALE_NIGHTS):
        return {}
    waiting: dict[str, list[date]] = {}
    for record in records.read(settings, tables.STALE_NIGHTS):
        if record["rebuilt_at"] is None:
            waiting.setdefault(record["table_name"], []).append(record["day"])
    return {name: tuple(sorted(nights)) for name, nights in waiting.items()}


def main() -> int:
    """Say where the page is; 1 with one line when there is none."""
    try:
        print(write(settings_module.load()))
    except (NightshiftError, OSError) as error:
        print(f"nightshift: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
