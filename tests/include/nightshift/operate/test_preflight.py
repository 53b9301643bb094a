import socket
from pathlib import Path

import pytest

from include.nightshift.operate import preflight
from include.nightshift.settings import EVERYWHERE, Binds, Ports, Settings


def test_another_python_is_named_with_what_to_do() -> None:
    assert preflight.python((3, 11)) is None
    for version in ((3, 10), (3, 12)):
        complaint = preflight.python(version)
        assert complaint is not None
        assert f"{version[0]}.{version[1]}" in complaint
        assert "3.11" in complaint


def test_a_full_disk_is_named_by_folder_even_before_the_folder_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert preflight.disk(folder, 2, free_bytes=3 * 10**9) is None
    assert str(folder) in (preflight.disk(folder, 12, free_bytes=3 * 10**9) or "")
    assert preflight.disk(folder, 0.001) is None


def test_a_small_machine_is_refused_and_one_sold_as_six_gigabytes_is_not() -> None:
    assert "4.0 GB" in (preflight.memory(4 * 10**9) or "")
    assert preflight.memory(int(5.8 * 10**9)) is None


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        complaints = preflight.ports(Settings(ports=Ports(mlflow=taken, airflow=_free(), spark=_free(), jdbc=_free())))
    assert len(complaints) == 1
    assert f"port {taken} of mlflow" in complaints[0]
    assert "NIGHTSHIFT_PORT_MLFLOW" in complaints[0]


def test_ports_of_servers_that_run_elsewhere_may_be_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = Ports(spark=holder.getsockname()[1], airflow=_free(), jdbc=_free(), mlflow=_free())
        assert preflight.ports(Settings(ports=ports))
        assert preflight.ports(Settings(ports=ports, spark_remote="sc://lake.example:15002")) == []


def test_a_port_is_free_only_on_the_address_that_its_door_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(preflight, "port", lambda name, number, address: asked.append((name, address)))
    assert preflight.ports(Settings(binds=Binds(mlflow=EVERYWHERE), tls_in_front=True)) == []
    assert dict(asked) == {"airflow": "127.0.0.1", "spark": "127.0.0.1", "jdbc": "127.0.0.1", "mlflow": EVERYWHERE}


def test_complaints_are_one_line_each_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight.refuse(None, "one", "two")
    assert capsys.readouterr().err == "nightshift: one\nnightshift: two\n"
    assert not preflight.refuse(None)


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
