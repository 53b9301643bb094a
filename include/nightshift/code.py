"""The code that runs: its commit, whether it is more than that, and the files of an earlier commit."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from include.nightshift.settings import ROOT

UNKNOWN = "unknown"
DIRTY = "-dirty"
"""Ends the name of code that is more than its commit, as `git describe` says it."""
LOCK = "requirements.lock"


def commit() -> str:
    """The commit of the code that runs; `unknown` in an image without git."""
    return _git("rev-parse", "HEAD") or UNKNOWN


def dirty() -> bool | None:
    """Whether what runs is more than its commit: changes, or files that git was not told of. None where nobody knows."""
    changes = _git("status", "--porcelain")
    return None if changes is None else bool(changes)


def name() -> str:
    """The commit, with `-dirty` behind it where what runs is more than that."""
    return commit() + (DIRTY if dirty() else "")


def laid_out(commit: str, folder: Path) -> bool:
    """Lay the files of a commit into an empty folder; False where git does not have it."""
    git = _has_git()
    if git is None or commit == UNKNOWN or commit.endswith(DIRTY) or _git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        return False
    packed = subprocess.run([git, "-C", str(ROOT), "archive", "--format=tar", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    return True


def packages(root: Path = ROOT) -> str | None:
    """Names the packages that the code below a folder asks for, by its lock file; None where it has none."""
    lock = root / LOCK
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None


def _git(*asked: str) -> str | None:
    """What git says of the code that runs; None in an image without git, or without the code's history."""
    git = _has_git()
    if git is None:
        return None
    done = subprocess.run([git, "-C", str(ROOT), *asked], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _has_git() -> str | None:
    return shutil.which("git") if (ROOT / ".git").exists() else None
