"""The local pool: real processes, really taken away, found again by whoever asks."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.errors import ConfigurationError, NoCapacityError
from include.nightshift.settings import ROOT
from include.nightshift.spot.agent import trainer_command
from include.nightshift.spot.local import LocalPool, Trace
from include.nightshift.spot.pools import Machine, Order, Sight

SOON = timedelta(minutes=2)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

TALKATIVE = """
import os, signal, sys, time, pathlib
run = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: print("asked to go", flush=True))
for number in (1, 2, 3):
    print("chunk", number, flush=True)
    (run / "checkpoints" / f"{number:06d}.json").write_text("{}")
    time.sleep(0.3)
print("notice" if (run / "notice").exists() else "undisturbed", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., tuple[LocalPool, Machine]]]:
    """Starts an attempt on a pool with these arguments."""
    started: list[tuple[LocalPool, Machine]] = []

    def begin(
        lingers: float = 60, *, attempt: int = 1, on_demand: bool = False, program: list[str] | None = None, **pool: Any
    ) -> tuple[LocalPool, Machine]:
        local = LocalPool(program=program or [sys.executable, "-c", TALKATIVE, str(folder), str(lingers)], **pool)
        started.append((local, local.start(order(folder, local, attempt, on_demand=on_demand))))
        return started[-1]

    yield begin
    for local, machine in started:
        local.stop(machine, folder)


def order(folder: Path, pool: LocalPool, attempt: int = 1, *, on_demand: bool = False) -> Order:
    places = () if on_demand else tuple(pool.prices().spot)
    return Order(run_id="r", run_folder=folder, attempt=attempt, places=places, until=datetime.now(UTC) + SOON, at_risk_seconds=0)


def ended(pool: LocalPool, machine: Machine, folder: Path, seconds: float = 20) -> Sight:
    until = time.monotonic() + seconds
    while (sight := pool.look(machine, folder)).alive:
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.02)
    return sight


def words(folder: Path) -> str:
    """What the program printed; the agent's own lines bear a date."""
    return re.sub(r"(?m)^\d{4}-\d\d-\d\d .*\n", "", (folder / "log.txt").read_text())


@pytest.mark.processes
def test_an_attempt_without_interruption_runs_to_its_end_and_its_words_are_kept(folder: Path, start: Callable[..., Any]) -> None:
    (folder / "log.txt").write_text("earlier\n")
    (folder / "notice").write_text("of an earlier machine")
    pool, machine = start(0, attempt=2, interruptions=(1,))
    sight = ended(pool, machine, folder)
    assert sight.word is not None
    assert (sight.taken, sight.word.status, sight.word.attempt) == (False, 0, 2)
    assert sight.ended_at == sight.word.ended_at
    assert sight.word.last_lines == "chunk 1\nchunk 2\nchunk 3\nundisturbed"
    assert words(folder) == "earlier\nchunk 1\nchunk 2\nchunk 3\nundisturbed\n"


@pytest.mark.processes
def test_notice_then_sigterm_then_sigkill_once_the_checkpoint_stands(folder: Path, start: Callable[..., Any]) -> None:
    pool, machine = start(interruptions=(2,), grace_seconds=2.0)
    sight = ended(pool, machine, folder)
    assert sight.taken
    assert sight.word is not None
    assert sight.word.ended_at is None, "it was killed before it could speak"
    printed = words(folder)
    assert printed.index("chunk 2") < printed.index("asked to go")
    assert "deadline" in json.loads((folder / "notice").read_text())


@pytest.mark.processes
def test_without_notice_it_is_killed_outright_at_that_checkpoint_and_its_end_is_known_all_the_same(
    folder: Path, start: Callable[..., Any]
) -> None:
    pool, machine = start(attempt=2, interruptions=(9, 2), notice=False)
    sight = ended(pool, machine, folder)
    assert not sight.taken
    assert sight.word is not None
    assert sight.word.ended_at is None
    assert sight.ended_at is not None
    assert abs(sight.ended_at - datetime.now(UTC)) < timedelta(seconds=4)
    assert words(folder) == "chunk 1\nchunk 2\n"
    assert not (folder / "notice").exists()


@pytest.mark.processes
def test_only_checkpoints_of_its_own_count_and_on_demand_is_left_alone(folder: Path, start: Callable[..., Any]) -> None:
    (folder / "checkpoints/00000001.json").write_text("{}")
    pool, machine = start(interruptions=(2, 0), notice=False)
    ended(pool, machine, folder)
    assert words(folder) == "chunk 1\nchunk 2\nchunk 3\n"
    pool, machine = start(0, attempt=2, on_demand=True, interruptions=(2, 0), notice=False, on_demand_per_hour=1.0)
    sight = ended(pool, machine, folder)
    assert sight.word is not None
    assert sight.word.status == 0
    assert machine.price_per_hour == 1.0


@pytest.mark.processes
def test_another_process_finds_it_by_its_run_and_the_same_order_gives_the_same_machine(folder: Path, start: Callable[..., Any]) -> None:
    pool, machine = start()
    code = (
        "import pathlib, sys; from include.nightshift.spot.local import LocalPool; pool, run = LocalPool(), pathlib.Path(sys.argv[1])\n"
        "(machine,) = pool.find('r', run); print(machine.name, pool.look(machine, run).alive); pool.stop(machine, run)"
    )
    assert LocalPool().start(order(folder, pool)) == machine
    told = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == f"{machine.name} True\n"
    assert not pool.look(machine, folder).alive
    assert pool.find("r", folder) == [machine]


@pytest.mark.processes
def test_stopping_leaves_no_process_behind_not_even_grandchildren(folder: Path, start: Callable[..., Any]) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    parent = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]])\nprint(child.pid, flush=True); child.wait()"
    )
    pool, machine = start(program=[sys.executable, "-c", parent, stubborn])
    until = time.monotonic() + 10
    while not words(folder).endswith("\n") and time.monotonic() < until:
        time.sleep(0.02)
    pool.stop(machine, folder)
    pool.stop(machine, folder)
    assert not pool.look(machine, folder).alive
    assert _gone(int(words(folder)))


@pytest.mark.processes
def test_the_trainer_goes_with_an_agent_that_is_killed_alone(folder: Path, start: Callable[..., Any]) -> None:
    pool, machine = start(program=[sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"])
    until = time.monotonic() + 10
    while not words(folder).endswith("\n") and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(int(machine.name.rpartition("-")[2]), signal.SIGKILL)
    ended(pool, machine, folder)
    until = time.monotonic() + 5
    while not _gone(int(words(folder))) and time.monotonic() < until:
        time.sleep(0.02)
    assert _gone(int(words(folder)))


@pytest.mark.processes
def test_a_machine_that_is_taken_by_a_trace_goes_at_the_end_of_its_tick_and_none_is_had_in_a_drought(
    folder: Path, start: Callable[..., Any]
) -> None:
    began = datetime.now(UTC)
    trace = Trace({"a": (False,) * 100, "b": (True, True, False)}, 1.5, began)
    pool, machine = start(trace=trace, notice=False)
    assert machine.zone == "b"
    sight = ended(pool, machine, folder)
    assert sight.ended_at is not None
    assert timedelta(seconds=2) < datetime.now(UTC) - began < timedelta(seconds=6)
    with pytest.raises(NoCapacityError) as refusal:
        LocalPool(trace=Trace({"a": (False,)}, 1, began)).start(
            Order(run_id="r", run_folder=folder, attempt=2, places=("a/process",), until=began + SOON, at_risk_seconds=0)
        )
    assert refusal.value.refused == {"a/process": "not in this tick of the trace"}
    assert [found.attempt for found in pool.find("r", folder)] == [1]


def test_a_trace_is_read_from_files_and_begins_again_after_its_end(tmp_path: Path) -> None:
    (tmp_path / "east.json").write_text(json.dumps({"data": [1, 0, 0], "metadata": {"gap_seconds": 600}}))
    (tmp_path / "west.json.gz").write_bytes(gzip.compress(json.dumps({"data": [2, 2, 2], "metadata": {"gap_seconds": 600}}).encode()))
    trace = Trace.read(tmp_path, BEGAN)
    minutes = [trace.offers("east", BEGAN + timedelta(minutes=10 * tick)) for tick in range(6)]
    assert minutes == [True, False, False, True, False, False]
    assert trace.lost_at("east", BEGAN + timedelta(minutes=31)) == BEGAN + timedelta(minutes=40)
    assert trace.lost_at("west", BEGAN) is None
    assert Trace.read(tmp_path / "east.json", BEGAN, tick_seconds=1).lost_at("east", BEGAN) == BEGAN + timedelta(seconds=1)


def test_a_drawn_trace_is_the_same_for_the_same_seed_and_offers_about_its_share() -> None:
    trace = Trace.drawn(7, BEGAN, life=20, drought=5)
    assert trace == Trace.drawn(7, BEGAN, life=20, drought=5) != Trace.drawn(8, BEGAN, life=20, drought=5)
    for ticks in trace.offered.values():
        assert sum(ticks) / len(ticks) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "no spot trace"),
        ('{"data": [1]}', "no spot trace"),
        ('{"data": [], "metadata": {"gap_seconds": 1}}', "each with ticks"),
        ("[1]", "no spot trace"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "zone.json").write_text(content)
    with pytest.raises(ConfigurationError, match=word):
        Trace.read(tmp_path, BEGAN)


def test_traces_of_two_clocks_are_refused(tmp_path: Path) -> None:
    for name, gap in (("a", 195), ("b", 600)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": [1], "metadata": {"gap_seconds": gap}}))
    with pytest.raises(ConfigurationError, match="one clock is asked for"):
        Trace.read(tmp_path, BEGAN)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="must not be negative"):
        LocalPool(interruptions=(1, -1))
    with pytest.raises(ConfigurationError, match="must not be negative"):
        LocalPool(grace_seconds=-1)


def test_the_training_command_is_the_same_on_every_restart(folder: Path) -> None:
    assert trainer_command(folder, 60)[1:] == ["-m", "include.nightshift.train", "--run", str(folder), "--at-risk-seconds", "60"]
    assert trainer_command(folder, 60) == trainer_command(folder, 60)
    assert trainer_command(folder, 60, attempt=2) == [*trainer_command(folder, 60), "--attempt", "2"]
    assert trainer_command(folder, 60, 0.4) == [*trainer_command(folder, 60), "--price-per-hour", "0.4"]


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # Killed, but nobody has asked for its status yet.
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
