"""The local pool: processes of this computer as machines, really taken away.

A machine is a process group with an agent in it, started by whoever steers the run and outliving that one. The lock file
`machines/<attempt>.lock` says whether it lives: the system drops a lock with the last process that holds it, and asking for it works
across containers that share the folder, where process numbers do not.

It preempts with the notice, the SIGTERM and the SIGKILL that a cloud would send: at chosen points of the run's progress, so that tests
and the demo see the same interruption however fast the machine is; or when a trace says, recorded or drawn from a seed.
"""

from __future__ import annotations

import fcntl
import gzip
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from include.nightshift.errors import ConfigurationError, NoCapacityError
from include.nightshift.settings import ROOT
from include.nightshift.spot import agent
from include.nightshift.spot.pools import LOG, MACHINES, Machine, Order, Prices, Sight, agent_options, place
from include.nightshift.train import checkpoint

KIND = "process"
HERE = "local"
"""Its one zone, where no trace names others."""

STARTUP_SECONDS = 4.0
"""From an order until a trainer does its first step: Python, libraries, rows."""

_STOP_SECONDS = 8.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Trace:
    """Where there are machines, and when: a tick of each zone after another, from `began` on. After its end it begins again."""

    offered: Mapping[str, Sequence[bool]]
    """By zone."""
    tick_seconds: float
    began: datetime

    def __post_init__(self) -> None:
        if not self.offered or not all(self.offered.values()) or self.tick_seconds <= 0:
            raise ConfigurationError("a trace needs zones, each with ticks, and ticks longer than 0 s")

    @classmethod
    def read(cls, path: Path, began: datetime, tick_seconds: float | None = None) -> Trace:
        """A file, or a folder with one for each zone, as `skypilot-org/spot-traces` has them: JSON, gzipped or not, with `data`, how many
        machines were to be had in each tick, and `metadata.gap_seconds`.

        Args:
            path: the file or folder.
            began: the moment of the first tick.
            tick_seconds: how long a tick is to last here; as recorded unless told.

        Raises:
            ConfigurationError: no file, one that is no trace, or files of different ticks.
        """
        files = sorted([*path.glob("*.json"), *path.glob("*.json.gz")]) if path.is_dir() else [path]
        offered, gaps = {}, set()
        for file in files:
            try:
                told = json.loads(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
                offered[file.name.partition(".")[0]] = tuple(bool(number >= 1) for number in told["data"])
                gaps.add(float(told["metadata"]["gap_seconds"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(f"{file} is no spot trace ({error}): it needs data and metadata.gap_seconds") from error
        if len(gaps) != 1:
            raise ConfigurationError(f"{path}: its files have ticks of {sorted(gaps) or 'no'} seconds, and one clock is asked for")
        return cls(offered, tick_seconds or gaps.pop(), began)

    @classmethod
    def drawn(cls, seed: int, began: datetime, *, zones: int = 3, tick_seconds: float = 1.0, life: float = 20, drought: float = 5) -> Trace:
        """Made up: in each zone machines are there for `life` ticks on average and gone for `drought`."""
        weather = random.Random(seed)  # noqa: S311 - weather, no secret
        offered = {}
        for zone in range(zones):
            some, ticks = weather.random() < life / (life + drought), []
            for _ in range(10_000):
                ticks.append(some)
                some = (weather.random() >= 1 / life) if some else (weather.random() < 1 / drought)
            offered[f"zone-{zone + 1}"] = tuple(ticks)
        return cls(offered, tick_seconds, began)

    def offers(self, zone: str, moment: datetime) -> bool:
        """Whether there is a machine then."""
        ticks = self.offered[zone]
        return ticks[self._tick(moment) % len(ticks)]

    def lost_at(self, zone: str, moment: datetime) -> datetime | None:
        """When a machine that is had at `moment` is taken away; None where that never happens."""
        ticks = self.offered[zone]
        if all(ticks):
            return None
        tick = self._tick(moment)
        while ticks[tick % len(ticks)]:
            tick += 1
        return self.began + timedelta(seconds=tick * self.tick_seconds)

    def _tick(self, moment: datetime) -> int:
        return max(0, int((moment - self.began).total_seconds() // self.tick_seconds))


class LocalPool:
    """Processes of this computer, each in a session of its own."""

    name = "local"
    changeover_seconds = STARTUP_SECONDS
    tick_seconds = 2.0
    has_larger = False

    def __init__(
        self,
        interruptions: Sequence[int] = (),
        grace_seconds: float = 5.0,
        *,
        notice: bool = True,
        trace: Trace | None = None,
        spot_per_hour: float = 0.0,
        on_demand_per_hour: float = 0.0,
        program: Sequence[str] = (),
    ) -> None:
        """Plan the interruptions.

        Args:
            interruptions: attempt k is preempted as soon as it has completed `interruptions[k - 1]` checkpoints itself; 0 means at
                once. Later attempts are left alone. On-demand machines are always left alone.
            grace_seconds: from notice to SIGKILL; SIGTERM comes half-way, and is the deadline that the notice names.
            notice: False kills outright with SIGKILL, as a machine that loses its power.
            trace: where there are machines and when; without one there always is one.
            spot_per_hour: what a machine is said to cost; this computer asks for nothing.
            on_demand_per_hour: what one is said to cost that is not taken away.
            program: what to run instead of the trainer.

        Raises:
            ConfigurationError: a negative number.
        """
        if min(interruptions, default=0) < 0 or min(grace_seconds, spot_per_hour, on_demand_per_hour) < 0:
            raise ConfigurationError(
                f"local pool: interruptions {list(interruptions)}, grace_seconds {grace_seconds} and prices {spot_per_hour}, "
                f"{on_demand_per_hour} must not be negative"
            )
        self.interruptions = tuple(interruptions)
        self.grace_seconds = grace_seconds
        self.notice = notice
        self.trace = trace
        self.program = tuple(program)
        self._spot, self._on_demand = spot_per_hour, on_demand_per_hour
        self._started: dict[Path, subprocess.Popen[bytes]] = {}

    def prices(self, *, like: str | None = None, larger: bool = False) -> Prices:
        zones = self.trace.offered if self.trace else (HERE,)
        return Prices(spot=dict.fromkeys((place(zone, KIND) for zone in zones), self._spot), on_demand=self._on_demand)

    def start(self, order: Order) -> Machine:
        folder = order.run_folder / MACHINES
        folder.mkdir(exist_ok=True)
        lock = os.open(agent.lock_path(order.run_folder, order.attempt), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._machine(order.run_id, order.run_folder, order.attempt)
            zone = self._zone(order)
            return self._start(order, zone, lock)
        finally:
            # Ours alone: the machine has its own handle on the same lock.
            os.close(lock)

    def find(self, run_id: str, run_folder: Path) -> list[Machine]:
        numbers = sorted(int(path.stem) for path in (run_folder / MACHINES).glob("*.lock"))
        return [self._machine(run_id, run_folder, attempt) for attempt in numbers if (_record(run_folder, attempt)).exists()]

    def look(self, machine: Machine, run_folder: Path) -> Sight:
        process = self._started.get(agent.lock_path(run_folder, machine.attempt))
        if process is not None:
            process.poll()  # or it stays in the process table
        alive = agent.is_held(agent.lock_path(run_folder, machine.attempt))
        # Only now: before it ends, a machine says how.
        word = agent.word(run_folder, machine.attempt)
        if alive or word is None:
            return Sight(alive=alive, taken=bool(word and word.taken), word=word)
        # One that was cut off has last moved its word's clock.
        beat = datetime.fromtimestamp(agent.word_path(run_folder, machine.attempt).stat().st_mtime, UTC)
        return Sight(alive=False, taken=word.taken, ended_at=word.ended_at or beat, word=word)

    def page(self, machine: Machine) -> str:
        return ""

    def fetch(self, run_id: str, run_folder: Path) -> None:
        """Nothing to bring: machines work in the run folder itself."""

    def stop(self, machine: Machine, run_folder: Path) -> None:
        lock = agent.lock_path(run_folder, machine.attempt)
        agent.stop_path(run_folder, machine.attempt).touch()
        until = time.monotonic() + _STOP_SECONDS
        while agent.is_held(lock) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        if agent.is_held(lock):
            # It does not listen. Its number is worth something only where it is that machine's still.
            number = int(machine.name.rpartition("-")[2])
            with suppress(FileNotFoundError, ProcessLookupError):
                if str(run_folder).encode() in Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0"):
                    # The trainer goes with its agent.
                    os.killpg(number, signal.SIGKILL)
            until = time.monotonic() + _STOP_SECONDS
            while agent.is_held(lock) and time.monotonic() < until:
                time.sleep(_LOOK_SECONDS)
        if (process := self._started.get(lock)) is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)

    def _zone(self, order: Order) -> str:
        if self.trace is None or order.on_demand:
            return HERE
        now = datetime.now(UTC)
        for wanted in order.places:
            zone = wanted.rpartition("/")[0]
            if self.trace.offers(zone, now):
                return zone
        raise NoCapacityError(
            f"the trace has no machine in {', '.join(order.places)} now", dict.fromkeys(order.places, "not in this tick of the trace")
        )

    def _start(self, order: Order, zone: str, lock: int) -> Machine:
        started_at = datetime.now(UTC)
        agent.stop_path(order.run_folder, order.attempt).unlink(missing_ok=True)
        command = [sys.executable, "-m", "include.nightshift.spot.agent", "--run", str(order.run_folder), *agent_options(order)]
        command += self._weather(order, zone, started_at)
        if self.program:
            command += ["--", *self.program]
        with (order.run_folder / LOG).open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
        self._started[agent.lock_path(order.run_folder, order.attempt)] = process
        machine = Machine(
            name=f"process-{process.pid}",
            run_id=order.run_id,
            attempt=order.attempt,
            zone=zone,
            kind=KIND,
            on_demand=order.on_demand,
            price_per_hour=self._on_demand if order.on_demand else self._spot,
            on_demand_per_hour=self._on_demand,
            started_at=started_at,
            refused=tuple(itertools.takewhile(lambda wanted: wanted != place(zone, KIND), order.places)),
        )
        checkpoint.write_durably(_record(order.run_folder, order.attempt), json.dumps(machine.told()).encode())
        return machine

    def _weather(self, order: Order, zone: str, now: datetime) -> list[str]:
        how = ["--grace-seconds", str(self.grace_seconds), *(() if self.notice else ("--silently",))]
        if order.on_demand:
            return []
        if order.attempt <= len(self.interruptions):
            return ["--taken-after", str(self.interruptions[order.attempt - 1]), *how]
        if self.trace and (lost_at := self.trace.lost_at(zone, now)):
            return ["--taken-at", lost_at.isoformat(), *how]
        return []

    def _machine(self, run_id: str, run_folder: Path, attempt: int) -> Machine:
        return Machine.of(json.loads(_record(run_folder, attempt).read_text()))


def _record(run_folder: Path, attempt: int) -> Path:
    return run_folder / MACHINES / f"{attempt}.machine.json"
