"""Before anything starts: can this machine do it? Each check answers with one sentence that says what to do.

Standard library only, and no import of ours at the top: it also runs on a Python that is too old for the rest.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.nightshift.settings import Settings

WANTED_PYTHON = (3, 11)
DISK_FOR_SETUP_GB = 12
"""The environment takes 7.3 GB (torch brings CUDA), and downloads lie beside it while it is made."""
DISK_TO_RUN_GB = 2
DISK_FOR_S3_JARS_GB = 1.5
"""Amazon's library for Java is 700 MB, and lies on the disk twice while it is fetched."""
MEMORY_GB = 6
"""All processes together take about 3.5 GB, and a night with its training about 2 more."""


def python(version: tuple[int, ...] = sys.version_info[:2]) -> str | None:
    """Complain about a Python other than the one that the lock was made for."""
    if tuple(version[:2]) == WANTED_PYTHON:
        return None
    return (
        f"this is Python {version[0]}.{version[1]}, but the locked packages are for 3.11: install Python 3.11 "
        "(`uv python install 3.11`, pyenv, or your system's packages) and run `make PYTHON=/path/to/python3.11 …`"
    )


def disk(folder: Path, needed_gb: float, free_bytes: int | None = None) -> str | None:
    """Complain when the disk of a folder (which need not be there yet) has less room than needed."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = (shutil.disk_usage(existing).free if free_bytes is None else free_bytes) / 1e9
    if free >= needed_gb:
        return None
    return f"{folder} has {free:.1f} GB of free disk, {needed_gb:.0f} GB are needed: make room, or put the folder on another disk"


def memory(total_bytes: int | None = None) -> str | None:
    """Complain when the machine (or the container) has too little memory for all processes."""
    total = (_memory_bytes() if total_bytes is None else total_bytes) / 1e9
    # A "6 GB" machine reports somewhat less; it will do.
    if total >= MEMORY_GB * 0.93:
        return None
    return f"there are {total:.1f} GB of memory, {MEMORY_GB} GB are needed: use a larger machine, or give the container more"


def port(name: str, number: int, address: str = "127.0.0.1") -> str | None:
    """Complain when something listens on a port that is ours to take. `name` as in `Ports`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError as error:
            return (
                f"port {number} of {name} cannot be taken ({error.strerror}): if another installation of Nightshift holds it, "
                f"`make down` there; else choose another with NIGHTSHIFT_PORT_{name.upper()}"
            )
    return None


def ports(settings: Settings) -> list[str]:
    """Complain about every taken port that this installation's own processes need."""
    wanted = {"airflow": settings.ports.airflow}
    if settings.serves_lakehouse:
        wanted |= {"spark": settings.ports.spark, "jdbc": settings.ports.jdbc}
    if settings.serves_mlflow:
        wanted["mlflow"] = settings.ports.mlflow
    binds = vars(settings.binds)
    return [complaint for name, number in wanted.items() if (complaint := port(name, number, binds.get(name, "127.0.0.1")))]


def refuse(*complaints: str | None) -> bool:
    """Print the complaints, one line each; whether there were any."""
    seen = [complaint for complaint in complaints if complaint]
    for complaint in seen:
        print(f"nightshift: {complaint}", file=sys.stderr, flush=True)
    return bool(seen)


def _memory_bytes() -> int:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(machine, int(text)) if text.isdigit() else machine
