"""Interruption: how a machine says that it is going, and how the trainer goes.

Two ways, as clouds have them. A *notice* is a file in the run folder, written ahead of time (the two-minute warning): the trainer
looks after every step, finishes the stretch if time allows, and leaves. *SIGTERM* is the last word: the trainer leaves at once,
and the newest complete checkpoint stands. Either way it exits with `INTERRUPTED`, and the same command resumes.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from include.nightshift.train.checkpoint import write_durably

INTERRUPTED = os.EX_TEMPFAIL
"""Exit status 75 of a trainer that was interrupted and can be resumed."""

OUT_OF_MEMORY = 76
"""Exit status of a trainer whose machine has too little memory: another like it will not do."""

STALLED = 77
"""Exit status of a trainer that was ended because it no longer got on; it can be resumed."""

STATUS = "status"
"""Names the file, relative to the run folder, in which a program that does not end well leaves its exit status."""

NOTICE = "notice"
"""The notice file, relative to the run folder."""


AT_RISK = "at-risk"
"""The file, relative to the run folder, that says that the machine may go soon: every stretch is saved while it is there."""


class Interrupted(Exception):
    """The trainer leaves because its machine does. Weather, no error."""


def give_notice(run_folder: Path, deadline: datetime) -> None:
    """Tell the trainer that its machine goes at `deadline` (aware)."""
    write_durably(run_folder / NOTICE, json.dumps({"deadline": deadline.isoformat()}).encode())


def withdraw_notice(run_folder: Path) -> None:
    """Clear what was said of a machine that is gone; whoever starts the next machine does this."""
    (run_folder / NOTICE).unlink(missing_ok=True)
    (run_folder / AT_RISK).unlink(missing_ok=True)


def mark_at_risk(run_folder: Path) -> None:
    """Tell the trainer that its machine may go sooner than others do."""
    (run_folder / AT_RISK).touch()


def is_at_risk(run_folder: Path) -> bool:
    """Whether the machine may go soon."""
    return (run_folder / AT_RISK).exists()


def seconds_left(run_folder: Path) -> float | None:
    """Seconds until the machine goes (below zero when overdue); None while there is no notice, infinite where it sets no deadline."""
    try:
        notice = (run_folder / NOTICE).read_text()
    except FileNotFoundError:
        return None
    if not notice.strip():
        return math.inf  # `touch notice`: a person asks to pause after this stretch
    return (datetime.fromisoformat(json.loads(notice)["deadline"]) - datetime.now(UTC)).total_seconds()


def leave_status(run_folder: Path, status: int) -> int:
    """Leave word of the status that this process ends with, and return it: torchrun makes 1 of everything but 0.

    The first of several processes is heard: the others fail because it is gone.
    """
    with suppress(FileExistsError, FileNotFoundError), (run_folder / STATUS).open("x") as file:
        file.write(str(status))
    return status


def left_status(run_folder: Path) -> int | None:
    """The status that was left; None where there is none."""
    try:
        return int((run_folder / STATUS).read_text())
    except FileNotFoundError:
        return None


def leave_on_sigterm() -> None:
    """From now on, SIGTERM ends this process at once with `INTERRUPTED`; call it first, in the main thread.

    A Python signal handler would wait until XGBoost returns from a round or from reading the data. A thread that waits for the
    signal does not, and since every file is put in place whole, leaving needs no more care than being killed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        os.write(2, b"SIGTERM: leaving at once, the newest checkpoint stands\n")
        os._exit(INTERRUPTED)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()
