"""System: what a machine writes down of how it fares reaches neither the model nor the run's end."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

from include.nightshift.train import __main__ as trainer
from include.nightshift.train import models, system
from include.nightshift.train.recipes import Linear
from include.nightshift.train.run import SYSTEM


def test_it_writes_until_the_block_ends_and_nothing_after(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    with system.sampled(tmp_path, 3, every_seconds=0.01):
        _wait(lambda: len(system.samples(tmp_path)) > 3)
    ended, written = datetime.now(UTC), (tmp_path / SYSTEM).read_bytes()
    assert not [thread for thread in threading.enumerate() if thread.name == "system"]
    time.sleep(0.1)
    assert (tmp_path / SYSTEM).read_bytes() == written
    taken = system.samples(tmp_path)
    times = [sample.at for sample in taken]
    assert times == sorted(times)
    assert began < times[0] < times[-1] < ended
    assert {sample.attempt for sample in taken} == {3}
    figures = taken[-1].figures
    for name in ("process_memory_usage", "system_memory_usage", "disk_usage"):
        assert figures[f"{name}_megabytes"] > 0
    for name in ("cpu_utilization", "system_memory_usage", "disk_usage"):
        assert 0 <= figures[f"{name}_percentage"] <= 100
    assert figures["disk_available_megabytes"] > 0


def test_a_machine_that_trains_for_less_than_a_turn_still_tells_once(tmp_path: Path) -> None:
    with system.sampled(tmp_path, None):
        pass
    assert [sample.attempt for sample in system.samples(tmp_path)] == [None]


def test_a_line_that_was_torn_is_left_out_and_tears_no_other(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with system.sampled(tmp_path, attempt):
            pass
    whole = (tmp_path / SYSTEM).read_bytes()
    second = whole.index(b"\n") + 1
    for cut in range(second, len(whole) - 1):
        (tmp_path / SYSTEM).write_bytes(whole[:cut])
        assert [sample.attempt for sample in system.samples(tmp_path)] == [1]
    with system.sampled(tmp_path, 3):
        pass
    assert [sample.attempt for sample in system.samples(tmp_path)] == [1, 3]
    # A last line that lacks but its end is whole.
    (tmp_path / SYSTEM).write_bytes(whole[:-1])
    with system.sampled(tmp_path, 3):
        pass
    assert [sample.attempt for sample in system.samples(tmp_path)] == [1, 2, 3]


def test_a_sample_costs_less_than_a_thousandth_of_the_time_between_two(tmp_path: Path) -> None:
    figures = system._figures(tmp_path)
    began = time.thread_time()
    for _ in range(20):
        figures()
    assert (time.thread_time() - began) / 20 < system.EVERY_SECONDS / 1000


def test_the_model_is_the_same_whether_anybody_looks_or_not(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sampled, folders = system.sampled, [make_run(name) for name in ("seen", "unseen")]
    monkeypatch.setattr(system, "sampled", lambda folder, attempt: sampled(folder, attempt, every_seconds=0.001))
    assert trainer.main(["--run", str(folders[0]), "--attempt", "1"]) == 0
    monkeypatch.setattr(system, "sampled", lambda folder, attempt: nullcontext())
    assert trainer.main(["--run", str(folders[1])]) == 0
    assert len(system.samples(folders[0])) > 10
    assert not system.samples(folders[1])
    assert models.sha256(folders[0] / "model") == models.sha256(folders[1] / "model")


def test_a_machine_that_cannot_be_looked_at_says_so_once_and_trains_on(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(path: str) -> None:
        raise PermissionError("/proc is closed")

    monkeypatch.setattr("psutil.disk_usage", refused)
    folder = make_run(recipe=Linear(name="linear", steps=3))
    with caplog.at_level(logging.WARNING):
        assert trainer.main(["--run", str(folder)]) == 0
    [said] = caplog.records
    assert "training goes on" in said.message
    assert "/proc is closed" in (said.exc_text or "")
    assert system.samples(folder) == []


def test_a_run_that_was_finished_before_is_not_told_of_again(make_run: Callable[..., Path]) -> None:
    folder = make_run(recipe=Linear(name="linear", steps=3))
    for attempt in ("1", "2"):
        assert trainer.main(["--run", str(folder), "--attempt", attempt]) == 0
    assert {sample.attempt for sample in system.samples(folder)} == {1}


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)
