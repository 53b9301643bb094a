"""Landing: a feed's daily drop, read whole or refused whole. Nothing is written here.

`<landing>/<feed>/<night><suffix>`, one file a night. A row that cannot be parted is handed on as malformed; a file that
cannot be trusted as a whole (missing, cut short, still growing, other columns) is an error, and stays where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from include.nightshift import nights
from include.nightshift.errors import ContractError, LandingError, StorageError
from include.nightshift.ingest import formats, places
from include.nightshift.rules import Verdict
from include.nightshift.usecase import Feed

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.ingest.places import Place
    from include.nightshift.settings import Settings

SUFFIXES = (".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
"""What a night's file may end with; Parquet compresses within."""


@dataclass(frozen=True)
class Drop:
    """One landed file."""

    feed: str
    night: date
    source: str
    """The file: `<feed>/<name>`."""
    batch: str
    """SHA-256 of its bytes."""
    version: str
    """The contract version whose columns it has."""
    reordered: bool
    """Whether they stand in another order than the contract's."""
    landed_at: datetime
    """When the file was last written."""
    table: pa.Table
    """The contract's columns as text (null where this version has none), and what `formats.PROVENANCE` names."""
    erased: int = 0
    """Rows of the file that are not in the table, because their person was erased."""

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    @property
    def malformed(self) -> list[dict[str, object]]:
        """The rows that could not be parted."""
        import pyarrow.compute as pc

        return self.table.filter(pc.is_valid(self.table["_malformed"])).select(list(formats.PROVENANCE)).to_pylist()


def read(settings: Settings, feed: Feed, night: date) -> Drop | None:
    """Read the night's file of a feed; None where the feed owes none (before its first or after its last drop) and none stands.

    Raises:
        LandingError: the file is missing, unreadable, cut short, still growing, or doubled.
        ContractError: it has other columns than any version of the contract; carries the verdict.
    """
    place = places.of(settings, feed)
    name = _name(place, feed, night)
    if name is None:
        return None
    source = f"{feed.name}/{name}"
    try:
        content, landed_at = place.read(name)
    except places.PlaceError as error:
        raise LandingError(f"bronze.{feed.name}, night {night}: {place.address(name)} {error}; then run the night again") from error
    batch = hashlib.sha256(content).hexdigest()
    names = [column.name for column in feed.columns]
    try:
        rows = parted(name, content, feed)
    except formats.FormatError as error:
        raise LandingError(
            f"bronze.{feed.name}, night {night}: {source} ({len(content)} bytes) {error}. "
            "Land the file again, then run the night again; nothing of it was written"
        ) from error
    version = _version(feed, night, source, batch, rows)
    reordered = [name for name in names if name in rows.columns] != rows.columns
    return Drop(feed.name, night, source, batch, version, reordered, landed_at, _completed(rows.table, names))


def standing(place: Place, night: date) -> list[str]:
    """The names of a night's files at a place: one, if all is well."""
    return [name for name in place.names(night.isoformat()) if name.removeprefix(night.isoformat()) in SUFFIXES]


def parted(name: str, content: bytes, feed: Feed) -> formats.Rows:
    """A file's rows, whatever their columns; its name says its format.

    Raises:
        FormatError: it is no whole file of that format.
    """
    form, compression = form_of(name)
    plain = formats.decompress(content, compression)
    match form:
        case "csv":
            return formats.csv(plain)
        case "jsonl":
            return formats.json_lines(plain, [column.name for column in feed.columns])
        case _:
            return formats.parquet(plain, {column.name: column.type for column in feed.columns})


def spans(settings: Settings, feeds: Iterable[Feed]) -> dict[str, tuple[date, None]]:
    """From which night on each feed owes a drop, when what stands at its place is all there ever was: as settings say it.

    Raises:
        NightError: a file is named after no night.
        LandingError: a feed has no file at all.
    """
    found: dict[str, tuple[date, None]] = {}
    for feed in feeds:
        place = places.of(settings, feed)
        stems = [name.split(".")[0] for name in place.names() if name.endswith(SUFFIXES)]
        if not stems:
            raise LandingError(f"{place.address('')} holds no <night>{{{','.join(SUFFIXES)}}}: name the folder above your feeds")
        found[feed.name] = nights.parse(stems[0], what=f"the first file of {feed.name}"), None
    return found


def form_of(name: str) -> tuple[str, str]:
    """Format and compression (empty where there is none) that a file's name says."""
    _, form, compression = (*name.split("."), "")[:3]
    return form, compression


def _name(place: Place, feed: Feed, night: date) -> str | None:
    try:
        found = standing(place, night)
    except (OSError, StorageError) as error:
        raise LandingError(f"bronze.{feed.name}, night {night}: {error}. Mend that and run the night again") from error
    if len(found) > 1:
        raise LandingError(
            f"bronze.{feed.name}, night {night}: {' and '.join(found)} both stand in {place.address('')}. "
            "Leave the one that counts, then run the night again; nothing was written"
        )
    if found:
        return found[0]
    if not feed.drops_on(night):
        return None
    raise LandingError(
        f"bronze.{feed.name}, night {night}: no file {place.address(night.isoformat())}{{{','.join(SUFFIXES)}}}. Land it and run the "
        f"night again; if the feed begins later or has ended, say so in NIGHTSHIFT_FEED_SPANS={feed.name}=FIRST..LAST"
    )


def _version(feed: Feed, night: date, source: str, batch: str, rows: formats.Rows) -> str:
    """The newest contract version whose columns the file has."""
    for version, names in feed.headers.items():
        if sorted(names) == sorted(rows.columns) and not rows.retyped:
            return version
    expected = next(iter(feed.headers.values()))
    if rows.retyped:
        wanted = {column.name: column.type for column in feed.columns}
        rule, seen = "same_types", ", ".join(f"{name} is {found}, expected {wanted[name]}" for name, found in rows.retyped.items())
    else:
        missing, extra = sorted(set(expected) - set(rows.columns)), sorted(set(rows.columns) - set(expected))
        twice = sorted({name for name in rows.columns if rows.columns.count(name) > 1})
        rule = "same_columns"
        seen = f"has the columns {rows.columns}, expected {list(expected)} (missing {missing}, unknown {extra}, twice {twice})"
    verdict = Verdict(
        feed=feed.name, night=night, rule=rule, kind="schema", severity="stop", outcome="failed", rows=rows.table.num_rows,
        failed_rows=rows.table.num_rows, reason=f"{source} {seen}", batch=batch,
    )  # fmt: skip
    raise ContractError(
        f"bronze.{feed.name}, night {night}: {source} {seen}. Land a file with the columns of contract {feed.name} {feed.version}, or add "
        "a version of it that says what is new; nothing of the file was written",
        [verdict],
    )


def _completed(table: pa.Table, names: list[str]) -> pa.Table:
    """All columns of the contract; those that the file's version lacks hold null."""
    import pyarrow as pa

    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table.select([*names, *formats.PROVENANCE])
