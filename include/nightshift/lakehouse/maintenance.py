"""Maintain: small files become few, and files that no kept version needs go. Content, and pinned versions, stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, pins, tables, vacuum
from include.nightshift.lakehouse.files import File, Folder
from include.nightshift.lakehouse.writes import retried

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

KEEP_DAYS = 30
"""How long a version stays readable after another took its place, pinned or not."""

LIVE = "live"


@dataclass(frozen=True)
class Maintained:
    """What was done to one table. Files and bytes are of rows, without the log."""

    table: str
    version: int
    """The newest version; unchanged where nothing was compacted."""
    compacted: int
    """Files that were merged into fewer."""
    files_before: int
    bytes_before: int
    files_after: int
    bytes_after: int
    kept: Mapping[int, str]
    """Versions that can be read from now on, and why each was kept."""

    def __str__(self) -> str:
        reasons = list(self.kept.values())
        counted = ", ".join(f"{reasons.count(why)} {why}" for why in dict.fromkeys(reasons))
        return (
            f"{self.table}: {self.files_before} -> {self.files_after} files, {self.bytes_before:,} -> {self.bytes_after:,} bytes, "
            f"{self.compacted} merged; versions kept: {counted}"
        )


def maintain(
    session: SparkSession, settings: Settings, use_case: UseCase, *, keep_days: int = KEEP_DAYS, in_flight: timedelta = vacuum.IN_FLIGHT
) -> list[Maintained]:
    """Maintain every table of the use case and the shared ones. Pins whose last day is over are released first.

    Args:
        session: on the lakehouse server.
        settings: of the installation.
        use_case: whose tables.
        keep_days: how long a version stays readable after another took its place; 0 keeps pinned and live ones only.
        in_flight: files that no version names and that are younger belong to writes under way.

    Raises:
        LakehouseError: a live or pinned version lacks files, or a file could not be removed.
        WriteConflictError: other writers won every attempt to compact a table.
    """
    pins.expire(settings, datetime.now(UTC).date())
    return [
        maintain_table(session, settings, table, keep_days=keep_days, in_flight=in_flight)
        for table in (*tables.of(use_case), *tables.SHARED)
    ]


def maintain_table(
    session: SparkSession, settings: Settings, table: Table, *, keep_days: int = KEEP_DAYS, in_flight: timedelta = vacuum.IN_FLIGHT
) -> Maintained:
    """Compact one table, then take the files that no kept version needs and no write under way may be about to name."""
    folder = Folder(settings, table)
    before = folder.data()
    compacted = compact(session, settings, table)
    now = datetime.now(UTC)
    # Files first, then the log: what was committed in between is in the log, what was written in between is not in the list.
    found = folder.data()
    kept, needed = _kept(settings, table, found, now, keep_days)
    doomed = [file for file in found if file.path not in needed and file.modified <= now - in_flight]
    if doomed:
        vacuum.remove(session, settings, table, doomed)
    after = folder.data()
    lost = (needed & _paths(found)) - _paths(after)
    if lost:
        raise LakehouseError(
            f"{table}: {len(lost)} files that versions {sorted(kept)} need are gone (the first: {min(lost)}), and `maintain` did not ask "
            "for that. Find out who else removes files there (another VACUUM, a purge at the same time), and restore them from a backup"
        )
    return Maintained(
        table=str(table),
        version=max(kept),
        compacted=compacted,
        files_before=len(before),
        bytes_before=_bytes(before),
        files_after=len(after),
        bytes_after=_bytes(after),
        kept=kept,
    )


def compact(session: SparkSession, settings: Settings, table: Table) -> int:
    """Merge small files of a partition, in one commit that changes no row; returns how many. None where there are none to merge.

    Raises:
        WriteConflictError: other writers won every attempt.
    """

    def attempt() -> int:
        if table.is_record:
            return int(log.opened(settings, table).optimize.compact()["numFilesRemoved"])
        # The one figure: the whole answer holds nulls where its own schema allows none.
        return int(session.sql(f"optimize {table}").select("metrics.numFilesRemoved").toArrow()[0][0].as_py())

    return retried(attempt, str(table))


def _kept(settings: Settings, table: Table, found: Iterable[File], now: datetime, keep_days: int) -> tuple[dict[int, str], frozenset[str]]:
    """The versions to keep with the reason for each, and the files they need.

    Raises:
        LakehouseError: a live or pinned version cannot be read as it is.
    """
    opened = log.opened(settings, table)
    commits = sorted((entry["version"], entry["timestamp"]) for entry in opened.history())
    horizon = (now - timedelta(days=keep_days)).timestamp() * 1000
    kept = {version: f"replaced within {keep_days} days" for (version, _), (_, superseded) in pairwise(commits) if superseded > horizon}
    # Read last, so that a pin made meanwhile counts.
    must = {pin.version: f"pinned for {pin.why}" for pin in pins.held(settings, table, now.date())} | {opened.version(): LIVE}
    present, needed = _paths(found), set[str]()
    for version, why in sorted((kept | must).items()):
        reads = vacuum.paths(opened if why == LIVE else log.opened(settings, table, version))
        if reads <= present:
            kept[version] = why
            needed |= reads
        elif version in must:
            raise LakehouseError(
                f"{table} version {version} ({why}) lacks {len(reads - present)} files (the first: {min(reads - present)}): restore them "
                "from a backup; or, if the version is only pinned, release its pin in ops.table_pins"
            )
        else:
            # Taken by an earlier run that kept fewer days.
            del kept[version]
    return dict(sorted(kept.items())), frozenset(needed)


def _paths(files: Iterable[File]) -> frozenset[str]:
    return frozenset(file.path for file in files)


def _bytes(files: Iterable[File]) -> int:
    return sum(file.size for file in files)
