"""What EC2 tells a machine of its own end: asked with a token, again and again, whatever the service says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.spot import metadata
from include.nightshift.spot.metadata import Metadata
from include.nightshift.train import interruption


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A metadata service: what it answers by path, its valid token, and what it was asked."""
    said: dict[str, Any] = {"token": "one", "asked": []}
    monkeypatch.setattr(metadata, "ASK_SECONDS", 0.02)

    class Answer(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._say(200, said["token"])

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            said["asked"].append((name, self.headers.get("X-aws-ec2-metadata-token")))
            if self.headers.get("X-aws-ec2-metadata-token") != said["token"]:
                self._say(401, "")
            else:
                self._say(*(200, said[name]) if name in said else (404, ""))

        def _say(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *told: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield said
    # Heralds ask for as long as their machine is there; these were on none.
    monkeypatch.setattr(Metadata, "_ask", lambda herald: setattr(herald, "_goes_at", datetime.now(UTC)))
    for thread in [thread for thread in threading.enumerate() if thread.name == "metadata"]:
        thread.join(10)
    server.shutdown()


def test_the_metadata_service_is_asked_with_a_token_also_when_it_has_expired(imds: dict[str, Any], tmp_path: Path) -> None:
    herald = Metadata(tmp_path)
    _wait(lambda: len(imds["asked"]) > 4)
    assert herald.goes_at() is None
    imds["token"] = "two"
    imds["instance-action"] = '{"action": "terminate", "time": "2026-01-31T12:00:00Z"}'
    _wait(lambda: herald.goes_at() is not None)
    assert herald.goes_at() == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert ("instance-action", None) not in imds["asked"], "never the old way"


def test_a_rebalance_recommendation_has_every_stretch_saved_and_nobody_leave(imds: dict[str, Any], tmp_path: Path) -> None:
    imds["rebalance"] = '{"noticeTime": "2026-01-31T12:00:00Z"}'
    herald = Metadata(tmp_path)
    _wait(lambda: interruption.is_at_risk(tmp_path))
    assert herald.goes_at() is None
    interruption.withdraw_notice(tmp_path)
    assert not interruption.is_at_risk(tmp_path)


def test_a_metadata_service_that_talks_nonsense_or_is_gone_is_asked_again(imds: dict[str, Any], tmp_path: Path) -> None:
    imds["instance-action"] = "<html>"
    herald = Metadata(tmp_path)
    _wait(lambda: len(imds["asked"]) > 3)
    imds["instance-action"] = '{"action": "stop", "time": "2026-01-31T12:00:00Z"}'
    _wait(lambda: herald.goes_at() is not None)
    gone = Metadata(tmp_path, "http://127.0.0.1:9")
    time.sleep(0.1)
    assert gone.goes_at() is None


def _wait(what: Callable[[], Any], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
