"""What a table's log says, read without the server: its newest version, its rows by night, what a commit did.

Delta's log holds each file's partition and row count, so that counting a night costs milliseconds, not a Spark job.
"""

from __future__ import annotations

import atexit
import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse.files import Folder, commit_path
from include.nightshift.lakehouse.storage import location, options

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

COMMITS_SEARCHED = 50
"""A commit is looked for among so many newest ones: others may have come in the moment since."""
CHANGES_SEARCHED = 1000
"""One that changed an old night is looked for among so many."""


@dataclass(frozen=True)
class Commit:
    """One commit of a write."""

    version: int
    rows: int


@dataclass(frozen=True)
class Change:
    """A commit that changed a night."""

    table: Table
    night: date
    version: int
    operation: str
    """As Delta calls it: WRITE, DELETE, MERGE …"""
    at: datetime

    def __str__(self) -> str:
        return f"{self.table} version {self.version} ({self.operation}) changed night {self.night} last, at {self.at:%Y-%m-%d %H:%M:%S} UTC"


def opened(settings: Settings, table: Table, version: int | None = None) -> DeltaTable:
    """The table as it is now, or as it was.

    Raises:
        LakehouseError: there is no such table, or no such version of it.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        return DeltaTable(location(settings, table), version=version, storage_options=options(settings))
    except (DeltaError, OSError) as error:
        # In colours and over many lines, when S3 did not answer.
        said = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(error)).split())
        away = "; on S3, see whether it answers and AWS's variables are right (docs/deploy.md)" if settings.on_s3 else ""
        raise LakehouseError(
            f"{table}{'' if version is None else f' version {version}'} cannot be read at {location(settings, table)}: {said}. "
            f"`make up` creates what is missing; a version that VACUUM took is gone{away}"
        ) from error


def version(settings: Settings, table: Table) -> int:
    """The table's newest version."""
    return opened(settings, table).version()


def rows_by_night(
    settings: Settings, table: Table, slice_: Mapping[str, Collection[Any]] | None = None, *, version: int | None = None
) -> dict[date, int]:
    """Rows by night, in order, of the whole table or of the slice `column in (values) and …` of its partition columns.

    Raises:
        LakehouseError: there is no such table, or another writer left out how many rows its files hold.
    """
    import pyarrow as pa

    counts: dict[date, int] = {}
    files = pa.table(opened(settings, table, version).get_add_actions(flatten=True))
    names = ["num_records", *(f"partition.{name}" for name in {"day", *(slice_ or {})})]
    for file in files.select(names).to_pylist():
        if any(file[f"partition.{name}"] not in values for name, values in (slice_ or {}).items()):
            continue
        if file["num_records"] is None:
            raise LakehouseError(f"{table}: a file of night {file['partition.day']} has no row count; rewrite that night")
        counts[file["partition.day"]] = counts.get(file["partition.day"], 0) + file["num_records"]
    return dict(sorted(counts.items()))


def columns(settings: Settings, table: Table, names: Sequence[str], slice_: Mapping[str, Collection[Any]]) -> pa.Table:
    """Some columns of the slice `column in (values) and …` of a table's partition columns, as they are now, in no particular order.

    Raises:
        LakehouseError: there is no such table.
    """
    from pyarrow.parquet import filters_to_expression

    # Files are chosen by their partition before each is set up to be read: of a year of nights, that alone would take 0.3 s.
    rows = dataset(opened(settings, table), predicate(slice_))
    return rows.to_table(columns=list(names), filter=filters_to_expression([(name, "in", values) for name, values in slice_.items()]))


def dataset(opened: DeltaTable, files: str | None = None) -> ds.Dataset:
    """The rows of an opened table, for Arrow to read; of the files alone that a predicate on partition columns chooses, if given.

    Arrow reads through a file system that delta-rs brings, which is Python. A thread of Arrow's that still lets go of a file when the
    interpreter ends is killed inside C++, and the process aborts, status 134, with its work done (apache/arrow#39862): every second time
    for a few small tables. So files on disk are read by Arrow's own file system, and where they are not, the end waits for such threads.
    """
    from pyarrow import fs

    place = urlsplit(opened.table_uri)
    own = fs.SubTreeFileSystem(unquote(place.path), fs.LocalFileSystem()) if place.scheme == "file" else None
    if own is None:
        _linger()
    return opened.to_pyarrow_dataset(filesystem=own, file_pruning_predicate=files)


@cache
def _linger() -> None:
    atexit.register(time.sleep, 0.2)


def predicate(slice_: Mapping[str, Collection[Any]]) -> str:
    """`column in ('…') and …`: standard SQL, where only the quote is special, unlike Spark's."""
    return " and ".join(
        f"{name} in ({', '.join(chr(39) + str(value).replace(chr(39), chr(39) * 2) + chr(39) for value in values)})"
        for name, values in slice_.items()
    )


def ranges(settings: Settings, table: Table, column: str, version: int | None = None) -> list[tuple[date, Any, Any]]:
    """Night, smallest and largest value of a column, of each file; both None where the file does not say."""
    import pyarrow as pa

    files = pa.table(opened(settings, table, version).get_add_actions(flatten=True))
    low, high = (f"{end}.{column}" for end in ("min", "max"))
    return [(file["partition.day"], file.get(low), file.get(high)) for file in files.to_pylist()]


def extent(settings: Settings, table: Table, version: int | None = None) -> tuple[date, date] | None:
    """First and last night that hold rows; None where none does."""
    nights = [night for night, rows in rows_by_night(settings, table, version=version).items() if rows]
    return (nights[0], nights[-1]) if nights else None


def last_change(settings: Settings, table: Table, night: date) -> Change | None:
    """The newest commit that brought or took rows of a night, whoever made it; None where it is not among the newest."""
    folder, newest = Folder(settings, table), version(settings, table)
    for number in range(newest, max(newest - CHANGES_SEARCHED, -1), -1):
        try:
            actions = [json.loads(line) for line in folder.read(commit_path(number)).splitlines()]
        except FileNotFoundError:
            break
        files = [action[kind] for action in actions for kind in ("add", "remove") if kind in action]
        # Where files were merged, no row changed.
        if any(file.get("dataChange", True) and (file.get("partitionValues") or {}).get("day") == str(night) for file in files):
            info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
            return Change(
                table, night, number, info.get("operation", "unknown"), datetime.fromtimestamp(info.get("timestamp", 0) / 1000, UTC)
            )
    return None


def committed(settings: Settings, table: Table, mark: str) -> Commit:
    """What the commit did whose user metadata is `mark`.

    Raises:
        LakehouseError: it is not among the newest commits.
    """
    folder, newest = Folder(settings, table), version(settings, table)
    # File by file: a version is what its file is called. delta-rs's `history` counts back from the version that it opened, and is wrong
    # by one where another commit came just then.
    for number in range(newest, max(newest - COMMITS_SEARCHED, -1), -1):
        try:
            actions = map(json.loads, folder.read(commit_path(number)).splitlines())
        except FileNotFoundError:
            # A purge took what lies before.
            break
        told: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        if told.get("userMetadata") == mark:
            return Commit(number, int(told["operationMetrics"].get("numOutputRows", 0)))
    raise LakehouseError(f"{table}: the commit just made ({mark}) is not among the newest {COMMITS_SEARCHED}; run the task again")
