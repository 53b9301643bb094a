"""The lakehouse server alone, as a child of this process: for tests and benches. An installation has a supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from include.nightshift.errors import LakehouseError
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def served(settings: Settings, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server of these settings for as long as the block lasts. Its log is `<home>/server.log`.

    Raises:
        LakehouseError: it ended, or did not answer within two minutes; with the end of its log.
    """
    for needed in ("metastore", "logs"):
        (settings.home / needed).mkdir(parents=True, exist_ok=True)
    log = settings.home / "server.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "include.nightshift.lakehouse.server"],
            cwd=ROOT,
            env=environment(settings) | environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not _listens(settings.ports.spark):
            if child.poll() is not None or time.monotonic() > deadline:
                raise LakehouseError(f"the lakehouse server does not start: {log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(10)


@contextmanager
def connected(settings: Settings, **environ: str) -> Iterator[SparkSession]:
    """A session on a server of these settings, both for as long as the block lasts.

    Raises:
        LakehouseError: the server does not start.
    """
    from include.nightshift.lakehouse import session as lakehouse

    with served(settings, **environ):
        session = lakehouse.connect(settings)
        try:
            yield session
        finally:
            # While the server still answers: a client left open asks a dead one for minutes when Python ends.
            session.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
