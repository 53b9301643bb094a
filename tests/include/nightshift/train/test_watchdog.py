"""The watchdog bites who no longer gets on, and nobody else."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from include.nightshift.train.interruption import STALLED
from include.nightshift.train.watchdog import Watchdog


def test_who_gives_signs_in_time_is_left_alone_and_who_has_finished_too() -> None:
    bitten: list[int] = []
    with Watchdog(0.3, bitten.append) as watchdog:
        for step in range(6):
            time.sleep(0.1)
            watchdog.alive(f"step {step}")
    time.sleep(0.5)
    assert bitten == []
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]


def test_a_hung_trainer_ends_with_its_own_status_the_errors_name_and_what_it_was_at() -> None:
    code = """
import time
from include.nightshift.train.watchdog import Watchdog
with Watchdog(0.2) as watchdog:
    watchdog.alive("step 7")
    time.sleep(60)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == STALLED == 77
    assert time.monotonic() - began < 30
    assert 'File "<string>", line 6 in <module>' in done.stderr
    assert done.stderr.splitlines()[-1].startswith("TrainingStalledError: no progress in 0.2 s since step 7: look for a hung GPU")


@pytest.mark.processes
def test_the_command_ends_when_a_round_never_does(make_run: Callable[..., Path], program: Callable[..., list[str]]) -> None:
    hung = program(make_run(), "trees.boost = lambda *arguments: time.sleep(60)")
    done = subprocess.run([*hung, "--stalled-minutes", "0.05"], capture_output=True, text=True, check=False)
    assert done.returncode == STALLED
    assert "since the reading of rows" in done.stderr.splitlines()[-1]
