"""Attempts: one command, started again and again until the run is finished, with every machine accounted for.

Resume is the same command: what an attempt left behind decides where the next one begins. A preemption draws on its own budget and
never looks like a failure; a failure ends the run's attempts at once and brings the program's last words along.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from include.nightshift.errors import PreemptedTooOftenError, TrainingFailedError
from include.nightshift.spot.pools import LOG, Machine, Pool, training_command
from include.nightshift.train import checkpoint
from include.nightshift.train.interruption import INTERRUPTED
from include.nightshift.train.pace import AT_RISK_SECONDS
from include.nightshift.train.run import CHECKPOINTS, PROGRESS, TrainingRun, finished

log = logging.getLogger(__name__)

LEDGER = "attempts.jsonl"
"""Every ended attempt, one line each, relative to the run folder: numbers go on when the caller itself is started again."""

_LAST_LINES = 20

Outcome = Literal["finished", "preempted", "cancelled", "out_of_memory", "failed"]


@dataclass(frozen=True)
class Attempt:
    """A machine that trained: a row of `ops.training_attempts`."""

    run_id: str
    attempt: int
    """Counts from 1 within the run."""
    pool: str
    machine: str
    kind: str
    """The machine's type."""
    zone: str
    on_demand: bool
    """False: a spot machine, which its owner may take away."""
    started_at: datetime
    ended_at: datetime
    outcome: Outcome
    """`cancelled`: the caller was stopped and took the machine down with it; `failed` is the program's own fault."""
    seconds: float
    """From start to end, all of it paid."""
    lost_seconds: float
    """Work that has to be done again: from the last complete checkpoint (or the start) to the end; 0 when finished."""
    cost: float
    """Seconds times the price that was paid."""
    on_demand_cost: float
    """What the same seconds cost on demand."""


def train_on(
    pool: Pool,
    run_folder: Path,
    *,
    max_preemptions: int = 10,
    at_risk_seconds: float = AT_RISK_SECONDS,
    poll_seconds: float = 0.5,
    on_attempt: Callable[[Attempt], None] = lambda attempt: None,
    on_progress: Callable[[Mapping[str, Any]], None] = lambda line: None,
    command: Sequence[str] | None = None,
) -> list[Attempt]:
    """Train a run to its end on a pool's machines; returns all attempts of the run, also those of earlier calls.

    Args:
        pool: gives the machines.
        run_folder: made by the pin step.
        max_preemptions: how many machines this call may lose.
        at_risk_seconds: work that losing one may cost; 0 saves as often as the recipe can.
        poll_seconds: how often a machine is looked at.
        on_attempt: called with each attempt as it ends, before an error is raised about it.
        on_progress: called with each new line of `progress.jsonl`.
        command: what to run instead of the trainer.

    Raises:
        ConfigurationError: the run folder holds no usable `run.json`.
        PreemptedTooOftenError: more machines were lost than the budget allows; the checkpoints stand, a new call resumes.
        TrainingFailedError: the program failed by its own fault; the message ends with its last log lines.
    """
    run_folder = run_folder.resolve()
    run = TrainingRun.load(run_folder)
    wanted = list(command or training_command(run_folder, at_risk_seconds))
    reported = _Progress(run_folder / PROGRESS, on_progress)
    preemptions = 0
    while True:
        attempt, status, words = _attempt(pool, run, run_folder, wanted, poll_seconds, reported.report)
        on_attempt(attempt)
        if attempt.outcome == "finished":
            return ledger(run_folder)
        if attempt.outcome == "failed":
            raise TrainingFailedError(_reason(run, run_folder, attempt, status, words))
        preemptions += 1
        log.warning(
            "run %s lost %s; its newest checkpoint is that of step %s",
            run.run_id,
            attempt.machine,
            checkpoint.complete(run_folder / CHECKPOINTS)[-1:] or "none",
        )
        if preemptions > max_preemptions:
            raise PreemptedTooOftenError(
                f"run {run.run_id} lost {preemptions} machines of pool {pool.name}, its budget is {max_preemptions}. "
                "Its checkpoints stand: start it again later or on another pool, or raise max_preemptions"
            )


def ledger(run_folder: Path) -> list[Attempt]:
    """The attempts of a run that have ended, oldest first."""
    path = run_folder / LEDGER
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Attempt(**line | {name: datetime.fromisoformat(line[name]) for name in ("started_at", "ended_at")}) for line in lines]


def _attempt(
    pool: Pool, run: TrainingRun, run_folder: Path, command: Sequence[str], poll_seconds: float, report: Callable[[], None]
) -> tuple[Attempt, int | None, str]:
    """One machine from start to end; always leaves a line in the ledger and no process."""
    past = ledger(run_folder)
    number = past[-1].attempt + 1 if past else 1
    log_starts = (run_folder / LOG).stat().st_size if (run_folder / LOG).exists() else 0
    status: int | None = None
    with _sigterm_raises():
        started_at = datetime.now(UTC)
        machine = pool.start(command, run_folder, number)
        try:
            while (status := machine.poll()) is None:
                report()
                time.sleep(poll_seconds)
            report()
        finally:
            ended_at = datetime.now(UTC)
            machine.stop()
            outcome = _outcome(machine, status, run_folder)
            attempt = Attempt(
                run_id=run.run_id,
                attempt=number,
                pool=pool.name,
                machine=machine.name,
                kind="process",
                zone=machine.zone,
                on_demand=False,
                started_at=started_at,
                ended_at=ended_at,
                outcome=outcome,
                seconds=(ended_at - started_at).total_seconds(),
                lost_seconds=0.0 if outcome == "finished" else _lost_seconds(run_folder, started_at, ended_at),
                cost=(ended_at - started_at).total_seconds() * pool.price_per_hour / 3600,
                on_demand_cost=(ended_at - started_at).total_seconds() * pool.price_per_hour / 3600,
            )
            _append(run_folder / LEDGER, attempt)
    return attempt, status, _last_words(run_folder / LOG, log_starts)


def _outcome(machine: Machine, status: int | None, run_folder: Path) -> Outcome:
    if status == 0 and finished(run_folder):
        return "finished"
    # No status: it still ran, and its caller is being stopped. An interruption from outside, like any other.
    return "preempted" if status in (None, INTERRUPTED) or machine.preempted else "failed"


def _lost_seconds(run_folder: Path, started_at: datetime, ended_at: datetime) -> float:
    saved_at = checkpoint.last_saved_at(run_folder / CHECKPOINTS)
    return max(0.0, (ended_at - max(started_at, saved_at or started_at)).total_seconds())


def _reason(run: TrainingRun, run_folder: Path, attempt: Attempt, status: int | None, words: str) -> str:
    if status == 0:
        how = "ended well, but left no result that matches its model"
    elif status is not None and status < 0:
        how = f"was killed by {signal.Signals(-status).name}, not by its pool (SIGKILL often means that memory ran out)"
    else:
        how = f"exited with status {status}"
    who = f"run {run.run_id}, attempt {attempt.attempt} on {attempt.machine}"
    return f"{who}: the training program {how}. The whole story is in {run_folder / LOG}; its last lines:\n{words}"


def _last_words(path: Path, start: int) -> str:
    if not path.exists():
        return "(it printed nothing)"
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_LAST_LINES:]) or "(it printed nothing)"


def _append(path: Path, attempt: Attempt) -> None:
    times = {"started_at": attempt.started_at.isoformat(), "ended_at": attempt.ended_at.isoformat()}
    lines = path.read_bytes() if path.exists() else b""
    checkpoint.write_durably(path, lines + json.dumps(asdict(attempt) | times).encode() + b"\n")


class _Progress:
    """Passes on the lines of `progress.jsonl` that have not been passed on yet."""

    def __init__(self, path: Path, on_progress: Callable[[Mapping[str, Any]], None]) -> None:
        self._path = path
        self._on_progress = on_progress
        # What earlier calls have seen is no news.
        self._step = max((line["step"] for line in self._lines()), default=0)

    def report(self) -> None:
        for line in self._lines():
            if line["step"] > self._step:
                self._step = line["step"]
                self._on_progress(line)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self._path.read_text().splitlines()]
        except FileNotFoundError:
            return []


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that `finally` runs and the machine goes with its caller; then what was there before is back.

    Python's default would end this process on the spot and leave the machine running. Only the main thread can ask for signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        # Once: a second SIGTERM must not cut the cleaning up short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
