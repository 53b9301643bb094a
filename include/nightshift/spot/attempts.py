"""Attempts: every machine that a run had, accounted for once it has ended.

A preemption draws on its own budget and never looks like a failure; a failure is news, and brings the program's last words along.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from include.nightshift.spot.pools import Machine, Sight
from include.nightshift.train import checkpoint
from include.nightshift.train.interruption import INTERRUPTED, OUT_OF_MEMORY, STALLED
from include.nightshift.train.run import PROGRESS, TRIALS, finished

LEDGER = "attempts.jsonl"
"""Every ended attempt, one line each, relative to the run folder."""

Outcome = Literal["finished", "preempted", "cancelled", "never_began", "out_of_memory", "stalled", "failed"]


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
    """`cancelled`: stopped by us, for a person or for another machine; `failed`: the program's own fault."""
    seconds: float
    """From start to end, all of it paid."""
    lost_seconds: float
    """Work that has to be done again: from the last complete checkpoint (or the start) to the end; 0 when finished."""
    cost: float
    """Seconds times the price that was paid."""
    on_demand_cost: float
    """What the same seconds cost on demand."""

    @property
    def hours(self) -> float:
        return self.seconds / 3600


def ledger(run_folder: Path) -> list[Attempt]:
    """The attempts of a run that have ended, oldest first."""
    return [
        Attempt(**line | {name: datetime.fromisoformat(line[name]) for name in ("started_at", "ended_at")})
        for line in lines(run_folder / LEDGER)
    ]


def closed(pool: str, run_folder: Path, machine: Machine, sight: Sight, ended_at: datetime, *, cancelled: bool = False) -> Attempt:
    """Enter a machine that has ended in the run's ledger, once; returns its line.

    Args:
        pool: the pool's name.
        run_folder: the run, with all that the machine has left.
        machine: which one.
        sight: how it stands.
        ended_at: when that was seen, should neither machine nor pool know better.
        cancelled: it ended because we ended it.
    """
    for attempt in ledger(run_folder):
        if attempt.attempt == machine.attempt:
            return attempt
    ended_at = sight.ended_at or (sight.word and sight.word.ended_at) or ended_at
    seconds = max(0.0, (ended_at - machine.started_at).total_seconds())
    outcome = _outcome(run_folder, sight, cancelled=cancelled)
    attempt = Attempt(
        run_id=machine.run_id,
        attempt=machine.attempt,
        pool=pool,
        machine=machine.name,
        kind=machine.kind,
        zone=machine.zone,
        on_demand=machine.on_demand,
        started_at=machine.started_at,
        ended_at=ended_at,
        outcome=outcome,
        seconds=seconds,
        lost_seconds=0.0 if outcome == "finished" else _lost_seconds(run_folder, machine.started_at, ended_at),
        cost=seconds * machine.price_per_hour / 3600,
        on_demand_cost=seconds * machine.on_demand_per_hour / 3600,
    )
    moments = {"started_at": attempt.started_at.isoformat(), "ended_at": attempt.ended_at.isoformat()}
    append(run_folder / LEDGER, asdict(attempt) | moments)
    return attempt


def _outcome(run_folder: Path, sight: Sight, *, cancelled: bool) -> Outcome:
    word = sight.word
    if word is not None and word.status == 0 and finished(run_folder):
        return "finished"
    if cancelled:
        return "cancelled"
    if word is None:
        return "preempted" if sight.taken else "never_began"
    # Without a last word it was cut off, or told to go and did not get as far as speaking: its owner's doing.
    if sight.taken or word.taken or word.ended_at is None or word.status == INTERRUPTED:
        return "preempted"
    # The agent lived and its program was killed: what the kernel does where memory is short.
    if word.status in (OUT_OF_MEMORY, -signal.SIGKILL):
        return "out_of_memory"
    return "stalled" if word.status == STALLED else "failed"


def _lost_seconds(run_folder: Path, started_at: datetime, ended_at: datetime) -> float:
    # While a run is searched, what stands is in its trials.
    standing = (run_folder / PROGRESS, *run_folder.glob(f"{TRIALS}/*/{PROGRESS}"))
    saved = [datetime.fromisoformat(line["at"]) for path in standing for line in lines(path)[-1:]]
    return max(0.0, (ended_at - max([started_at, *saved])).total_seconds())


def progress(run_folder: Path) -> list[dict[str, Any]]:
    """What the run has saved so far, a line for each stretch of training, oldest first."""
    return lines(run_folder / PROGRESS)


def reason(machine: Machine, sight: Sight) -> str:
    """What became of a machine whose program failed, for an error's message; ends with the program's last lines."""
    word = sight.word
    status = word.status if word else None
    if status == 0:
        how = "ended well, but left no result that matches its model"
    elif status is not None and status < 0:
        how = f"was killed by {signal.Signals(-status).name}, not by its pool (SIGKILL often means that memory ran out)"
    else:
        how = f"exited with status {status}"
    words = (word.last_lines if word else "") or "(it printed nothing)"
    return f"run {machine.run_id}, attempt {machine.attempt} on {machine.name}: the training program {how}. Its last lines:\n{words}"


def lines(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines; none where there is no file."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line, whole or not at all; one writer at a time."""
    held = path.read_bytes() if path.exists() else b""
    checkpoint.write_durably(path, held + json.dumps(line).encode() + b"\n")


def spent(attempts: Sequence[Attempt]) -> float:
    """What a run's ended machines have cost."""
    return sum(attempt.cost for attempt in attempts)
