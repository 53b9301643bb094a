"""System: how a machine fares while it trains, a line of `system.jsonl` every ten seconds.

A thread of its own looks and writes, and nothing of what it sees reaches the model. Where it cannot, it says so once, and training goes on.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from include.nightshift.train.gpus import Gpus
from include.nightshift.train.run import SYSTEM

log = logging.getLogger("nightshift.train")

EVERY_SECONDS = 10.0
"""As MLflow samples where it does it itself."""


@dataclass(frozen=True)
class Sample:
    """A line of `system.jsonl`."""

    at: datetime
    attempt: int | None
    """The run's machine, as its ledger counts them; None where somebody started the trainer by hand."""
    figures: Mapping[str, float]
    """By MLflow's names for them, where it has one. The disk is the one that the run lies on; the CPU was so busy since the line before."""


@contextmanager
def sampled(folder: Path, attempt: int | None, every_seconds: float = EVERY_SECONDS) -> Iterator[None]:
    """Sample this machine until the block ends, and once more then."""
    over = threading.Event()
    sampler = threading.Thread(target=_sample, args=(folder, attempt, every_seconds, over), name="system", daemon=True)
    sampler.start()
    try:
        yield
    finally:
        over.set()
        # Not for ever: a driver that no longer answers must not hold up who has finished.
        sampler.join(EVERY_SECONDS)


def samples(folder: Path) -> list[Sample]:
    """What the machines of a run have left, oldest first; without lines that were torn by a kill."""
    try:
        lines = (folder / SYSTEM).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [sample for line in lines if (sample := _whole(line))]


def _whole(line: bytes) -> Sample | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return Sample(**told | {"at": datetime.fromisoformat(told["at"])})


def _sample(folder: Path, attempt: int | None, every_seconds: float, over: threading.Event) -> None:
    path, last = folder / SYSTEM, False
    try:
        # A line that an earlier machine left half written ends here, and tears no other.
        lead = b"\n" if path.exists() and not path.read_bytes().endswith(b"\n") else b""
        figures = _figures(folder)
        while not last:
            last = over.wait(every_seconds)
            line = asdict(Sample(datetime.now(UTC), attempt, figures()))
            with path.open("ab") as file:
                file.write(lead + json.dumps(line, default=datetime.isoformat).encode() + b"\n")
            lead = b""
    except Exception:
        log.warning("how this machine fares is not written down from here on; training goes on", exc_info=True)


def _figures(folder: Path) -> Callable[[], dict[str, float]]:
    """What tells how the machine fares now."""
    import psutil

    gpus, process = Gpus(), psutil.Process()
    psutil.cpu_percent()  # each call tells of the time since the one before; this one of none

    def figures() -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
        told = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "process_memory_usage_megabytes": process.memory_info().rss / 1e6,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            **gpus.figures(),
        }
        return {name: round(value, 1) for name, value in told.items()}

    return figures
