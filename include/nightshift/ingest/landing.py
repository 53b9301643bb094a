"""Landing: a feed's daily drop, read whole or refused whole. Nothing is written here.

A row that cannot be parted into the feed's columns is handed on as malformed; a file that cannot be trusted as a whole
(missing, truncated, other columns) is an error, and stays where it is.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift import nights
from include.nightshift.errors import LandingError
from include.nightshift.usecase import Feed

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

SUFFIX = ".csv.gz"


@dataclass(frozen=True)
class Malformed:
    """A row that has another number of columns, or bytes that are no UTF-8."""

    row: int
    text: str
    reason: str


@dataclass(frozen=True)
class Drop:
    """One landed file. `table` holds the feed's columns as text, and `_row`; empty for a night without a file."""

    feed: str
    night: date
    source: str
    batch: str
    table: pa.Table
    malformed: tuple[Malformed, ...]

    @property
    def rows(self) -> int:
        return int(self.table.num_rows) + len(self.malformed)


def read(landing: Path, feed: Feed, night: date) -> Drop | None:
    """Read the night's file of a feed; None where the feed owes none (before its first or after its last drop).

    Raises:
        LandingError: the file is missing, unreadable, truncated, empty, or has other columns than the feed.
    """
    source = f"{feed.name}/{night.isoformat()}{SUFFIX}"
    path = landing / source
    if not path.exists() and not feed.drops_on(night):
        return None
    compressed = _bytes(path, feed, night)
    try:
        content = gzip.decompress(compressed)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LandingError(
            f"bronze.{feed.name}, night {night}: {source} ({len(compressed)} bytes) is no whole gzip file: {error}. "
            "Land the file again, then run the night again; nothing of it was written"
        ) from error
    table, malformed = _parse(content, feed, night, source)
    return Drop(feed.name, night, source, hashlib.sha256(compressed).hexdigest(), table, malformed)


def spans(landing: Path, feeds: Iterable[Feed]) -> dict[str, tuple[date, None]]:
    """From which night on each feed owes a drop, when what stands in a landing folder is all there ever was: as settings say it.

    Raises:
        NightError: a file is named after no night.
        LandingError: a feed has no file at all.
    """
    found: dict[str, tuple[date, None]] = {}
    for feed in feeds:
        names = sorted(path.name.removesuffix(SUFFIX) for path in (landing / feed.name).glob(f"*{SUFFIX}"))
        if not names:
            raise LandingError(f"{landing / feed.name} holds no <night>{SUFFIX}: name the folder above your feeds")
        found[feed.name] = nights.parse(names[0], what=f"the first file of {feed.name}"), None
    return found


def _bytes(path: Path, feed: Feed, night: date) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise LandingError(
            f"bronze.{feed.name}, night {night}: no file {path}. Land it and run the night again; if the feed begins later "
            f"or has ended, say so in Feed.first_drop/last_drop or NIGHTSHIFT_FEED_SPANS={feed.name}=FIRST..LAST"
        ) from error
    except OSError as error:
        raise LandingError(
            f"bronze.{feed.name}, night {night}: {path} cannot be read: {error}. Mend that and run the night again"
        ) from error


def _parse(content: bytes, feed: Feed, night: date, source: str) -> tuple[pa.Table, tuple[Malformed, ...]]:
    import pyarrow as pa
    from pyarrow import csv

    names = [column.name for column in feed.columns]
    header = content.split(b"\n", 1)[0].rstrip(b"\r").removeprefix(b"\xef\xbb\xbf").decode("utf-8", "backslashreplace")
    found = [name.strip().strip('"') for name in header.split(",")] if header else []
    if sorted(found) != sorted(names):
        missing, extra = sorted(set(names) - set(found)), sorted(set(found) - set(names))
        raise LandingError(
            f"bronze.{feed.name}, night {night}: {source} has the columns {found}, expected {names}"
            f" (missing {missing}, unknown {extra}). Land a file with these columns, or change the feed; nothing of it was written"
        )
    refused: list[Malformed] = []

    def refuse(row: csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} columns, expected {row.expected_columns}"
        refused.append(Malformed(row.number - 1, row.text, reason))
        return "skip"

    try:
        table = csv.read_csv(
            # A header that no newline ends would be "too short" to skip; it is a night without rows.
            io.BytesIO(content if b"\n" in content else content + b"\n"),
            # One thread, because only then a refused row has its number.
            read_options=csv.ReadOptions(use_threads=False, column_names=found, skip_rows=1),
            parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
            convert_options=csv.ConvertOptions(column_types={name: pa.binary() for name in names}, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise LandingError(
            f"bronze.{feed.name}, night {night}: {source} is no readable CSV: {error}. Land the file again, then run the night again"
        ) from error
    taken = {bad.row for bad in refused}
    kept = [number for number in range(1, table.num_rows + len(taken) + 1) if number not in taken]
    table = table.select(names).append_column("_row", pa.array(kept, pa.int64()))
    return _decoded(table, names, refused)


def _decoded(table: pa.Table, names: list[str], refused: list[Malformed]) -> tuple[pa.Table, tuple[Malformed, ...]]:
    """Text from bytes; rows with bytes that are no UTF-8 join the refused ones."""
    import pyarrow as pa

    schema = pa.schema([*((name, pa.string()) for name in names), ("_row", pa.int64())])
    try:
        return table.cast(schema), tuple(refused)
    except pa.ArrowInvalid:
        pass  # some row holds other bytes: look at each
    good = []
    for record in table.to_pylist():
        try:
            good.append({name: record[name].decode() for name in names} | {"_row": record["_row"]})
        except UnicodeDecodeError as error:
            text = ",".join(record[name].decode("utf-8", "backslashreplace") for name in names)
            refused.append(Malformed(record["_row"], text, f"bytes that are no UTF-8: {error.reason} at byte {error.start} of a value"))
    return pa.Table.from_pylist(good, schema=schema), tuple(refused)
