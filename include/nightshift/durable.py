"""Durable files: in place whole or not at all, and still there after a power cut. Python's standard library only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A temporary path to write to; what was written takes the place of `path` when the block ends well, and is gone when it does not.

    A process that is killed leaves `.<name>.tmp` behind, which the next one overwrites: one writer at a time.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        synced(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    synced(path.parent)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only this user can read, at no moment anybody else.

    Raises:
        FileExistsError: there is one of that name.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(content)
    synced(path)
    synced(path.parent)


def write_private_once(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, in a folder that only this user may enter, unless there is one already.

    Of processes that do it at once, one is first, and all find its file.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    ours = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_private(ours, content)
    try:
        os.link(ours, path)  # unlike a rename, it never takes the place of one that came first
    except FileExistsError:
        pass
    finally:
        ours.unlink()
    synced(path.parent)


def synced(path: Path) -> None:
    """Have a file's content, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
