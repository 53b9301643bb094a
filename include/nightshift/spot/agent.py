"""Agent: what a machine of any pool runs. It starts the trainer, listens for the machine's end, and leaves word of how it went.

It listens to *heralds*, who know when the machine goes (the cloud's metadata service, the local pool's weather), and hands what the
trainer saves to a *carrier*, who brings it where the next machine finds it. The trainer knows of none of this: it sees a run folder,
a notice in it, and SIGTERM. Imports neither Airflow nor Spark, and boto3 only where a carrier needs it.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from include.nightshift.errors import CheckpointError, ConfigurationError
from include.nightshift.settings import ROOT
from include.nightshift.spot.pools import LOG, MACHINES, Word
from include.nightshift.train import checkpoint, interruption
from include.nightshift.train.run import CHECKPOINTS

log = logging.getLogger("nightshift.agent")

TURN_SECONDS = 0.02
"""How often it looks whether the trainer still runs."""

LEAVE_SECONDS = 5.0
"""How long a trainer that was asked to leave may take."""

BEAT_SECONDS = 2.0
"""How often a machine shows that it lives: the age of its word then says when it was cut off."""

STOP = "stop"
"""Suffix of the file that asks an agent to leave, where no signal reaches it."""

_LAST_LINES = 20
_WEATHER_SECONDS = 0.01


class Herald(Protocol):
    """Somebody who knows when the machine goes."""

    def goes_at(self) -> datetime | None:
        """When the machine goes, as far as is known; None while nobody has said so. Called often, so it must not wait for answers."""


class Carrier(Protocol):
    """Somebody who keeps the run folder where machines come and go."""

    def claim(self) -> None:
        """Make this attempt the only one that may leave anything behind.

        Raises:
            CheckpointError: a later attempt holds the run.
        """

    def bring(self) -> None:
        """Lay the run in this machine's folder, as the attempts before have left it."""

    def carry(self) -> None:
        """Bring away what is new; soon, but never half a checkpoint.

        Raises:
            CheckpointError: a later attempt has claimed the run since.
        """

    def leave(self) -> None:
        """Bring away what is left, the last word too."""


class Stay:
    """The carrier of a machine that works in the run folder itself."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._earlier = [lock_path(folder, number) for number in range(1, attempt)]

    def claim(self) -> None:
        """Wait until the machines before have left; one that moves is told to when the next one is there."""
        until = time.monotonic() + 2 * LEAVE_SECONDS
        while held := [lock for lock in self._earlier if is_held(lock)]:
            if time.monotonic() > until:
                raise CheckpointError(f"{held[0]} is held: an earlier machine still works on this run; end it, or wait for it")
            time.sleep(TURN_SECONDS)

    def bring(self) -> None: ...

    def carry(self) -> None: ...

    def leave(self) -> None: ...


def work(
    folder: Path,
    attempt: int,
    until: datetime,
    command: Sequence[str],
    heralds: Sequence[Herald] = (),
    carrier: Carrier | None = None,
) -> int:
    """See one attempt through; returns the program's exit status. Its word stands in the run folder.

    Raises:
        CheckpointError: a later attempt holds the run; nothing of this one counts.
    """
    carrier = carrier or Stay(folder, attempt)
    carrier.claim()
    carrier.bring()
    # They were an earlier machine's.
    interruption.withdraw_notice(folder)
    (folder / interruption.STATUS).unlink(missing_ok=True)
    word = Word(attempt=attempt, began_at=datetime.now(UTC))
    _say(folder, word)
    printed = folder / LOG
    before = printed.stat().st_size if printed.exists() else 0
    leaving = _Leaving(folder, attempt)
    with printed.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_die_with_the_agent(),
        )
    try:
        word = _watch(folder, word, process, until, heralds, carrier, leaving)
        status = _leave(process) if process.poll() is None else process.wait()
    finally:
        # On an error of its own, too, nothing may stay behind.
        _leave(process)
        with suppress(ProcessLookupError):
            # What the program started itself is in its group.
            os.killpg(process.pid, signal.SIGKILL)
    if leaving.asked and status != 0:
        # Whatever the signal made of it: it was asked to, and resumes.
        status = interruption.INTERRUPTED
    elif status == 1:
        # torchrun says so whatever its processes said.
        status = interruption.left_status(folder) or 1
    word = replace(word, ended_at=datetime.now(UTC), status=status, last_lines=_last_lines(printed, before))
    _say(folder, word)
    carrier.leave()
    return status


def _watch(
    folder: Path,
    word: Word,
    process: subprocess.Popen[bytes],
    until: datetime,
    heralds: Sequence[Herald],
    carrier: Carrier,
    leaving: _Leaving,
) -> Word:
    """Until the program has ended, or has to."""
    goes_at: datetime | None = None
    beat = time.monotonic()
    while process.poll() is None:
        said = min((moment for herald in heralds if (moment := herald.goes_at())), default=None)
        if said is not None and (goes_at is None or said < goes_at):
            goes_at = said
            word = replace(word, taken=True)
            # The word first: who is cut off a moment later must not look as if it had failed.
            _say(folder, word)
            interruption.give_notice(folder, said)
            log.warning("this machine goes at %s", said.isoformat(timespec="seconds"))
        if datetime.now(UTC) >= until:
            log.warning("the time that this machine was given is over")
            leaving.asked = True
        if leaving.now:
            return word
        carrier.carry()
        if time.monotonic() - beat >= BEAT_SECONDS:
            beat = time.monotonic()
            os.utime(word_path(folder, word.attempt))
        time.sleep(TURN_SECONDS)
    return word


class _Leaving:
    """Whether somebody has asked this machine to leave: by SIGTERM, by a file, or because its time is over."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.asked = False
        self._file = stop_path(folder, attempt)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True

    @property
    def now(self) -> bool:
        self.asked = self.asked or self._file.exists()
        return self.asked


def _leave(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _die_with_the_agent() -> Callable[[], None]:
    """To be run in the trainer's process before it becomes the trainer: it goes when its agent does, also by SIGKILL."""
    libc = ctypes.CDLL(None)
    set_death_signal, kill = 1, signal.SIGKILL.value

    def ask() -> None:
        libc.prctl(set_death_signal, kill)

    return ask


def word_path(folder: Path, attempt: int) -> Path:
    return folder / MACHINES / f"{attempt}.json"


def lock_path(folder: Path, attempt: int) -> Path:
    """Held by the machine for as long as it lives, where machines share the folder."""
    return folder / MACHINES / f"{attempt}.lock"


def is_held(lock: Path) -> bool:
    """Whether any process holds a lock."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def stop_path(folder: Path, attempt: int) -> Path:
    return folder / MACHINES / f"{attempt}.{STOP}"


def word(folder: Path, attempt: int) -> Word | None:
    """What the machine of an attempt last said; None where it has not begun."""
    try:
        return Word.of(json.loads(word_path(folder, attempt).read_text()))
    except FileNotFoundError:
        return None


def _say(folder: Path, word: Word) -> None:
    path = word_path(folder, word.attempt)
    path.parent.mkdir(exist_ok=True)
    checkpoint.write_durably(path, json.dumps(word.told(), indent=1).encode())


def _last_lines(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_LAST_LINES:])


class Weather:
    """The local pool's owner of machines: takes this one away at a moment, or once it has completed so many checkpoints itself.

    With the notice, the SIGTERM half-way and the SIGKILL that a cloud would send; or outright, as a machine that loses its power.
    """

    def __init__(self, folder: Path, grace_seconds: float, *, silently: bool, at: datetime | None = None, after: int | None = None) -> None:
        self._folder, self._grace, self._silently = folder, timedelta(seconds=grace_seconds), silently
        self._at, self._after = at, after
        self._stood = max(checkpoint.complete(folder / CHECKPOINTS), default=0)
        threading.Thread(target=self._rule, name="weather", daemon=True).start()

    def goes_at(self) -> datetime | None:
        if self._silently or self._at is None or datetime.now(UTC) < self._at - self._grace:
            return None
        return self._at - self._grace / 2

    def _rule(self) -> None:
        own: set[int] = set()
        while self._at is None:
            own.update(step for step in checkpoint.complete(self._folder / CHECKPOINTS) if step > self._stood)
            if self._after is not None and len(own) >= self._after:
                self._at = datetime.now(UTC) + (timedelta() if self._silently else self._grace)
            time.sleep(_WEATHER_SECONDS)
        if not self._silently:
            _wait_until(self._at - self._grace / 2)
            os.kill(os.getpid(), signal.SIGTERM)
        _wait_until(self._at)
        _cut_off()


def _cut_off() -> None:
    """Kill the whole machine: all of this session, and this process last."""
    session, this = os.getsid(0), os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # After the name, which may hold anything: state, parent, group, session.
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session and int(stat.parent.name) != this:
                os.kill(int(stat.parent.name), signal.SIGKILL)
    os.kill(this, signal.SIGKILL)


def _wait_until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))


def trainer_command(folder: Path, at_risk_seconds: float, price_per_hour: float = 0.0, attempt: int | None = None) -> list[str]:
    """The command that trains a run; the same on every restart, but for the machine's number and price."""
    trainer = ["include.nightshift.train", "--run", str(folder), "--at-risk-seconds", str(at_risk_seconds)]
    if price_per_hour:
        trainer += ["--price-per-hour", str(price_per_hour)]
    if attempt is not None:
        trainer += ["--attempt", str(attempt)]
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if gpus > 1:
        # Without the dashes torchrun takes the trainer's options for its own.
        return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(gpus), "-m", "--", *trainer]
    return [sys.executable, "-m", *trainer]


def main(arguments: Sequence[str] | None = None) -> int:
    """See the attempt that the options name through; returns the trainer's exit status."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.spot.agent", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="FOLDER", help="the run folder")
    parser.add_argument("--attempt", type=int, required=True, help="which machine of the run this is, from 1")
    parser.add_argument("--until", type=datetime.fromisoformat, required=True, help="leave by then, ISO 8601 with a zone")
    parser.add_argument("--at-risk-seconds", type=float, required=True, help="work that may have to be done again")
    parser.add_argument("--price-per-hour", type=float, default=0.0, help="what this machine costs")
    parser.add_argument("--mirror", metavar="ADDRESS", help="s3://bucket/prefix where the run lies, if not in the folder")
    parser.add_argument("--metadata", action="store_true", help="ask EC2's metadata service when this machine goes")
    weather = parser.add_argument_group("weather, for machines of the local pool")
    weather.add_argument("--taken-at", type=datetime.fromisoformat, help="take the machine away then")
    weather.add_argument("--taken-after", type=int, help="take it away once it has completed so many checkpoints")
    weather.add_argument("--grace-seconds", type=float, default=0.0, help="from notice to SIGKILL")
    weather.add_argument("--silently", action="store_true", help="kill outright")
    parser.add_argument("program", nargs="*", help="what to run instead of the trainer, after --")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if asked.until.tzinfo is None:
        raise ConfigurationError(f"--until {asked.until.isoformat()} has no zone: write +00:00 behind it")
    command = asked.program or trainer_command(asked.run, asked.at_risk_seconds, asked.price_per_hour, asked.attempt)
    heralds: list[Herald] = []
    carrier: Carrier | None = None
    if asked.taken_at or asked.taken_after is not None:
        heralds.append(Weather(asked.run, asked.grace_seconds, silently=asked.silently, at=asked.taken_at, after=asked.taken_after))
    if asked.metadata:
        from include.nightshift.spot.metadata import Metadata

        heralds.append(Metadata(asked.run))
    if asked.mirror:
        from include.nightshift.spot.mirror import Bearer, opened

        carrier = bearer = Bearer(opened(asked.mirror), asked.run, asked.attempt)
        heralds.append(bearer)
    return work(asked.run, asked.attempt, asked.until, command, heralds, carrier)


if __name__ == "__main__":
    sys.exit(main())
