"""Watchdog: ends a trainer that no longer gets on, so that a hung GPU costs minutes and not a night's money.

A thread can not raise an error in another one, least of all in one that waits for a driver. So it says the error's name and what every
thread was at, as the last lines, and ends the process with a status of its own. The newest checkpoint stands, and the same command resumes.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Callable
from types import TracebackType

from include.nightshift.errors import TrainingStalledError
from include.nightshift.train.interruption import STALLED

STALLED_SECONDS = 15 * 60.0
"""How long a step, or reading the rows, may take, unless told otherwise."""


class Watchdog:
    """Between entering and leaving it, `alive` must be called at least every so many seconds."""

    def __init__(self, seconds: float, bite: Callable[[int], object] = os._exit) -> None:
        self._seconds, self._bite = seconds, bite
        self._lock = threading.Condition()
        self._signs, self._over = 0, False
        self._at = "start"

    def __enter__(self) -> Watchdog:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._over = True
            self._lock.notify()

    def alive(self, at: str) -> None:
        """Something was done; `at` says what, for the message."""
        with self._lock:
            self._signs, self._at = self._signs + 1, at
            self._lock.notify()

    def _watch(self) -> None:
        with self._lock:
            while not self._over:
                seen = self._signs
                # A new sign or the end wakes it; else so many seconds have passed without one.
                if not self._lock.wait_for(lambda seen=seen: self._over or self._signs > seen, self._seconds):  # type: ignore[misc]
                    break
            if self._over:
                return
        error = TrainingStalledError(
            f"no progress in {self._seconds:g} s since {self._at}: look for a hung GPU or disk; the newest checkpoint stands and the same "
            "command resumes. Where a step takes that long, give --stalled-minutes"
        )
        faulthandler.dump_traceback(2)
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        self._bite(STALLED)
