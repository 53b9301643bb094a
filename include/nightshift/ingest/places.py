"""Places: where a feed's drops lie, a folder of this machine or a prefix on S3. Nothing is written here."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from include.nightshift import objects
from include.nightshift.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed


class PlaceError(Exception):
    """What is wrong with a file, and what to do: the end of a sentence that begins with its address."""


class Place(Protocol):
    """The drops of one feed."""

    @property
    def is_ours(self) -> bool:
        """Whether they are the installation's own to rewrite: those in its home are."""

    def names(self, beginning: str = "") -> list[str]:
        """The names, hidden ones too, that begin so, sorted."""

    def address(self, name: str) -> str:
        """Where a person finds it."""

    def read(self, name: str) -> tuple[bytes, datetime]:
        """A file's bytes, all of one moment, and when it was last written.

        Raises:
            PlaceError: it cannot be read, is none, or is still being written.
        """


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    settings: Settings
    feed: str

    @property
    def path(self) -> Path:
        return self.settings.landing_folder / self.feed

    @property
    def is_ours(self) -> bool:
        return self.path.resolve().is_relative_to(self.settings.home.resolve())

    def names(self, beginning: str = "") -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.path) if name.startswith(beginning))
        except FileNotFoundError:
            return []

    def address(self, name: str) -> str:
        return str(self.path / name)

    def read(self, name: str) -> tuple[bytes, datetime]:
        path = self.path / name
        if not path.resolve().is_relative_to(self.settings.landing_folder.resolve()):
            raise PlaceError(f"leads out of the landing folder, to {path.resolve()}. Put the file itself there")
        try:
            before = path.stat()
            if not stat.S_ISREG(before.st_mode):  # a pipe would be waited for
                raise PlaceError("cannot be read: it is no plain file. Mend that")
            content = path.read_bytes()
            after = path.stat()
        except OSError as error:
            raise PlaceError(f"cannot be read: {error}. Mend that") from error
        if _state(before) != _state(after) or len(content) != after.st_size:
            raise PlaceError(
                f"is still being written: {before.st_size} bytes when it was opened, {after.st_size} afterwards. "
                "Write under another name and rename at the end"
            )
        return content, datetime.fromtimestamp(after.st_mtime, UTC)


@dataclass(frozen=True)
class Prefix:
    """A prefix on S3, where an object appears whole or not at all."""

    root: str
    """The landing's address, `s3://bucket/prefix`."""
    feed: str

    @property
    def is_ours(self) -> bool:
        return False

    def names(self, beginning: str = "") -> list[str]:
        found = (there.address.removeprefix(self.address("")) for there in objects.starting(self.address(beginning)))
        return [name for name in found if name and "/" not in name]

    def address(self, name: str) -> str:
        return f"{self.root}/{self.feed}/{name}"

    def read(self, name: str) -> tuple[bytes, datetime]:
        try:
            found, content = objects.read(self.address(name))
        except StorageError as error:
            raise PlaceError(f"cannot be read: {error}") from error
        return content, found.modified


def of(settings: Settings, feed: Feed) -> Place:
    """Where the feed's drops lie. What is pulled is written by us, and lies here."""
    if settings.lands_on_s3 and feed.pull is None:
        return Prefix(settings.landing_location, feed.name)
    return Folder(settings, feed.name)


def check(settings: Settings, feeds: Iterable[Feed]) -> None:
    """Ask for each feed's drops on S3 once, so that a wrong bucket or a missing right is said before a night needs them.

    Raises:
        StorageError: S3 does not answer, or refuses.
        ConfigurationError: AWS's variables do not say where S3 is.
    """
    for place in (of(settings, feed) for feed in feeds):
        if isinstance(place, Prefix):
            next(objects.starting(place.address("")), None)


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns
