"""Barrier: erasure waits for the writers that began before it knew whom to leave out; nobody waits for an erasure.

A writer reads, computes and commits. One that read a person's rows before they were deleted would commit them afterwards. So writers
pass through a lock that they share, and erasure, after each step that writers must see, takes it for itself for a moment: whoever
writes from then on has seen the step. Between processes of one machine (`flock`), where all of Nightshift's writers run.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.nightshift.settings import Settings


@contextmanager
def passing(settings: Settings) -> Iterator[None]:
    """Hold the barrier open for as long as a writer reads and writes. The system closes it for a process that dies."""
    with _held(settings, fcntl.LOCK_SH):
        yield


@contextmanager
def drained(settings: Settings) -> Iterator[None]:
    """Wait until no writer that has begun is still under way; new ones wait until the block ends, so it should be short."""
    with _held(settings, fcntl.LOCK_EX):
        yield


@contextmanager
def _held(settings: Settings, how: int) -> Iterator[None]:
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / ".barrier").open("a") as lock:
        fcntl.flock(lock, how)
        yield
