"""One lakehouse for the whole run: its own home, its own ports, one server. Tests keep apart by their nights, not by cleaning.

Each module works on nights of its own year, far enough from the others that no window and no search for duplicates reaches over.
"""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.nightshift.lakehouse import jars, log, tables
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Ports, Settings
from include.nightshift.usecase import Feed, UseCase
from include.usecases.card_fraud.usecase import USE_CASE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Land = Callable[[Feed, date, Iterable[Sequence[object]]], Path]


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A state folder with a short path; sockets and Derby dislike long ones."""
    folder = Path(tempfile.mkdtemp(prefix="ns-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def installation(home: Path) -> Iterator[Settings]:
    """The settings of a running lakehouse with all tables, empty."""
    settings = Settings(home=home, ports=Ports.free(), lakehouse_memory="2g", clock=False)
    # The installation's own copy where there is one: 9 MB less to fetch, and the SHA-256 is checked either way.
    fetched = Settings().home / "jars"
    if fetched.exists():
        shutil.copytree(fetched, home / "jars")
    jars.fetch(settings)
    (home / "metastore").mkdir()
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "include.nightshift.lakehouse.server"],
            cwd=ROOT,
            # Tests run each query a few times: what the second compiler would win, it costs first. Without it Java reserves a fifth of
            # the code cache, which Spark's generated code fills: queries then crawl, and fail with "Out of space in CodeCache".
            env=environment(settings) | {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not _listens(settings.ports.spark):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        tables.create(lakehouse.connect(settings), settings)
        yield settings
        # While the server still answers: a client left open asks a dead one for minutes when Python ends.
        lakehouse.connect(settings).stop()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(10)


@pytest.fixture
def records_home(tmp_path: Path) -> Settings:
    """The settings of an installation that has the platform's own tables, empty, and no server."""
    from deltalake import DeltaTable

    settings = Settings(home=tmp_path)
    for table in (*tables.SHARED, tables.alerts(USE_CASE)):
        DeltaTable.create(log.location(settings, table), table.arrow([]).schema, partition_by=list(table.partition))
    return settings


@pytest.fixture
def session(installation: Settings) -> SparkSession:
    """The way into the lakehouse; the process's one session, opened again should a test have closed it."""
    return lakehouse.connect(installation)


@pytest.fixture(scope="session")
def use_case() -> UseCase:
    return USE_CASE


@pytest.fixture
def land(installation: Settings) -> Land:
    """Drop rows as a feed's file of a night; values become text, nothing is quoted."""

    def drop(feed: Feed, night: date, rows: Iterable[Sequence[object]]) -> Path:
        header = ",".join(column.name for column in feed.columns)
        text = "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"
        path = installation.landing_folder / feed.name / f"{night}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        return path

    return drop


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
