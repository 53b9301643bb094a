"""Pools: where a training command gets its machine. One interface; here, processes of this computer.

`LocalPool` preempts for real, with the notice, the SIGTERM and the SIGKILL that a cloud would send, at points of the run's
progress that the caller chooses: tests and the demo see the same interruption every time, however fast the machine is.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from include.nightshift.errors import ConfigurationError
from include.nightshift.settings import ROOT
from include.nightshift.train import checkpoint, interruption
from include.nightshift.train.run import CHECKPOINTS

log = logging.getLogger(__name__)

LOG = "log.txt"
"""What the program prints, all attempts one after another, relative to the run folder."""

_WATCH_SECONDS = 0.01
_STOP_SECONDS = 5.0
_EMPTY_SECONDS = 1.0


class Machine(Protocol):
    """A machine at work on one attempt."""

    @property
    def name(self) -> str: ...

    @property
    def zone(self) -> str: ...

    @property
    def preempted(self) -> bool:
        """Whether the pool took the machine away, or gave notice that it would."""

    def poll(self) -> int | None:
        """The program's exit status; None while it runs. Minus the signal's number where one killed it."""

    def stop(self) -> None:
        """End the machine and all that runs on it, now; returns when nothing is left. Harmless when it has ended."""


class Pool(Protocol):
    """Somewhere to get machines."""

    @property
    def name(self) -> str: ...

    @property
    def price_per_hour(self) -> float:
        """What a machine costs, in the currency of the bills."""

    def start(self, command: Sequence[str], run_folder: Path, attempt: int) -> Machine:
        """Start the command on a fresh machine that sees the run folder, under its own path; a notice of an earlier machine is withdrawn.

        What it prints is appended to `<run_folder>/log.txt`. `attempt` counts from 1.
        """


class LocalPool:
    """Processes of this computer, each in a process group of its own."""

    name = "local"
    price_per_hour = 0.0

    def __init__(self, interruptions: Sequence[int] = (), grace_seconds: float = 5.0, *, notice: bool = True) -> None:
        """Plan the interruptions.

        Args:
            interruptions: attempt k is preempted as soon as it has completed `interruptions[k - 1]` checkpoints itself; 0 means at
                once. Later attempts are left alone.
            grace_seconds: from notice to SIGKILL; SIGTERM comes half-way, and is the deadline that the notice names.
            notice: False kills outright with SIGKILL, as a machine that loses its power.

        Raises:
            ConfigurationError: a negative number.
        """
        if min(interruptions, default=0) < 0 or grace_seconds < 0:
            raise ConfigurationError(
                f"local pool: interruptions {list(interruptions)} and grace_seconds {grace_seconds} must not be negative"
            )
        self.interruptions = tuple(interruptions)
        self.grace_seconds = grace_seconds
        self.notice = notice

    def start(self, command: Sequence[str], run_folder: Path, attempt: int) -> LocalMachine:
        _end_orphan(run_folder)
        interruption.withdraw_notice(run_folder)
        stood = max(checkpoint.complete(run_folder / CHECKPOINTS), default=0)
        with (run_folder / LOG).open("ab") as output:
            process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        machine = LocalMachine(process, run_folder)
        if attempt <= len(self.interruptions):
            machine.preempt_after(self.interruptions[attempt - 1], stood, self.grace_seconds if self.notice else None)
        return machine


class LocalMachine:
    """A process group; made by `LocalPool.start`."""

    zone = "local"

    def __init__(self, process: subprocess.Popen[bytes], run_folder: Path) -> None:
        self.name = f"process-{process.pid}"
        self.preempted = False
        self._process = process
        self._run_folder = run_folder
        self._ended = threading.Event()

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._ended.set()
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()
        # What the program started dies a moment after the signal. Bounded: where nobody reaps orphans, a group never empties.
        until = time.monotonic() + _EMPTY_SECONDS
        while self._signal(0) and time.monotonic() < until:
            time.sleep(_WATCH_SECONDS)

    def preempt_after(self, number: int, stood: int, grace_seconds: float | None) -> None:
        """Take the machine away once so many checkpoints beyond step `stood` are complete; without grace, without a word."""
        threading.Thread(target=self._preempt, args=(number, stood, grace_seconds), name=f"preempt {self.name}", daemon=True).start()

    def _preempt(self, number: int, stood: int, grace_seconds: float | None) -> None:
        own: set[int] = set()
        while len(own) < number:
            own.update(step for step in checkpoint.complete(self._run_folder / CHECKPOINTS) if step > stood)
            if len(own) < number and self._gone(_WATCH_SECONDS):
                return
        self.preempted = True
        if grace_seconds is not None:
            interruption.give_notice(self._run_folder, datetime.now(UTC) + timedelta(seconds=grace_seconds / 2))
            if self._gone(grace_seconds / 2):
                return
            self._signal(signal.SIGTERM)
            if self._gone(grace_seconds / 2):
                return
        self._signal(signal.SIGKILL)

    def _gone(self, seconds: float) -> bool:
        """Wait, at most so long, for the program to end."""
        until = time.monotonic() + seconds
        while True:
            if self._ended.is_set() or self._process.poll() is not None:
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(_WATCH_SECONDS)

    def _signal(self, number: int) -> bool:
        """Signal the group, so that what the program started itself goes with it; False where nobody is left."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True


def _end_orphan(run_folder: Path) -> None:
    """End a trainer whose caller was killed outright and could not stop it: the newest attempt wins, and needs the run to itself."""
    folder = run_folder / CHECKPOINTS
    holder = checkpoint.writer(folder)
    if holder is None:
        return
    # The number may be another process's where the holder lives in another container: only a trainer of this run is ended.
    with suppress(FileNotFoundError, ProcessLookupError):
        if str(run_folder).encode() in Path(f"/proc/{holder}/cmdline").read_bytes().split(b"\0"):
            log.warning("process %d still trains %s though nobody waits for it: ending it", holder, run_folder)
            os.kill(holder, signal.SIGKILL)
            until = time.monotonic() + _STOP_SECONDS
            while checkpoint.writer(folder) == holder and time.monotonic() < until:
                time.sleep(_WATCH_SECONDS)


def training_command(run_folder: Path, at_risk_seconds: float) -> list[str]:
    """The command that trains a run; the same on every restart."""
    return [sys.executable, "-m", "include.nightshift.train", "--run", str(run_folder), "--at-risk-seconds", str(at_risk_seconds)]
