"""What is handed over beside the code (image, compose file, build command, pages) says what the code does."""

import json
import os
import re
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from include.nightshift import errors, settings
from include.nightshift.operate import environment, setup

ROOT = settings.ROOT
DECISIONS = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "README.md"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = COMPOSE["services"]
Container = tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], Path]
PINNED = re.compile(r"\S+:\d+\.\d+(\.\d+)?-[\w-]+")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_built_here_or_pinned(name: str) -> None:
    service = SERVICES[name]
    assert service.get("build") == "." or PINNED.fullmatch(service["image"]), service


def test_the_image_starts_from_a_pinned_one_and_does_not_run_as_root() -> None:
    base = re.search(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert base is not None
    assert PINNED.fullmatch(base[1])
    assert base[1].startswith("python:3.11.")
    assert users
    assert users[-1] not in ("root", "0")


def test_the_image_installs_with_the_uv_that_the_checkout_installs_with() -> None:
    assert setup.UV in DOCKERFILE
    assert "--require-hashes" in DOCKERFILE
    assert "requirements.lock" in DOCKERFILE


def test_nothing_is_published_beyond_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    # In the machine's network nothing is published: there it matters that the processes themselves listen on loopback.
    in_the_machines_network = [name for name, service in SERVICES.items() if service.get("network_mode") == "host"]
    assert in_the_machines_network == ["nightshift", "front"]
    assert SERVICES["front"]["profiles"], "what others reach is opened only where it is asked for"
    assert environment.loopback() == "127.0.0.1"


def test_what_stands_in_front_passes_on_to_two_doors_on_loopback_and_encrypts_both() -> None:
    lines = [line.strip() for line in (ROOT / "haproxy.cfg").read_text().splitlines()]
    behind = dict(line.split()[1:3] for line in lines if line.startswith("server "))
    assert behind.keys() == {"spark", "mlflow"}
    ports = settings.Ports()
    for name, address in behind.items():
        assert address == f'"127.0.0.1:${{NIGHTSHIFT_PORT_{name.upper()}-{getattr(ports, name)}}}"'
    opened = [line for line in lines if line.startswith("bind ")]
    assert len(opened) == 3
    assert all(' ssl crt "${DOOR_CERTIFICATE}" ' in line for line in opened)
    mounted = [volume.split(":")[0] for volume in SERVICES["front"]["volumes"]]
    assert "./haproxy.cfg" in mounted


def test_every_service_is_watched() -> None:
    assert all(service["healthcheck"]["test"] for service in SERVICES.values())
    assert SERVICES["nightshift"]["healthcheck"]["test"][-1] == "status"


def test_secrets_come_from_outside() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable or "SECRET" in variable:
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"
            if "://" in str(value):
                assert re.search(r"://\w+:\$\{\w+:\?[^}]+\}@", value), f"{name}: {variable}"
    ignored = (ROOT / ".gitignore").read_text().split()
    assert ".env" in ignored
    assert ".env" in (ROOT / ".dockerignore").read_text().split()


def test_compose_sets_only_what_the_code_reads(tmp_path: Path) -> None:
    known = environment.environment(settings.Settings(home=tmp_path), {})
    assert SERVICES["nightshift"]["environment"].keys() <= known.keys()


def test_compose_keeps_the_home_that_the_image_uses() -> None:
    home = re.search(r"NIGHTSHIFT_HOME=(\S+)", DOCKERFILE)
    assert home is not None
    assert f"home:{home[1]}" in SERVICES["nightshift"]["volumes"]
    assert "home" in COMPOSE["volumes"]


def _image_command() -> list[str]:
    found = re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    command: list[str] = json.loads(found[1])
    return command


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    """The image's own command, with a `python` that only notes what it is asked, and a process that stands for the supervisor."""
    supervisor = subprocess.Popen(["sleep", "60"])
    (tmp_path / "supervisord.pid").write_text(f"{supervisor.pid}\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    python.chmod(0o755)
    told = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NIGHTSHIFT_HOME": str(tmp_path)}
    running = subprocess.Popen(_image_command(), env=told, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not (tmp_path / "asked").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    yield running, supervisor, tmp_path / "asked"
    for process in (running, supervisor):
        process.kill()
        process.wait()


def _verbs(asked: Path) -> list[str]:
    return [line.split()[-1] for line in asked.read_text().splitlines()]


def test_a_stopped_container_takes_everything_down_in_good_order(container: Container) -> None:
    running, _, asked = container
    time.sleep(0.3)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=10) == 0
    assert _verbs(asked) == ["up", "down"]


def test_a_container_without_its_supervisor_ends_with_an_error(container: Container) -> None:
    running, supervisor, asked = container
    supervisor.kill()
    supervisor.wait()
    assert running.wait(timeout=10) == 1
    assert _verbs(asked) == ["up"]


def test_the_build_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert "make test" in script.read_text()
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_the_readme_names_both_commands_and_keeps_room_for_what_they_print() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in ("make demo", "make test"):
        assert command in readme
    assert re.search(r"<!-- demo output -->.+<!-- /demo output -->", readme, re.DOTALL)


def test_every_make_target_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        # As code only: prose makes this and that.
        named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, f"{page}: {named - targets}"


def test_the_readme_lists_every_setting(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    for variable in environment.nightshift_variables(settings.Settings(home=tmp_path)):
        assert f"`{variable}`" in readme or f"`{variable.removeprefix('NIGHTSHIFT_PORT')}`" in readme, variable


def test_the_readme_lists_every_decision() -> None:
    assert len(DECISIONS) >= 5
    readme = (ROOT / "README.md").read_text()
    assert [name for name in DECISIONS if f"(docs/decisions/{name})" not in readme] == []


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_tells_context_decision_and_consequences(name: str) -> None:
    text = (ROOT / "docs" / "decisions" / name).read_text()
    assert text.startswith(f"# {name[:4]}: ")
    places = [text.find(f"**{word}.**") for word in ("Context", "Decision", "Consequences")]
    assert -1 not in places
    assert places == sorted(places)


def test_the_runbook_knows_every_named_error() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    named = [name for name in vars(errors) if name.endswith("Error") and name != "NightshiftError"]
    assert named
    assert [name for name in named if f"**`{name}`**" not in runbook] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_a_page_is_python(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, str(page), "exec")


def test_the_readme_reads_a_table_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import date

    import pyarrow as pa
    from deltalake import write_deltalake

    nights = [{"day": date(2026, 4, 1 + n // 3), "rank": n % 3 + 1, "score": 0.9 - n / 10} for n in range(6)]
    write_deltalake(tmp_path / "var/lakehouse/gold/card_fraud_alerts", pa.Table.from_pylist(nights), partition_by=["day"])
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(from datetime.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    said = block[1].replace("alerts.to_pandas", "pandas = alerts.to_pandas").replace("duckdb.sql", "sql = duckdb.sql")
    seen: dict = {}
    exec(said.replace("pl.scan", "polars = pl.scan"), seen)  # noqa: S102 - the page's own words
    assert seen["pandas"]["rank"].tolist() == [1, 2, 3]
    assert [row[:2] for row in seen["sql"].fetchall()] == [(date(2026, 4, 1), 3), (date(2026, 4, 2), 3)]
    assert seen["polars"]["score"].to_list() == pytest.approx([0.9, 0.8, 0.7])


def test_commit_hooks_run_the_linters_of_the_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    programs = {hook["entry"].split()[0] for hook in hooks[0]["hooks"]}
    assert programs == {".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/sqlfluff"}


def test_the_licence_is_the_one_that_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    licence = (ROOT / "LICENSE").read_text()
    assert project["license"]["text"] == "Apache-2.0"
    assert "Apache License\n" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_astro_project_has_the_projects_name() -> None:
    assert yaml.safe_load((ROOT / ".astro" / "config.yaml").read_text())["project"]["name"] == "nightshift"
