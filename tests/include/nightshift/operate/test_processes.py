"""All processes of one home, started once for this module: about a minute, and 3.5 GB."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.operate import processes, supervision
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Ports, Settings

pytestmark = pytest.mark.processes


def _ports() -> Ports:
    holders = [socket.socket() for _ in Ports.__dataclass_fields__]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = Ports(**dict(zip(Ports.__dataclass_fields__, (holder.getsockname()[1] for holder in holders), strict=True)))
    for holder in holders:
        holder.close()
    return ports


def _run(settings: Settings, verb: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "include.nightshift.operate.processes", verb]
    return subprocess.run(line, cwd=ROOT, env=environment(settings), capture_output=True, text=True, check=False, timeout=400)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    """A running installation, and what its `up` printed."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), ports=_ports(), clock=False, lakehouse_memory="1g")
    done = _run(settings, "up")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield settings, done.stdout
    finally:
        _run(settings, "down")
        left = supervision.marked(settings)
        supervision.sweep(left, patience=1)
        assert left == []


def _pid(settings: Settings, name: str) -> int:
    pid: int = supervision.states(supervision.connect(settings))[name]["pid"]
    return pid


def _all_answer(settings: Settings, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while _run(settings, "status").returncode != 0:
        assert time.monotonic() < deadline, _run(settings, "status").stdout
        time.sleep(0.5)


def test_up_tells_the_seconds_of_every_process_its_address_and_once_the_passwords(home: tuple[Settings, str]) -> None:
    settings, said = home
    for name in supervision.PROGRAMS:
        assert f" s  {name}\n" in said
    assert settings.airflow_url in said
    passwords = json.loads(settings.passwords_file.read_text())
    for user, password in passwords.items():
        assert f"{user}  password {password}" in said


def test_the_generated_password_opens_airflow(home: tuple[Settings, str]) -> None:
    settings, _ = home
    password = json.loads(settings.passwords_file.read_text())[settings.approver]
    body = json.dumps({"username": settings.approver, "password": password}).encode()
    request = urllib.request.Request(f"{settings.airflow_url}/auth/token", body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        assert json.load(response)["access_token"]


def test_up_twice_is_harmless(home: tuple[Settings, str]) -> None:
    settings, _ = home
    before = {name: _pid(settings, name) for name in supervision.PROGRAMS}
    done = _run(settings, "up")
    assert done.returncode == 0
    assert done.stdout.startswith("already up")
    assert {name: _pid(settings, name) for name in supervision.PROGRAMS} == before


def test_everything_listens_on_loopback_only(home: tuple[Settings, str]) -> None:
    settings, _ = home
    listening = set()
    for process in supervision.marked(settings):
        listening |= {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN and c.laddr}
    assert {settings.ports.airflow, settings.ports.mlflow, settings.ports.spark, settings.ports.jdbc} <= {a.port for a in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_another_home_is_another_installation(home: tuple[Settings, str], tmp_path: Path) -> None:
    settings, _ = home
    other = Settings(home=tmp_path / "other", ports=_ports())
    assert _run(other, "status").returncode == 1
    assert "nothing runs" in _run(other, "down").stdout
    assert _run(settings, "status").returncode == 0


def test_a_second_home_on_the_same_ports_is_told_which_setting_to_change(home: tuple[Settings, str], tmp_path: Path) -> None:
    settings, _ = home
    done = _run(Settings(home=tmp_path / "second", ports=settings.ports), "up")
    assert done.returncode == 1
    assert f"port {settings.ports.airflow} of airflow" in done.stderr
    assert "NIGHTSHIFT_PORT_AIRFLOW" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_lakehouse_answers_questions_and_refuses_in_one_line(home: tuple[Settings, str]) -> None:
    settings, _ = home

    def ask(question: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "include.nightshift.operate.sql", question, "--rows", "2"]
        return subprocess.run(line, cwd=ROOT, env=environment(settings), capture_output=True, text=True, check=False)

    assert ask("select id from range(3);").stdout.splitlines() == ["id", "--", " 0", " 1", "(the first 2 rows; --rows N shows more)"]
    refused = ask("select * from nowhere.at_all")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "nowhere" in refused.stderr


@pytest.mark.parametrize("name", ["lakehouse", "mlflow", "airflow-scheduler"])
def test_a_killed_process_comes_back(home: tuple[Settings, str], name: str) -> None:
    settings, _ = home
    killed = _pid(settings, name)
    family = {process.pid for process in supervision.marked(settings, name)}
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 30
    # What the killed one left behind (MLflow's server is a child that holds the port) must go as well.
    while _pid(settings, name) in (0, killed) or [p for p in supervision.marked(settings, name) if p.pid in family]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    _all_answer(settings)


def test_after_the_supervisor_itself_was_killed_up_starts_afresh(home: tuple[Settings, str]) -> None:
    settings, _ = home
    supervisor = int((settings.home / "supervisord.pid").read_text())
    orphans = {process.pid for process in supervision.marked(settings)} - {supervisor}
    os.kill(supervisor, signal.SIGKILL)
    assert _run(settings, "status").returncode == 1
    done = _run(settings, "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "airflow-database" not in done.stdout, "the schema was there already"
    assert not orphans & {process.pid for process in supervision.marked(settings)}
    _all_answer(settings)


def test_down_leaves_nothing_not_even_what_left_its_session(home: tuple[Settings, str]) -> None:
    settings, _ = home
    # As a training program does that is to outlive its task: a session of its own, started from within this home.
    runaway = subprocess.Popen(["sleep", "300"], env=supervision.supervised_environment(settings), start_new_session=True)
    try:
        running = supervision.marked(settings)
        assert runaway.pid in {process.pid for process in running}
        done = _run(settings, "down")
        assert done.returncode == 0
        assert runaway.wait(5) == -signal.SIGTERM
        assert not [process for process in running if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert "nothing runs" in _run(settings, "down").stdout
    finally:
        runaway.kill()


def test_clean_deletes_a_home_and_nothing_else(home: tuple[Settings, str], tmp_path: Path) -> None:
    settings, _ = home
    precious = tmp_path / "precious"
    precious.mkdir()
    with pytest.raises(ConfigurationError, match="was not made by `make up`"):
        processes.clean(Settings(home=precious, ports=_ports()))
    assert precious.exists()
    processes.clean(settings)
    assert not settings.home.exists()
