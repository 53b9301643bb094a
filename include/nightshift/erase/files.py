"""Landed files, logs and litter: what lies beside the tables and tells of the person."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift import nights
from include.nightshift.errors import NightError
from include.nightshift.ingest import erased, formats, landing, places

if TYPE_CHECKING:
    from include.nightshift.erase.person import Person
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed

LOGS = ("logs", "airflow/logs")
"""Folders of the home whose files are text for people."""
LITTER = ("staging", "dbt")
"""Folders of the home that hold nothing while no stage is under way."""


@dataclass(frozen=True)
class Landed:
    """A landed file that holds rows of the person."""

    address: str
    is_ours: bool
    """Whether it is the installation's own to rewrite."""
    night: date | None
    """None where its name says none."""
    rows: tuple[int, ...]
    """Their numbers in the file."""
    events: frozenset[str] = field(repr=False)
    """Keys of their events, less those that another's row in the file bears too."""
    batch: str
    """SHA-256 of the file as it stands."""
    left: int
    """Rows of the file without them."""
    feed: Feed

    @cached_property
    def cut(self) -> str:
        """SHA-256 of the file without them, which only who rewrites it has to know: it is read again.

        Raises:
            LandingError: it is another file by now.
        """
        return hashlib.sha256(erased.without(Path(self.address), self.feed, self.batch, self.rows)).hexdigest()


@dataclass(frozen=True)
class Unread:
    """A landed file that cannot be read, so that nobody can say whose rows it holds."""

    address: str
    why: str


def landed(settings: Settings, feed: Feed, person: Person) -> Iterator[Landed | Unread]:
    """The files of a feed that hold rows of the person, of whatever night, and those that cannot be read."""
    place = places.of(settings, feed)
    for name in place.names():
        if not name.endswith(landing.SUFFIXES) or name.startswith("."):
            continue
        address = place.address(name)
        try:
            content, _ = place.read(name)
            rows = landing.parted(name, content, feed).table
        except (formats.FormatError, places.PlaceError) as error:
            yield Unread(address, f"it {error}")
            continue
        if "_row" not in rows.column_names:
            yield Unread(address, "its columns cannot be told apart")
            continue
        theirs = person.rows.theirs(rows)
        if theirs.any():
            numbers = tuple(rows["_row"].to_numpy()[theirs].tolist())
            events = erased.events(rows, feed, theirs) if person.entity in rows.column_names else set()
            batch, left = hashlib.sha256(content).hexdigest(), rows.num_rows - len(numbers)
            yield Landed(address, place.is_ours, _night(name), numbers, frozenset(events), batch, left, feed)


def keys(settings: Settings, feed: Feed, person: Person) -> set[str]:
    """Keys of their events in landed files."""
    return set[str]().union(*(file.events for file in landed(settings, feed, person) if isinstance(file, Landed)))


def rewrite(file: Landed) -> None:
    """Take their rows out of a file of ours.

    Raises:
        LandingError: it is another file by now, or cannot be written.
    """
    erased.rewrite(Path(file.address), file.feed, file.batch, file.rows)


def clear_litter(settings: Settings) -> list[str]:
    """Remove what killed runs left in the folders of stages; only while no stage is under way."""
    gone = []
    for name in LITTER:
        for path in sorted((settings.home / name).glob("*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            gone.append(str(path.relative_to(settings.home)))
    return gone


def redact(settings: Settings, numbers: Collection[int]) -> dict[str, int]:
    """Overwrite unmistakable numbers in the logs by stars, in place: whoever has a log open goes on writing. Returns places by file."""
    if not numbers:
        return {}
    pattern = re.compile(b"|".join(str(abs(number)).encode() for number in sorted(numbers)))
    told = {}
    for path in (path for name in LOGS for path in sorted((settings.home / name).rglob("*")) if path.is_file()):
        with path.open("r+b") as file:
            found = [match.span() for match in pattern.finditer(file.read())]
            for begin, end in found:
                file.seek(begin)
                file.write(b"*" * (end - begin))
        if found:
            told[str(path.relative_to(settings.home))] = len(found)
    return told


def _night(name: str) -> date | None:
    try:
        return nights.parse(name.split(".")[0], what="file")
    except NightError:
        return None
