"""Barrier: erasure waits for writers that have begun, writers do not wait for each other, and a killed one holds nobody."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from include.nightshift.lakehouse import barrier
from include.nightshift.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def test_writers_pass_together_and_are_waited_for(settings: Settings) -> None:
    order: list[str] = []

    def erase() -> None:
        with barrier.drained(settings):
            order.append("erasure")

    with barrier.passing(settings), barrier.passing(settings):
        waiting = threading.Thread(target=erase)
        waiting.start()
        time.sleep(0.2)
        order.append("writers")
    waiting.join(10)
    assert order == ["writers", "erasure"]


def test_a_writer_that_is_killed_holds_nobody(settings: Settings) -> None:
    told, tell = os.pipe()
    if (child := os.fork()) == 0:
        with barrier.passing(settings):
            os.write(tell, b"x")
            time.sleep(60)
    os.read(told, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    started = time.monotonic()
    with barrier.drained(settings):
        pass
    assert time.monotonic() - started < 5
