import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from include.nightshift.operate import health
from include.nightshift.settings import Ports, Settings

COMPONENTS = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")


class Answering:
    """A stand-in for Airflow's health page; `body` is what it says."""

    def __init__(self) -> None:
        self.body: dict[str, dict[str, str | None]] = {}


@pytest.fixture
def airflow() -> Iterator[tuple[Settings, Answering]]:
    said = Answering()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said.body).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Settings(ports=Ports(airflow=server.server_port)), said
    server.shutdown()
    server.server_close()


def _beat(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat()


def test_all_of_airflow_answers_when_each_component_has_had_a_heartbeat(airflow: tuple[Settings, Answering]) -> None:
    settings, said = airflow
    said.body = {"metadatabase": {"status": "healthy"}}
    for part in ("scheduler", "dag_processor", "triggerer"):
        said.body[part] = {"status": "healthy", f"latest_{part}_heartbeat": _beat(2000)}
    assert health.answering(settings, dict.fromkeys(COMPONENTS, 1000.0)) == set(COMPONENTS)


def test_a_heartbeat_of_the_predecessor_is_no_sign_of_life(airflow: tuple[Settings, Answering]) -> None:
    settings, said = airflow
    said.body = {"scheduler": {"status": "healthy", "latest_scheduler_heartbeat": _beat(2000)}}
    assert health.answering(settings, {"airflow-scheduler": 1999.0}) == {"airflow-scheduler"}
    assert health.answering(settings, {"airflow-scheduler": 2001.0}) == set()


def test_an_unhealthy_or_unknown_component_does_not_answer(airflow: tuple[Settings, Answering]) -> None:
    settings, said = airflow
    said.body = {"scheduler": {"status": "unhealthy", "latest_scheduler_heartbeat": _beat(2000)}, "triggerer": {"status": None}}
    assert health.answering(settings, dict.fromkeys(COMPONENTS, 0.0)) == set()


def test_only_what_is_asked_for_is_told(airflow: tuple[Settings, Answering]) -> None:
    settings, said = airflow
    said.body = {"metadatabase": {"status": "healthy"}}
    assert health.answering(settings, {}) == set()
