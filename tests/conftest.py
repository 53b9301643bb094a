"""One lakehouse for the whole run: its own home, its own ports, one server. Tests keep apart by their nights, not by cleaning.

Each module works on nights of its own year, far enough from the others that no window reaches over, and on keys of its own: a key is
known for good, however long ago it came.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import catalog, jars, storage, tables
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.operate import supervision
from include.nightshift.operate.environment import environment
from include.nightshift.operate.served import served as served_alone
from include.nightshift.settings import ROOT, Ports, Settings
from include.nightshift.usecase import Feed, UseCase
from include.usecases.card_fraud.usecase import USE_CASE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SERVERS = {"running", "installation", "lake_on_s3"}
"""The fixtures of which a run has one each: the whole installation, the lakehouse server, and one with tables on S3. The first two run
side by side, on two workers."""

IMPATIENT = "-XX:TieredStopAtLevel=1 -Dspark.sql.codegen.wholeStage=false -Dspark.sql.codegen.factoryMode=NO_CODEGEN"
"""What the JVM of a server whose tables have hundreds of rows is told: compiling code for them, twice, was a third of all processor time.
The whole installation is not told it: there the nights are larger, and run as a team's do."""

Land = Callable[[Feed, date, Iterable[Sequence[object]]], Path]


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of one server on one worker, in their order."""
    for item in items:
        asked = SERVERS & set(getattr(item, "fixturenames", ()))
        if asked:
            assert len(asked) == 1, f"{item.nodeid} asks for two servers: {asked}"
            item.add_marker(pytest.mark.xdist_group(asked.pop()))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run scattered: two workers with an installation each would take twice the time, and walk out of order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        for item in session.items:
            for mark in item.iter_markers("xdist_group"):
                assert item.nodeid.endswith(f"@{mark.args[0]}"), "run workers with --dist loadgroup, and a pytest that xdist knows"


def _told() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("NIGHTSHIFT_")}


TOLD = _told()


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """What a file of tests says in the environment about an installation is its own: the next file on this worker must not hear it."""
    yield
    assert _told() == TOLD


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
    with _served(settings):
        catalog.create(lakehouse.connect(settings), settings)
        yield settings
        # While the server still answers: a client left open asks a dead one for minutes when Python ends.
        lakehouse.connect(settings).stop()


@pytest.fixture(scope="session")
def served() -> Callable[[Settings], AbstractContextManager[Any]]:
    """Runs the lakehouse server of some settings for as long as a `with` block."""
    return _served


def _served(settings: Settings) -> AbstractContextManager[Any]:
    _lend_jars(settings)
    return served_alone(settings, JAVA_TOOL_OPTIONS=IMPATIENT)


def _lend_jars(settings: Settings) -> None:
    """Let a home use the jars of the checkout's own, which fetches them once per machine; their SHA-256 is checked either way."""
    kept, lent = Settings().home / "jars", settings.home / "jars"
    for folder in (kept, lent):
        folder.mkdir(parents=True, exist_ok=True)
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jars.fetch(replace(settings, home=Settings().home))
    for files in jars.wanted(settings).values():
        for name in files:
            # Links: S3's are 700 MB.
            (lent / name).symlink_to(kept / name)


@pytest.fixture
def records_home(tmp_path: Path) -> Settings:
    """The settings of an installation that has the platform's own tables, empty, and no server."""
    from deltalake import DeltaTable

    settings = Settings(home=tmp_path)
    for table in (*tables.SHARED, tables.alerts(USE_CASE)):
        DeltaTable.create(storage.location(settings, table), table.arrow([]).schema, partition_by=list(table.partition))
    return settings


@pytest.fixture
def session(installation: Settings) -> SparkSession:
    """The way into the lakehouse; the process's one session, opened again should a test have closed it."""
    return lakehouse.connect(installation)


@pytest.fixture
def analyst(installation: Settings) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """A JDBC client that stays connected: rows by query."""
    from pyhive import hive

    connection = hive.connect("127.0.0.1", installation.ports.jdbc, auth="NONE")

    def ask(query: str) -> list[tuple[Any, ...]]:
        cursor = connection.cursor()
        cursor.execute(query)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found

    yield ask
    connection.close()


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


@dataclass(frozen=True)
class Running:
    """A whole installation that is up."""

    settings: Settings
    said: str
    """What `up` printed when it was new."""

    def run(self, verb: str, **other: Any) -> subprocess.CompletedProcess[str]:
        """`processes <verb>` as a person runs it, with other settings if need be."""
        line = [sys.executable, "-m", "include.nightshift.operate.processes", verb]
        told = environment(replace(self.settings, **other))
        return subprocess.run(line, cwd=ROOT, env=told, capture_output=True, text=True, check=False, timeout=400)

    def down(self) -> subprocess.CompletedProcess[str]:
        """`down`, after this process's own session, if any, was closed: left open it asks a dead server for minutes when Python ends."""
        with suppress(LakehouseError):
            lakehouse.connect(self.settings, wait_seconds=0).stop()
        return self.run("down")


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """The one installation of the run: first it is killed and restarted in every way, then the walk goes through it, then it ends.

    A minute to start, 3.5 GB. Its feeds begin in January 2026, the verdicts seven days after the transactions.
    """
    home = Path(tempfile.mkdtemp(prefix="ns-"))
    began = date(2026, 1, 1)
    spans = {"transactions": (began, None), "fraud_labels": (began + timedelta(days=7), None)}
    running = Running(Settings(home=home, ports=Ports.free(), clock=False, feed_spans=spans, local_preemptions=2), "")
    done = running.run("up")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield replace(running, said=done.stdout)
    finally:
        running.down()
        left = supervision.marked(running.settings)
        supervision.sweep(left, patience=1)
        if "NIGHTSHIFT_KEEP_WALK" not in os.environ:
            shutil.rmtree(home, ignore_errors=True)
        assert left == []


_S3 = """
import logging, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
one_by_one, moto = threading.Lock(), DomainDispatcherApplication(create_backend_app)

def answer(environ, start_response):
    # Each request is one step, as S3 promises; moto looks, then writes, and copies what it lists while it changes.
    with one_by_one, open(sys.argv[1], "a") as asked:
        print(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], file=asked)
        return list(moto(environ, start_response))

server = make_server("127.0.0.1", 0, answer, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def asked_of_s3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this module's S3-compatible server was asked, a request a line: method, path, query."""
    return tmp_path_factory.mktemp("s3") / "asked"


@pytest.fixture(scope="module")
def s3(asked_of_s3: Path) -> Iterator[str]:
    """The address of an empty bucket on an S3-compatible server of this module's own, where AWS's variables point meanwhile."""
    import boto3

    # A process of its own: clients that hold Python's lock while they ask would wait for themselves.
    server = subprocess.Popen([sys.executable, "-c", _S3, str(asked_of_s3)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        told = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "REGION": "eu-central-1", "EC2_METADATA_DISABLED": "true"}
        told |= {"ACCESS_KEY_ID": "nobody", "SECRET_ACCESS_KEY": "a-secret-that-stays-one"}
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            for name, value in told.items():
                patch.setenv(f"AWS_{name}", value)
            boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="lake")
            yield "s3a://lake"
    finally:
        server.kill()
        server.wait()


@dataclass(frozen=True)
class Front:
    """HAProxy, before an installation's doors."""

    spark: int
    mlflow: int
    certificate: Path
    """The server's own, which is its authority too."""
    caller: Path
    """Certificate and key of somebody whom `clients` vouches for."""


@pytest.fixture(scope="module")
def tls_in_front(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[Front]]:
    """Runs `haproxy.cfg` before the doors of some settings; skips where the machine has no HAProxy."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no HAProxy on this machine: `apt-get install haproxy`, or put it on the path")
    folder = tmp_path_factory.mktemp("front")
    for name in ("server", "caller"):
        line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        line += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt"]
        subprocess.run(line, check=True, capture_output=True, timeout=60)
        (folder / f"{name}.pem").write_text((folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text())

    @contextmanager
    def run(settings: Settings, *, clients: bool = False) -> Iterator[Front]:
        free = Ports.free()
        told = {
            "DOOR_ADDRESS": "127.0.0.1",
            "DOOR_PORT_SPARK": str(free.spark),
            "DOOR_PORT_MLFLOW": str(free.mlflow),
            "DOOR_CERTIFICATE": f"{folder}/server.pem",
            "NIGHTSHIFT_PORT_SPARK": str(settings.ports.spark),
            "NIGHTSHIFT_PORT_MLFLOW": str(settings.ports.mlflow),
        }
        if clients:
            told["DOOR_CLIENTS"] = f"{folder}/caller.crt"
        child = subprocess.Popen([program, "-f", str(ROOT / "haproxy.cfg")], env=told)
        try:
            deadline = time.monotonic() + 30
            while not _listens(free.spark):
                assert child.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield Front(free.spark, free.mlflow, folder / "server.crt", folder / "caller.pem")
        finally:
            child.terminate()
            child.wait(30)

    return run


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of an empty database in a PostgreSQL of this run's own; skips where the machine has none."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True), Path(shutil.which("initdb") or "/nowhere")]
    programs = next((path.resolve().parent for path in found if path.exists()), None)
    if programs is None:
        pytest.skip("no PostgreSQL on this machine: `apt-get install postgresql`, or put its initdb on the path")
    # PostgreSQL refuses to run as root; Debian's package makes a user for it.
    user = "postgres" if os.getuid() == 0 else None
    # Not in this user's own temporary folder, which the other may not enter.
    shared = "/tmp" if user else None  # noqa: S108 - a folder of a random name is made in it
    folder, port = Path(tempfile.mkdtemp(prefix="pg-", dir=shared)), Ports.free().airflow
    if user:
        shutil.chown(folder, user)

    def run(*line: str) -> None:
        subprocess.run(line, user=user, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60)

    run(str(programs / "initdb"), "--auth=trust", "--username=airflow", "--no-sync", f"{folder}/data")
    control = (str(programs / "pg_ctl"), "-D", f"{folder}/data", "-w")
    run(*control, "-l", f"{folder}/log", "-o", f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}", "start")
    try:
        run(str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "airflow", "airflow")
        yield f"postgresql://airflow@127.0.0.1:{port}/airflow"
    finally:
        run(*control, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
