"""The request: who is to be erased, in a file that only this user reads and that the run destroys. Everything else knows its token.

`<home>/erasures/<token>` (0600, in a folder of 0700). It gains the keys of the person's events once they are found: a run that failed half
way, and has deleted some of the rows that tell them, goes on from there.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift import durable
from include.nightshift.errors import ConfigurationError, ErasureError
from include.nightshift.ingest import erased

if TYPE_CHECKING:
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

TOKEN = r"^[0-9a-f]{32}$"  # noqa: S105 - a pattern
_BIGINT = 2**63
_INTEGERS = ("bigint", "int")


@dataclass(frozen=True, repr=False)
class Request:
    """One person, never shown."""

    token: str
    use_case: str
    person: str
    """The id, as a canonical whole number."""
    keys: frozenset[str] = frozenset()
    """Keys of events that are theirs alone, as canonical whole numbers."""

    def __repr__(self) -> str:
        return f"Request({self.token})"


def make(settings: Settings, use_case: UseCase, text: str) -> str:
    """Put a request on disk; returns its token. The text is never repeated, not even in an error.

    Raises:
        ConfigurationError: it is no value of the use case's entity column.
    """
    column = next(column for column in use_case.events.columns if column.name == use_case.entity)
    if column.type not in _INTEGERS:
        raise ConfigurationError(f"{use_case.name}: {column.name} is {column.type}; only persons with a whole number can be erased so far")
    person = erased.canonical(text)
    if person is None or not -_BIGINT <= int(person) < _BIGINT:
        raise ConfigurationError(f"what was given is no {column.name} of {use_case.name}: give one whole number ({column.type})")
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    token = secrets.token_hex(16)
    durable.write_private(folder / token, _content(Request(token, use_case.name, person)))
    return token


def read(settings: Settings, use_case: UseCase, token: str) -> Request:
    """The request of a token.

    Raises:
        ErasureError: there is none, it is another use case's, or others than this user may have read or written it.
    """
    path = _path(settings, token)
    _check_private(path)
    try:
        held = json.loads(path.read_bytes())
        request = Request(token, held["use_case"], held["person"], frozenset(held["keys"]))
    except (ValueError, KeyError, TypeError):
        # Not its words: they could quote the file.
        raise ErasureError(f"{path} is no request: remove it, and ask anew with `make erase`") from None
    if request.use_case != use_case.name:
        raise ErasureError(f"request {token} is one of {request.use_case}: start {request.use_case}_erase with it, not {use_case.name}'s")
    return request


def extend(settings: Settings, request: Request, keys: Collection[str]) -> Request:
    """The request with these keys too, on disk first."""
    extended = replace(request, keys=request.keys | frozenset(keys))
    if extended.keys != request.keys:
        path = _path(settings, request.token)
        with durable.placed(path) as temporary:
            temporary.unlink(missing_ok=True)
            durable.write_private(temporary, _content(extended))
    return extended


def destroy(settings: Settings, token: str) -> None:
    """Overwrite the file and remove it; one that is gone is none to worry about. A disk that writes elsewhere keeps its old blocks."""
    path = _path(settings, token)
    for held in (path, path.with_name(f".{path.name}.tmp")):
        if held.exists():
            with held.open("r+b") as file:
                file.write(b"\0" * held.stat().st_size)
                file.flush()
                os.fsync(file.fileno())
            held.unlink()
            durable.synced(held.parent)


def paths(settings: Settings, token: str) -> list[Path]:
    """Where the id stands until the request is destroyed."""
    path = _path(settings, token)
    return [path, path.with_name(f".{path.name}.tmp")]


def _check_private(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError as error:
        raise ErasureError(
            f"{path} is missing: a request that was carried out is gone, and its receipt is in ops.erasures; otherwise ask anew with "
            "`make erase`"
        ) from error
    folder = path.parent.lstat()
    mode, around = stat.S_IMODE(found.st_mode), stat.S_IMODE(folder.st_mode)
    if not stat.S_ISREG(found.st_mode) or mode != 0o600 or around != 0o700 or {found.st_uid, folder.st_uid} != {os.getuid()}:
        raise ErasureError(
            f"{path} has mode {mode:04o} (owner {found.st_uid}) in a folder of mode {around:04o} (owner {folder.st_uid}), expected 0600 in "
            f"0700, both of user {os.getuid()}: others may have read or written it. Remove it, and ask anew with `make erase`"
        )


def _content(request: Request) -> bytes:
    return json.dumps({"use_case": request.use_case, "person": request.person, "keys": sorted(request.keys)}).encode()


def _path(settings: Settings, token: str) -> Path:
    if not re.fullmatch(TOKEN, token):
        raise ErasureError("a request's token is 32 digits of 0-9a-f: give the one that `make erase` printed")
    return _folder(settings) / token


def _folder(settings: Settings) -> Path:
    return settings.home / "erasures"
