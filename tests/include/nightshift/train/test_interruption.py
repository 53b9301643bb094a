"""Notices and SIGTERM."""

import math
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.nightshift.train import interruption


def test_a_notice_tells_the_seconds_left_until_it_is_withdrawn(tmp_path: Path) -> None:
    assert interruption.seconds_left(tmp_path) is None
    interruption.give_notice(tmp_path, datetime.now(UTC) + timedelta(seconds=60))
    left = interruption.seconds_left(tmp_path)
    assert left is not None
    assert 55 < left <= 60
    interruption.withdraw_notice(tmp_path)
    interruption.withdraw_notice(tmp_path)
    assert interruption.seconds_left(tmp_path) is None


def test_an_overdue_notice_is_below_zero_and_an_empty_one_sets_no_deadline(tmp_path: Path) -> None:
    interruption.give_notice(tmp_path, datetime.now(UTC) - timedelta(seconds=60))
    left = interruption.seconds_left(tmp_path)
    assert left is not None
    assert left < 0
    (tmp_path / "notice").touch()
    (tmp_path / "notice").write_text("")
    assert interruption.seconds_left(tmp_path) == math.inf


@pytest.mark.processes
def test_sigterm_ends_the_process_at_once_even_inside_native_code() -> None:
    # The main thread sits in libc without returning to Python, as it does in a long round: a handler in Python would wait for it.
    # PyDLL would keep the interpreter's lock; CDLL releases it, as XGBoost's calls do.
    code = """
import ctypes, sys
from include.nightshift.train.interruption import leave_on_sigterm
leave_on_sigterm()
print("ready", flush=True)
libc = ctypes.CDLL(None)
while True:
    libc.sleep(30)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == interruption.INTERRUPTED == 75
        assert time.monotonic() - began < 5
        assert process.stderr is not None
        assert b"SIGTERM" in process.stderr.read()
