"""Purge: nothing but the live version stays on disk, neither older rows nor what an older log says about them.

VACUUM takes files of rows; the log would still tell: commits hold predicates and the least and greatest value of every column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from include.nightshift.errors import LakehouseError, WriteConflictError
from include.nightshift.lakehouse import log, pins, vacuum
from include.nightshift.lakehouse.files import LOG, File, Folder, commit_path
from include.nightshift.lakehouse.pins import Pin
from include.nightshift.lakehouse.writes import ATTEMPTS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

_POINTER = "_last_checkpoint"


@dataclass(frozen=True)
class Purged:
    """What a purge took from one table."""

    table: str
    version: int
    """The live version: from now on the only one."""
    data_files: int
    """Files of older versions, or of none."""
    data_bytes: int
    log_files: int
    given_up: tuple[Pin, ...]
    """Pins that were released because they held versions that are gone."""

    @property
    def changed(self) -> bool:
        """False where there was nothing to take."""
        return bool(self.data_files or self.log_files or self.given_up)


def purge(
    session: SparkSession, settings: Settings, table: Table, *, give_up: Collection[Pin] = (), in_flight: timedelta = vacuum.IN_FLIGHT
) -> Purged:
    """Leave only the live version of a table; its number goes on, its content stays. A rerun takes nothing.

    Spark and delta-rs go on reading and writing without a restart; whoever was reading an older version fails.

    Args:
        session: on the lakehouse server.
        settings: of the installation.
        table: which table, written by Spark or by delta-rs.
        give_up: pins that may be released, because what they hold has to go.
        in_flight: files that no version names and that are younger may belong to a write under way.

    Raises:
        LakehouseError: pins that are not given up hold older versions, or a write may be under way; nothing was taken.
        WriteConflictError: others wrote to the table each time; what it still holds of older versions is newer than this call.
    """
    folder = Folder(settings, table)
    before = folder.files()
    held = pins.held(settings, table, datetime.now(UTC).date())
    if not _is_pure(folder, log.version(settings, table)):
        _refuse_pinned(table, [pin for pin in held if pin not in give_up])
        for _ in range(ATTEMPTS):
            _attempt(session, settings, table, folder, in_flight)
            if _is_pure(folder, log.version(settings, table)):
                break
        else:
            raise WriteConflictError(
                f"{table}: others committed during each of {ATTEMPTS} purges, so files of versions before theirs are still there. "
                "Run it again once the runs that write to it have ended"
            )
    version = log.version(settings, table)
    given_up = tuple(pin for pin in held if pin.version != version and pin in give_up)
    if given_up:
        pins.release(settings, given_up)
    gone = {file.path for file in before} - {file.path for file in folder.files()}
    data = [file for file in before if file.path in gone and not file.in_log]
    return Purged(
        table=str(table),
        version=version,
        data_files=sum(file.is_data for file in data),
        data_bytes=sum(file.size for file in data if file.is_data),
        log_files=len(gone) - len(data),
        given_up=given_up,
    )


def _attempt(session: SparkSession, settings: Settings, table: Table, folder: Folder, in_flight: timedelta) -> None:
    """Rows first, then the log: a kill in between leaves a log that still names what is to go."""
    # Files first, then the log, so that what is committed meanwhile counts as live.
    found = folder.files()
    live, named = vacuum.paths(log.opened(settings, table)), _tombstones(folder, found)
    doomed = [file for file in found if not file.in_log and not _belongs(file, live)]
    aside = [file for file in found if file.in_log and _number(file) is None and file.name.endswith(".tmp")]
    _refuse_in_flight(table, [*(file for file in doomed if not _belongs(file, named)), *aside], in_flight)
    # Spark closes the VACUUM with a commit that says nothing but that: it becomes the oldest one.
    vacuum.remove(session, settings, table, [file for file in doomed if file.is_data], logged=not table.is_record)
    folder.remove(file.path for file in doomed if not file.is_data)
    version = log.version(settings, table)
    if not _can_be_oldest(folder, version):
        version = _commit_nothing(session, settings, table)
    # Otherwise another writer came in between: the next attempt starts from there.
    if _can_be_oldest(folder, version):
        _write_checkpoint(settings, table, folder, version)
        folder.remove(file.path for file in folder.files() if file.in_log and not _is_needed(file, version))


def _can_be_oldest(folder: Folder, version: int) -> bool:
    """Whether the log may begin with a version: its commit is bare, and no writer made a checkpoint of it by itself.

    Such a checkpoint would hold tombstones, and Spark remembers the length of one that it wrote.
    """
    return _is_bare(folder, version) and not folder.has(_checkpoint(version))


def _commit_nothing(session: SparkSession, settings: Settings, table: Table) -> int:
    """A commit without actions, by whoever writes the table; returns the newest version."""
    if table.is_record:
        opened = log.opened(settings, table)
        opened.create_write_transaction([], "append", opened.schema(), partition_by=list(table.partition))
    else:
        # Spark passes over an empty append; an empty VACUUM it writes down.
        vacuum.remove(session, settings, table, [], logged=True)
    return log.version(settings, table)


def _write_checkpoint(settings: Settings, table: Table, folder: Folder, version: int) -> None:
    """The checkpoint of a version, without the tombstones of files that went, and the pointer to it."""
    import pyarrow.compute as pc

    # Hadoop's checksums of what is about to be written by others; with them Spark would refuse to read it.
    folder.remove((f"{LOG}/.{_POINTER}.crc",))
    log.opened(settings, table, version).create_checkpoint()
    actions = folder.read_parquet(_checkpoint(version))
    actions = actions.filter(pc.is_null(actions.column("remove")))
    folder.write(_checkpoint(version), actions)
    folder.write(f"{LOG}/{_POINTER}", json.dumps({"version": version, "size": actions.num_rows}).encode())


def _is_pure(folder: Folder, version: int) -> bool:
    """Whether the folder holds the version and nothing else."""
    found = folder.files()
    if not folder.has(_checkpoint(version)) or not _is_bare(folder, version):
        return False
    actions = folder.read_parquet(_checkpoint(version))
    live = {unquote(add["path"]) for add in actions.column("add").to_pylist() if add}
    tombstones = actions.num_rows - actions.column("remove").null_count
    return not tombstones and all(
        (_number(file) == version and _is_needed(file, version)) or file.name == _POINTER if file.in_log else _belongs(file, live)
        for file in found
    )


def _is_bare(folder: Folder, version: int) -> bool:
    """Whether a commit tells of no row: no file, no statistics, no predicate."""
    actions: list[dict[str, Any]] = [json.loads(line) for line in folder.read(commit_path(version)).splitlines() if line]
    return all(action.keys() == {"commitInfo"} for action in actions) and not any(
        "predicate" in action["commitInfo"].get("operationParameters", {}) for action in actions
    )


def _is_needed(file: File, version: int) -> bool:
    """Whether a file of the log belongs to the version, or to one that another writer has added since."""
    number = _number(file)
    if number is None:
        return file.name == _POINTER
    names = (commit_path(version), _checkpoint(version), f"{LOG}/.{version:020d}.json.crc")
    return number > version or file.path in names


def _belongs(file: File, live: Collection[str]) -> bool:
    """Whether a file outside the log is one of the live version, or Hadoop's checksum of one."""
    guarded = re.sub(r"(^|/)\.([^/]+)\.crc$", r"\1\2", file.path)
    return guarded in live


def _refuse_pinned(table: Table, blocking: list[Pin]) -> None:
    if blocking:
        named = "; ".join(f"version {pin.version} for {pin.why} until {pin.until or 'released'}" for pin in blocking)
        raise LakehouseError(
            f"{table} is pinned: {named}. A purge leaves no older version; release these pins, or give them up with `give_up`"
        )


def _refuse_in_flight(table: Table, unnamed: Collection[File], in_flight: timedelta) -> None:
    """A file that no version ever named may be a write's: its commit would come after the file is gone."""
    young = [file for file in unnamed if file.modified > datetime.now(UTC) - in_flight]
    if young:
        newest = max(young, key=lambda file: file.modified)
        raise LakehouseError(
            f"{table}: {len(young)} files that no version names are younger than {in_flight} (the newest: {newest.path}, "
            f"{newest.modified:%H:%M:%S} UTC), so a write may be under way; nothing was taken. Wait for it and run this again; if nothing "
            "writes there (a killed run left them), say so with a shorter `in_flight`"
        )


def _tombstones(folder: Folder, found: Iterable[File]) -> set[str]:
    """Every file that the log says was removed."""
    paths = set()
    for file in found:
        if file.in_log and re.fullmatch(r"\d{20}\.json", file.name):
            actions = map(json.loads, folder.read(file.path).splitlines())
            paths |= {unquote(action["remove"]["path"]) for action in actions if "remove" in action}
        elif file.in_log and re.fullmatch(r"\d{20}\.checkpoint\..*parquet", file.name):
            removed = folder.read_parquet(file.path, ["remove"]).column("remove").to_pylist()
            paths |= {unquote(remove["path"]) for remove in removed if remove}
    return paths


def _number(file: File) -> int | None:
    """The version that a file of the log bears; None for those without."""
    found = re.match(r"\.*(\d{20})\.", file.name)
    return int(found[1]) if found else None


def _checkpoint(version: int) -> str:
    return f"{LOG}/{version:020d}.checkpoint.parquet"
