import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from include.nightshift.operate import supervision
from include.nightshift.settings import Settings


def test_a_home_too_deep_for_a_socket_gets_one_under_the_temporary_folder() -> None:
    shallow, deep = Path("/srv/night"), Path("/srv") / ("x" * 100)
    assert supervision.socket_path(shallow) == shallow / "supervisor.sock"
    assert len(os.fsencode(supervision.socket_path(deep))) <= 95
    assert supervision.socket_path(deep) == supervision.socket_path(deep)
    assert supervision.socket_path(deep) != supervision.socket_path(deep / "y")


def test_the_configuration_survives_a_home_with_spaces_and_percent_signs(tmp_path: Path) -> None:
    home = tmp_path / "50 % of it"
    config = configparser.ConfigParser()
    config.read_string(supervision._configuration(Settings(home=home)))
    assert config["program:lakehouse"]["directory"] == str(home)
    assert shlex.split(config["program:mlflow"]["command"]) == [sys.executable, "-m", "include.nightshift.operate.supervision", "mlflow"]


def test_every_program_is_stopped_with_its_children_and_started_again() -> None:
    config = configparser.ConfigParser()
    config.read_string(supervision._configuration(Settings()))
    sections = [config[name] for name in config.sections() if name.startswith("program:")]
    assert len(sections) == 6
    for section in sections:
        assert (section["stopasgroup"], section["killasgroup"], section["autorestart"]) == ("true", "true", "true")


def test_servers_that_run_elsewhere_are_not_ours_to_run() -> None:
    assert "lakehouse" not in supervision.programs(Settings(spark_remote="sc://lake.example:15002"))
    assert "mlflow" not in supervision.programs(Settings(mlflow_uri="https://mlflow.example"))
    assert "lakehouse" in supervision.programs(Settings(spark_remote="sc://127.0.0.1:15002"))


def test_log_servers_that_would_listen_everywhere_are_not_started() -> None:
    for name in ("airflow-scheduler", "airflow-triggerer"):
        assert "--skip-serve-logs" in supervision.PROGRAMS[name].command(Settings())


@pytest.mark.processes
def test_marked_processes_of_this_home_are_found_and_swept_and_no_others(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]

    def child(home: Path) -> "subprocess.Popen[bytes]":
        environment = os.environ | {supervision.MARK: str(home)}
        process = subprocess.Popen(sleep, env=environment, start_new_session=True, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    ours, other = child(tmp_path / "ours"), child(tmp_path / "other")
    try:
        found = supervision.marked(Settings(home=tmp_path / "ours"))
        assert [process.pid for process in found] == [ours.pid]
        supervision.sweep(found, patience=5)
        assert ours.poll() is not None
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


@pytest.mark.processes
def test_a_process_that_is_just_becoming_another_program_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    process = subprocess.Popen(["sleep", "60"], env=os.environ | {supervision.MARK: str(tmp_path)}, start_new_session=True)
    read, asked = psutil.Process.environ, []

    def without_one_at_first(self: psutil.Process) -> dict[str, str]:
        # What /proc shows of one in a hundred processes that are looked at as soon as they were started.
        asked.append(self.pid)
        return {} if self.pid == process.pid and asked.count(self.pid) == 1 else read(self)

    monkeypatch.setattr(psutil.Process, "environ", without_one_at_first)
    try:
        assert [found.pid for found in supervision.marked(settings)] == [process.pid]
    finally:
        process.kill()
        process.wait()
