"""The training operator through a real Airflow, on EC2 as the stand-in has it: one machine at a time, whatever dies, and none left."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests

from include.nightshift.operate.environment import environment, prepare_home
from include.nightshift.operate.rest import Airflow, AirflowError
from include.nightshift.settings import ROOT, Ports, Settings
from include.nightshift.spot.attempts import ledger
from include.nightshift.train.recipes import Trees
from tests.stand_in.account import ZONES, Cloud, account

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

DAG_ID = "rehearsal"
LONG = Trees(name="trees", rounds=6000, rounds_per_chunk=1, max_depth=2, learning_rate=0.2, subsample=0.7, colsample_bytree=0.6, seed=5)
"""Some minutes, every chunk saved."""
SHORT = replace(LONG, rounds=300)

DAG = '''
"""A training and nothing around it: tables, registry and gate have tests of their own."""

import os, sys, time
from airflow.sdk import DAG, Param
from nightshift_airflow.operators.spot import SpotTrainingOperator, SweepOperator

class Rehearsed(SpotTrainingOperator):
    def _record(self, folder):
        from include.nightshift.spot import attempts
        return attempts.ledger(folder)

    def _finish(self, context, folder):
        return [attempt.outcome for attempt in self._record(folder)]

    def _terms(self, context, folder, tick_seconds):
        from dataclasses import replace
        return replace(super()._terms(context, folder, tick_seconds), tick_seconds=1.0, at_risk_seconds=0.0, work_hours=0.01,
                       max_preemptions=context["params"]["lives"])

    def defer(self, **how):
        if folder := os.environ.get("REHEARSAL_DAWDLES"):
            marker = os.path.join(folder, os.path.basename(self.run_folder))
            if os.path.exists(marker):
                with open(marker) as file:
                    if not file.read():
                        open(marker, "w").write(str(os.getpid()))
                        time.sleep(60)
        super().defer(**how)

params = {"folder": Param("", type="string"), "lives": Param(10, type="integer")}
with DAG("rehearsal", schedule=None, params=params, max_active_runs=10):
    train = Rehearsed(task_id="train", run_folder="{{ params.folder }}", hours="2", retries=1, retry_delay=1)
    train >> SweepOperator(task_id="sweep", run_folder="{{ params.folder }}").as_teardown()
'''


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with account(tmp_path_factory.mktemp("cloud")) as opened:
        # The first zone has nothing: every machine below is of the second.
        opened.dry(ZONES[0])
        yield opened
        assert opened.alive() == []


@dataclass
class Installation:
    """Airflow's own processes on a home of their own, without lakehouse and MLflow."""

    settings: Settings
    environ: dict[str, str]
    dawdles: Path
    running: dict[str, subprocess.Popen[bytes]]

    def start(self, name: str) -> None:
        with (self.settings.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "airflow", name, *(("--skip-serve-logs",) if name in ("scheduler", "triggerer") else ())],
                env=self.environ,
                cwd=self.settings.home,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        os.killpg(self.running[name].pid, signal.SIGKILL)
        self.running[name].wait()

    def login(self) -> Airflow:
        until = time.monotonic() + 120
        while True:
            try:
                return Airflow(self.settings, "operator")
            except (AirflowError, requests.RequestException):
                assert time.monotonic() < until, (self.settings.home / "api-server.log").read_text()[-3000:]
                time.sleep(0.5)


@pytest.fixture(scope="module")
def installation(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("airflow-home")
    (home / "dags").mkdir()
    (home / "dags/rehearsal.py").write_text(DAG)
    (home / "ec2.toml").write_text(_toml(cloud))
    (home / "dawdles").mkdir()
    settings = Settings(home=home, ports=Ports.free(), pool="ec2", ec2=home / "ec2.toml")
    prepare_home(settings)
    extra = {"region_name": "eu-west-1", "endpoint_url": cloud.endpoint}
    environ = environment(settings) | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        # A task whose process was killed is noticed after this, not after five minutes.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "25",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps({"conn_type": "aws", "login": "launcher", "password": "x", "extra": extra}),
        "REHEARSAL_DAWDLES": str(home / "dawdles"),
    }
    subprocess.run([sys.executable, "-m", "nightshift_airflow.migrate"], env=environ, cwd=home, check=True, capture_output=True)
    airflow = Installation(settings, environ, home / "dawdles", {})
    try:
        for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
            airflow.start(name)
        airflow.login().wait_for_dags([DAG_ID])
        yield airflow
    finally:
        for process in airflow.running.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _toml(cloud: Cloud) -> str:
    lines = ["[ec2]"]
    tables = []
    for name, value in vars(cloud.details).items():
        if isinstance(value, dict):
            tables += [f"[ec2.{name}]", *(f'"{key}" = {json.dumps(entry)}' for key, entry in value.items())]
        else:
            lines.append(f"{name} = {json.dumps(list(value) if isinstance(value, tuple) else value)}")
    return "\n".join([*lines, *tables])


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A pinned run folder, and its name."""
    path = ROOT / "tests/include/nightshift/train/conftest.py"
    spec = importlib.util.spec_from_file_location("training_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("runs")
    make = module.make_run.__wrapped__(folder)

    def made(name: str, recipe: Trees) -> str:
        return str(make(name, recipe=recipe, run_id=name, count=300))

    return made


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)
    return found


def machine(cloud: Cloud, run_id: str) -> list[str]:
    """The run's machines that are alive."""
    filters = [{"Name": "tag:nightshift:run", "Values": [run_id]}, {"Name": "instance-state-name", "Values": ["pending", "running"]}]
    found = cloud.clients["ec2"].describe_instances(Filters=filters)["Reservations"]
    return [one["InstanceId"] for reservation in found for one in reservation["Instances"]]


def test_one_machine_at_a_time_whatever_dies_and_none_is_left(
    cloud: Cloud, installation: Installation, make_run: Callable[..., str]
) -> None:
    """Five trainings at once: one is warned, one has no lives left, one's worker is killed, one is ended by hand, one sees its
    triggerer and scheduler killed."""
    airflow = installation.login()
    folders = {
        name: make_run(name, SHORT if name in ("warned", "orphaned") else LONG)
        for name in ("warned", "unlucky", "orphaned", "cancelled", "survivor")
    }
    (installation.dawdles / "orphaned").touch()
    runs = {
        name: airflow.trigger(DAG_ID, conf={"folder": folder, "lives": 0 if name == "unlucky" else 10}) for name, folder in folders.items()
    }

    def task(name: str) -> dict[str, Any]:
        return airflow.tasks(DAG_ID, runs[name]).get("train", {})

    # Warned over EventBridge and SQS: another machine, no try used.
    [first] = wait_for(lambda: machine(cloud, "warned"))
    wait_for(lambda: cloud.saves("warned", 1) or task("warned").get("state") == "success")
    cloud.warn(first)
    # No life left: after its first loss the rest is done on demand.
    [lost] = wait_for(lambda: machine(cloud, "unlucky"))
    wait_for(lambda: cloud.saves("unlucky", 1))
    cloud.clients["ec2"].terminate_instances(InstanceIds=[lost])
    # Its worker is killed between the start of the machine and the wait for it.
    worker = int(wait_for((installation.dawdles / "orphaned").read_text))
    os.kill(worker, signal.SIGKILL)
    # Ended by hand: the machine goes too.
    [ended] = wait_for(lambda: machine(cloud, "cancelled"))
    wait_for(lambda: task("cancelled").get("state") == "deferred" and cloud.saves("cancelled", 1))
    airflow.call("PATCH", f"/dags/{DAG_ID}/dagRuns/{runs['cancelled']}/taskInstances/train", json={"new_state": "failed"})
    wait_for(lambda: not machine(cloud, "cancelled"))
    [attempt] = wait_for(lambda: ledger(Path(folders["cancelled"])))
    assert (attempt.outcome, attempt.machine) == ("cancelled", ended)
    for name in ("warned", "orphaned"):
        airflow.wait(DAG_ID, runs[name], seconds=120)
    # Triggerer and scheduler die: the machine does not notice, and nobody starts another one.
    [same] = wait_for(lambda: machine(cloud, "survivor"))
    for name in ("triggerer", "scheduler"):
        installation.kill(name)
        installation.start(name)
    # Where a machine is asked for on demand.
    wait_for(lambda: [attempt for attempt in cloud.fleets() if attempt["type"] == "on-demand"])

    assert airflow.xcom(DAG_ID, runs["warned"], "train") == ["preempted", "finished"]
    assert task("warned")["try_number"] == 1
    assert airflow.xcom(DAG_ID, runs["orphaned"], "train") == ["finished"]
    assert task("orphaned")["try_number"] > 1, "its own try was killed; the machine was not"
    assert machine(cloud, "survivor") == [same]
    assert [attempt.outcome for attempt in ledger(Path(folders["unlucky"]))] == ["preempted"]
    assert machine(cloud, "unlucky") != [lost]
    zones = {attempt.zone for folder in folders.values() for attempt in ledger(Path(folder)) if not attempt.on_demand}
    assert zones == {ZONES[1]}, "the first had nothing"

    for name in ("unlucky", "survivor"):
        wait_for(lambda name=name: task(name).get("state") == "deferred")  # type: ignore[misc]
        airflow.call("PATCH", f"/dags/{DAG_ID}/dagRuns/{runs[name]}/taskInstances/train", json={"new_state": "failed"})
    wait_for(lambda: cloud.alive() == [])
