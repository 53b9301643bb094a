"""A real MLflow server, and whom it lets in."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow.exceptions import MlflowException

from include.nightshift import doors
from include.nightshift.errors import ConfigurationError
from include.nightshift.operate import health, registry_server
from include.nightshift.operate.environment import environment
from include.nightshift.promote import registry
from include.nightshift.settings import EVERYWHERE, Binds, Ports, Settings

if TYPE_CHECKING:
    from tests.conftest import Front

ALIAS = "/api/2.0/mlflow/registered-models/alias"


def test_it_listens_where_the_settings_say_and_asks_who_is_there(tmp_path: Path) -> None:
    def address(settings: Settings) -> str:
        line = registry_server.command(settings)
        assert line[line.index("--app-name") + 1] == "basic-auth"
        return line[line.index("--host") + 1]

    assert address(Settings(home=tmp_path)) == "127.0.0.1"
    assert address(Settings(home=tmp_path, binds=Binds(mlflow=EVERYWHERE), tls_in_front=True)) == EVERYWHERE


def test_it_does_not_start_with_a_token_that_others_can_read(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    registry_server.environment(settings)
    (tmp_path / "doors" / "mlflow.token").chmod(0o644)
    with pytest.raises(ConfigurationError, match="mode 0644"):
        registry_server.environment(settings)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, subprocess.Popen[bytes]]]:
    """The server as its supervisor starts it, with a model of one version."""
    settings = Settings(home=tmp_path_factory.mktemp("mlflow 50%"), ports=Ports.free())
    told = environment(settings) | registry_server.environment(settings)
    log = settings.home / "mlflow.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, *registry_server.command(settings)],
            env=told,
            cwd=settings.home,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while not health.answering(settings, {"mlflow": 0}):
            assert child.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_TOKEN", "")
            client = registry.client(settings)
            client.create_registered_model("fraud")
            run = client.create_run(client.create_experiment("fraud")).info.run_id
            for _ in range(2):
                client.create_model_version("fraud", f"runs:/{run}/model", run_id=run)
            client.set_registered_model_alias("fraud", "champion", "1")
        yield settings, child
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(30)


def _ask(settings: Settings, path: str, shown: str | None, body: object = None, method: str | None = None) -> int:
    headers = {"Content-Type": "application/json"} | ({"Authorization": shown} if shown else {})
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(settings.mlflow_url + path, content, headers, method=method)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _champion(settings: Settings) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_TOKEN", "")
        return str(registry.client(settings).get_model_version_by_alias("fraud", "champion").version)


STRANGERS = [
    None,
    "Bearer ",
    "Bearer not-the-token",
    "Basic !",
    _basic("nightshift", ""),
    _basic("nightshift", "guess"),
    _basic("admin", ""),
]


@pytest.mark.processes
@pytest.mark.parametrize("shown", STRANGERS)
def test_a_stranger_neither_moves_the_alias_nor_reads(served: tuple[Settings, subprocess.Popen[bytes]], shown: str | None) -> None:
    settings, _ = served
    assert _ask(settings, ALIAS, shown, {"name": "fraud", "alias": "champion", "version": "2"}) == 401
    assert _ask(settings, f"{ALIAS}?name=fraud&alias=champion", shown, method="DELETE") == 401
    assert _ask(settings, "/api/2.0/mlflow-artifacts/artifacts/a.txt", shown, "x", method="PUT") == 401
    # Of each kind one that is guarded by other code: Flask's, FastAPI's, the pages.
    for path, body in (
        ("/api/2.0/mlflow/registered-models/search", None),
        ("/graphql", {"query": "{__typename}"}),
        ("/v1/traces", {}),
        ("/", None),
    ):
        assert _ask(settings, path, shown, body) == 401, path
    assert _champion(settings) == "1"


@pytest.mark.processes
@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_whoever_shows_the_token_moves_the_alias(served: tuple[Settings, subprocess.Popen[bytes]], scheme: str) -> None:
    settings, _ = served
    token = str(doors.token(settings, "mlflow"))
    shown = f"Bearer {token}" if scheme == "bearer" else _basic(doors.USER, token)
    for version in ("2", "1"):
        assert _ask(settings, ALIAS, shown, {"name": "fraud", "alias": "champion", "version": version}) == 200
        assert _champion(settings) == version


@pytest.mark.processes
def test_a_user_of_mlflows_own_reads_and_may_not_write(served: tuple[Settings, subprocess.Popen[bytes]]) -> None:
    settings, _ = served
    token = str(doors.token(settings, "mlflow"))
    user = {"username": "analyst", "password": "a-long-password"}
    assert _ask(settings, "/api/2.0/mlflow/users/create", f"Bearer {token}", user) == 200
    shown = _basic(user["username"], user["password"])
    assert _ask(settings, "/api/2.0/mlflow/registered-models/get?name=fraud", shown) == 200
    assert _ask(settings, ALIAS, shown, {"name": "fraud", "alias": "champion", "version": "2"}) == 403
    assert _champion(settings) == "1"


@pytest.mark.processes
def test_a_page_of_another_site_and_another_name_for_this_machine_are_refused(served: tuple[Settings, subprocess.Popen[bytes]]) -> None:
    settings, _ = served
    shown = f"Bearer {doors.token(settings, 'mlflow')}"
    for header in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        body = json.dumps({"name": "fraud", "alias": "champion", "version": "2"}).encode()
        headers = {"Content-Type": "application/json", "Authorization": shown} | header
        request = urllib.request.Request(settings.mlflow_url + ALIAS, body, headers)  # noqa: S310 - loopback
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=30)  # noqa: S310
    assert _champion(settings) == "1"


@pytest.mark.processes
def test_through_tls_another_machine_is_served_by_the_token_and_not_without(
    served: tuple[Settings, subprocess.Popen[bytes]],
    tls_in_front: Callable[..., AbstractContextManager[Front]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, _ = served
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "")
    given = tmp_path / "mlflow.token"
    given.write_text(str(doors.token(settings, "mlflow")))
    given.chmod(0o600)

    def champion(port: int, token: Path | None = None) -> str:
        elsewhere = Settings(home=tmp_path / "home", mlflow_uri=f"https://localhost:{port}", mlflow_token_file=token)
        return str(registry.client(elsewhere).get_model_version_by_alias("fraud", "champion").version)

    def move(front: Front, origin: str) -> int:
        """What a page of some site is answered that asks this browser to move the alias."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {given.read_text()}", "Origin": origin}
        body = json.dumps({"name": "fraud", "alias": "champion", "version": "1"}).encode()
        request = urllib.request.Request(f"https://localhost:{front.mlflow}{ALIAS}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30, context=ssl.create_default_context(cafile=str(front.certificate))) as answer:  # noqa: S310
                status: int = answer.status
                return status
        except urllib.error.HTTPError as error:
            return error.code

    with tls_in_front(settings) as front:
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(front.certificate))
        with pytest.raises(MlflowException, match="401"):
            champion(front.mlflow)
        assert champion(front.mlflow, given) == "1"
        assert move(front, f"https://localhost:{front.mlflow}") == 200
        assert move(front, "https://evil.example") == 403
    with tls_in_front(settings, clients=True) as front:
        with pytest.raises(MlflowException, match=r"(?i)certificate|ssl|connection"):
            champion(front.mlflow, given)
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(front.caller))
        assert champion(front.mlflow, given) == "1"


@pytest.mark.processes
def test_the_token_is_in_no_log_and_on_no_command_line(served: tuple[Settings, subprocess.Popen[bytes]]) -> None:
    settings, _ = served
    token = str(doors.token(settings, "mlflow"))
    assert "registered-models/alias" in (settings.home / "mlflow.log").read_text()
    told = [
        path for path in settings.home.rglob("*") if path.is_file() and path.parent.name != "doors" and token.encode() in path.read_bytes()
    ]
    assert told == []
    assert token not in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
