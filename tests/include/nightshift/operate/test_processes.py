"""All processes of one home: what they show, what they refuse, and that they come back. How they end is the end of the walk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from include.nightshift.lakehouse import log, tables
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.operate import supervision
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Ports

if TYPE_CHECKING:
    from tests.conftest import Running

pytestmark = pytest.mark.processes


def _pid(running: Running, name: str) -> int:
    pid: int = supervision.states(supervision.connect(running.settings))[name]["pid"]
    return pid


def _all_answer(running: Running, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while running.run("status").returncode != 0:
        assert time.monotonic() < deadline, running.run("status").stdout
        time.sleep(0.5)


def test_up_tells_the_seconds_of_every_process_its_address_and_once_the_passwords(running: Running) -> None:
    settings, said = running.settings, running.said
    for name in supervision.PROGRAMS:
        assert f" s  {name}\n" in said
    assert settings.airflow_url in said
    passwords = json.loads(settings.passwords_file.read_text())
    for user, password in passwords.items():
        assert f"{user}  password {password}" in said


def test_the_generated_password_opens_airflow(running: Running) -> None:
    settings = running.settings
    password = json.loads(settings.passwords_file.read_text())[settings.approver]
    body = json.dumps({"username": settings.approver, "password": password}).encode()
    request = urllib.request.Request(f"{settings.airflow_url}/auth/token", body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        assert json.load(response)["access_token"]


def test_up_twice_is_harmless(running: Running) -> None:
    before = {name: _pid(running, name) for name in supervision.PROGRAMS}
    done = running.run("up")
    assert done.returncode == 0
    assert "up already" not in done.stdout
    assert "airflow-database" not in done.stdout, "the schema was there already"
    assert {name: _pid(running, name) for name in supervision.PROGRAMS} == before


def test_up_with_other_settings_says_which_are_not_in_force_and_makes_what_tables_are_missing(running: Running) -> None:
    settings = running.settings
    missing = tables.GATE_REPORTS
    lakehouse.connect(settings).sql(f"drop table {missing}")
    done = running.run("up", local_preemptions=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("up already, with other values of NIGHTSHIFT_LOCAL_PREEMPTIONS: `make down`, then")
    assert log.version(settings, missing) == 0


def test_everything_listens_on_loopback_only(running: Running) -> None:
    settings = running.settings
    listening = set()
    for process in supervision.marked(settings):
        listening |= {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN and c.laddr}
    assert {settings.ports.airflow, settings.ports.mlflow, settings.ports.spark, settings.ports.jdbc} <= {a.port for a in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_another_home_is_another_installation(running: Running, tmp_path: Path) -> None:
    other = {"home": tmp_path / "other", "ports": Ports.free()}
    assert running.run("status", **other).returncode == 1
    assert "nothing runs" in running.run("down", **other).stdout
    assert running.run("status").returncode == 0


def test_a_second_home_on_the_same_ports_is_told_which_setting_to_change(running: Running, tmp_path: Path) -> None:
    settings = running.settings
    done = running.run("up", home=tmp_path / "second")
    assert done.returncode == 1
    assert f"port {settings.ports.airflow} of airflow" in done.stderr
    assert "NIGHTSHIFT_PORT_AIRFLOW" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_lakehouse_answers_questions_and_refuses_in_one_line(running: Running) -> None:
    settings = running.settings

    def ask(question: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "include.nightshift.operate.sql", question, "--rows", "2"]
        return subprocess.run(line, cwd=ROOT, env=environment(settings), capture_output=True, text=True, check=False)

    assert ask("select id from range(3);").stdout.splitlines() == ["id", "--", " 0", " 1", "(the first 2 rows; --rows N shows more)"]
    refused = ask("select * from nowhere.at_all")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "nowhere" in refused.stderr


def test_killed_processes_come_back_and_nothing_that_they_left_stays(running: Running) -> None:
    killed = {name: _pid(running, name) for name in supervision.PROGRAMS}
    families = {name: {process.pid for process in supervision.marked(running.settings, name)} for name in killed}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    for name, pid in killed.items():
        # What the killed one left behind (MLflow's server is a child that holds the port) must go as well.
        while _pid(running, name) in (0, pid) or [p for p in supervision.marked(running.settings, name) if p.pid in families[name]]:
            assert time.monotonic() < deadline, name
            time.sleep(0.2)
    _all_answer(running)


def test_after_the_supervisor_itself_was_killed_up_starts_afresh(running: Running) -> None:
    settings = running.settings
    supervisor = int((settings.home / "supervisord.pid").read_text())
    orphans = {process.pid for process in supervision.marked(settings)} - {supervisor}
    os.kill(supervisor, signal.SIGKILL)
    assert running.run("status").returncode == 1
    done = running.run("up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "airflow-database" not in done.stdout, "the schema was there already"
    assert not orphans & {process.pid for process in supervision.marked(settings)}
    _all_answer(running)
