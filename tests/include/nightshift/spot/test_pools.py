"""The local pool: real processes, really taken away."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.spot.pools import LocalMachine, LocalPool, training_command
from include.nightshift.train.checkpoint import writer

pytestmark = pytest.mark.processes

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
def started() -> Iterator[list[LocalMachine]]:
    machines: list[LocalMachine] = []
    yield machines
    for machine in machines:
        machine.stop()


def program(folder: Path, lingers: float = 60) -> list[str]:
    return [sys.executable, "-c", TALKATIVE, str(folder), str(lingers)]


def wait(machine: LocalMachine, seconds: float = 20) -> int:
    until = time.monotonic() + seconds
    while (status := machine.poll()) is None:
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.02)
    return status


def test_an_attempt_without_interruption_runs_to_its_end_and_its_words_are_kept(folder: Path, started: list[LocalMachine]) -> None:
    (folder / "log.txt").write_text("earlier\n")
    (folder / "notice").write_text("of an earlier machine")
    started.append(LocalPool(interruptions=(1,)).start(program(folder, 0), folder, attempt=2))
    assert wait(started[0]) == 0
    assert not started[0].preempted
    assert (folder / "log.txt").read_text() == "earlier\nchunk 1\nchunk 2\nchunk 3\nundisturbed\n"


def test_notice_then_sigterm_then_sigkill_once_the_checkpoint_stands(folder: Path, started: list[LocalMachine]) -> None:
    started.append(LocalPool(interruptions=(2,), grace_seconds=2.0).start(program(folder), folder, attempt=1))
    assert wait(started[0]) == -signal.SIGKILL
    assert started[0].preempted
    words = (folder / "log.txt").read_text()
    assert words.index("chunk 2") < words.index("asked to go")
    assert "deadline" in json.loads((folder / "notice").read_text())


def test_without_notice_it_is_killed_outright_at_that_checkpoint(folder: Path, started: list[LocalMachine]) -> None:
    started.append(LocalPool(interruptions=(9, 2), notice=False).start(program(folder), folder, attempt=2))
    assert wait(started[0]) == -signal.SIGKILL
    assert started[0].preempted
    assert (folder / "log.txt").read_text() == "chunk 1\nchunk 2\n"
    assert not (folder / "notice").exists()


def test_only_checkpoints_of_its_own_count_and_none_asked_for_means_at_once(folder: Path, started: list[LocalMachine]) -> None:
    (folder / "checkpoints/00000001.json").write_text("{}")
    started.append(LocalPool(interruptions=(2, 0), notice=False).start(program(folder), folder, attempt=1))
    assert wait(started[0]) == -signal.SIGKILL
    assert (folder / "log.txt").read_text() == "chunk 1\nchunk 2\nchunk 3\n"
    started.append(LocalPool(interruptions=(2, 0), notice=False).start(program(folder), folder, attempt=2))
    assert wait(started[1], 5) == -signal.SIGKILL


def test_stopping_leaves_no_process_behind_not_even_grandchildren(folder: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    parent = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]])\nprint(child.pid, flush=True); child.wait()"
    )
    machine = LocalPool().start([sys.executable, "-c", parent, stubborn], folder, attempt=1)
    until = time.monotonic() + 10
    while not (words := (folder / "log.txt").read_text()).endswith("\n") and time.monotonic() < until:
        time.sleep(0.02)
    machine.stop()
    machine.stop()
    assert machine.poll() is not None
    assert _gone(int(words))


def test_a_trainer_left_over_from_a_killed_caller_is_ended_first(folder: Path, started: list[LocalMachine]) -> None:
    code = "import sys, time, pathlib; from include.nightshift.train.checkpoint import sole_writer\n"
    code += "with sole_writer(pathlib.Path(sys.argv[1]) / 'checkpoints'):\n print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == b"held\n"
        assert writer(folder / "checkpoints") == orphan.pid
        started.append(LocalPool().start(program(folder, 0), folder, attempt=1))
        assert orphan.wait(10) == -signal.SIGKILL
        assert writer(folder / "checkpoints") is None


def test_a_stranger_that_holds_the_lock_is_let_be(folder: Path, started: list[LocalMachine]) -> None:
    """This process holds it, and is no trainer of that folder: its command line does not say so."""
    from include.nightshift.train.checkpoint import sole_writer

    with sole_writer(folder / "checkpoints"):
        started.append(LocalPool().start(program(folder, 0), folder, attempt=1))
        assert writer(folder / "checkpoints") == os.getpid()


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="must not be negative"):
        LocalPool(interruptions=(1, -1))
    with pytest.raises(ConfigurationError, match="must not be negative"):
        LocalPool(grace_seconds=-1)


def test_the_training_command_is_the_same_on_every_restart(folder: Path) -> None:
    assert training_command(folder, 60)[1:] == ["-m", "include.nightshift.train", "--run", str(folder), "--at-risk-seconds", "60"]
    assert training_command(folder, 60) == training_command(folder, 60)


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # Killed, but nobody has asked for its status yet.
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
