"""The user data: what a machine does from its boot to its end, with `aws`, `shutdown`, `systemd-run` and the agent's Python in place."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.nightshift.spot import ec2
from include.nightshift.spot.details import Details
from include.nightshift.spot.ec2 import Ec2Pool
from include.nightshift.spot.pools import Order

_AWS = """#!/bin/bash
case "${{@: -2:1}}" in
    s3://*) cp {folder}/code.tar.gz "${{@: -1}}" ;;
    *) cp "${{@: -2:1}}" {folder}/boot.txt ;;
esac
"""
_SHUTDOWN = """#!/bin/bash
echo "$@" >>{folder}/shutdown
"""
_PYTHON = """#!{python}
import json, os, sys
told = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "by_systemd": "INVOCATION_ID" in os.environ}}
open("{folder}/agent.json", "w").write(json.dumps(told))
print("the agent's own words")
sys.exit(75)
"""
_SYSTEMD_RUN = """#!{python}
import json, os, subprocess, sys
options = []
while sys.argv[1].startswith("--"):
    options.append(sys.argv.pop(1))
open("{folder}/systemd-run.json", "w").write(json.dumps(options))
# As systemd does: nothing of the caller's environment, and its output only where that is asked for.
given = dict(option.removeprefix("--setenv=").split("=", 1) for option in options if option.startswith("--setenv="))
output = None if "--pipe" in options else subprocess.DEVNULL
ended = subprocess.run(sys.argv[1:], env={{"PATH": os.defpath, "INVOCATION_ID": "0"}} | given, cwd="/", stdout=output, stderr=output)
sys.exit(ended.returncode if "--wait" in options else 0)
"""


@dataclass(frozen=True)
class Booted:
    """What a machine did."""

    agent: dict[str, Any]
    systemd_run: list[str]
    """The options that it was given; empty where it was not called."""
    boot: str
    """What came of its output on S3."""
    shutdown: list[str]


def user_data(folder: Path) -> str:
    details = Details(
        bucket="trainings",
        prefix="nightshift",
        installation="tests",
        image="ami-0123456789abcdef0",
        instance_profile="machine",
        security_groups=("sg-0123456789abcdef0",),
        subnets={"eu-west-1a": "subnet-0123456789abcdef0"},
        types={"g5.xlarge": 1.0},
        python=str(folder / "bin/python"),
    )
    pool = Ec2Pool(details, SimpleNamespace(meta=SimpleNamespace(region_name="eu-west-1")), None)
    until = datetime.now(UTC) + timedelta(hours=1)
    order = Order(run_id="r", run_folder=folder, attempt=2, places=(), until=until, at_risk_seconds=60)
    return pool._user_data(order, hashlib.sha256((folder / "code.tar.gz").read_bytes()).hexdigest())


@pytest.fixture
def boot(tmp_path: Path) -> Callable[..., Booted]:
    """Runs the user data on a machine with systemd, or without."""
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("requirements-training.txt"), io.BytesIO())
    (tmp_path / "bin").mkdir()
    programs = {"aws": _AWS, "shutdown": _SHUTDOWN, "python": _PYTHON, "systemd-run": _SYSTEMD_RUN}
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text.format(folder=tmp_path, python=sys.executable))
        (tmp_path / "bin" / name).chmod(0o755)

    def booted(*, systemd: bool) -> Booted:
        if systemd:
            (tmp_path / "root/run/systemd/system").mkdir(parents=True)
        environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "NIGHTSHIFT_MACHINE_ROOT": str(tmp_path / "root")}
        subprocess.run(["bash", "-c", user_data(tmp_path)], env=environment, check=True, timeout=30)
        asked = tmp_path / "systemd-run.json"
        return Booted(
            json.loads((tmp_path / "agent.json").read_text()),
            json.loads(asked.read_text()) if asked.exists() else [],
            (tmp_path / "boot.txt").read_text(),
            (tmp_path / "shutdown").read_text().splitlines(),
        )

    return booted


def test_it_is_bash() -> None:
    subprocess.run(["bash", "-n", str(ec2.USER_DATA)], check=True)


def test_where_systemd_is_the_agent_is_a_unit_that_is_stopped_before_the_network(boot: Callable[..., Booted]) -> None:
    booted = boot(systemd=True)
    properties = dict(option.removeprefix("--property=").split("=", 1) for option in booted.systemd_run if "--property=" in option)
    assert "network.target" in properties["After"].split(), "what is started after it is stopped before it"
    assert (properties["KillSignal"], properties["KillMode"]) == ("SIGTERM", "mixed"), "the agent is asked, and ends the trainer itself"
    assert 60 <= int(properties["TimeoutStopSec"]) <= 110, "time enough for the last checkpoint, within what EC2 gives"
    assert properties["OOMPolicy"] == "continue", "or a trainer that ran out of memory would look as if its machine had been taken"
    assert booted.agent["by_systemd"]


@pytest.mark.parametrize("systemd", [True, False])
def test_the_agent_has_what_it_needs_and_the_machine_ends_with_it(boot: Callable[..., Booted], systemd: bool) -> None:
    booted = boot(systemd=systemd)
    assert booted.agent["by_systemd"] == systemd
    assert booted.agent["arguments"][:2] == ["-m", "include.nightshift.spot.agent"]
    assert booted.agent["arguments"][-3:] == ["--mirror", "s3://trainings/nightshift/runs/r", "--metadata"]
    environment = booted.agent["environment"]
    assert environment["PYTHONPATH"].endswith("/root/opt/nightshift")
    assert environment["AWS_REGION"] == environment["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert "the agent's own words" in booted.boot.splitlines()
    assert booted.shutdown[0].startswith("-P +"), "its end, before anything that may hang"
    assert booted.shutdown[1:] == ["-P now"], "once, when the agent has left"


@pytest.mark.parametrize(
    ("given", "lacking"),
    [("--setenv=PYTHONPATH", "PYTHONPATH"), ("--setenv=AWS_REGION", "AWS_REGION"), ("--pipe", "the agent's own words")],
)
def test_a_unit_that_is_given_less_is_found_out(
    boot: Callable[..., Booted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, lacking: str
) -> None:
    """Planted defect: the test above must be able to fail."""
    script = ec2.USER_DATA.read_text()
    assert given in script
    (tmp_path / "less.sh").write_text(script.replace(given, "--setenv=OTHER" if "=" in given else "--quiet"))
    monkeypatch.setattr(ec2, "USER_DATA", tmp_path / "less.sh")
    booted = boot(systemd=True)
    assert lacking not in [*booted.agent["environment"], *booted.boot.splitlines()]
