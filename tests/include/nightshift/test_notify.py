"""Notices go to who is named, tell what failed, and keep the address to themselves."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from include.nightshift import notify
from include.nightshift import settings as settings_module
from include.nightshift.rules import Verdict
from include.nightshift.settings import Settings

NIGHT = date(2026, 11, 20)
FAILED = Verdict(
    feed="transactions", night=NIGHT, rule="usual_volume", kind="temporal", severity="stop", outcome="failed", reason="half of it"
)


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a JSON webhook of this test's own, and what it was told."""
    told: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"json://127.0.0.1:{server.server_port}/secret-of-the-hook", told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_stopped_batch_is_told_with_rule_night_and_reason(hook: tuple[str, list[dict[str, str]]]) -> None:
    address, told = hook
    assert notify.tell(Settings(notify=(address,)), [FAILED])
    (notice,) = told
    assert notice["title"] == "Nightshift: transactions 2026-11-20: batch stopped"
    assert notice["message"] == "transactions 2026-11-20: usual_volume [temporal, stop] failed: half of it"
    assert notice["type"] == "failure"


def test_a_warning_is_told_line_by_line(hook: tuple[str, list[dict[str, str]]]) -> None:
    address, told = hook
    assert notify.warn(Settings(notify=(address,)), "card_fraud 2026-11-20: list marked", ["other bytes", "no answer"], where="the log")
    (notice,) = told
    assert (notice["title"], notice["message"], notice["type"]) == (
        "Nightshift: card_fraud 2026-11-20: list marked",
        "other bytes\nno answer",
        "warning",
    )


def test_nothing_is_sent_where_there_is_nothing_to_tell_or_nobody_to_tell(hook: tuple[str, list[dict[str, str]]]) -> None:
    address, told = hook
    assert notify.tell(Settings(notify=(address,)), [])
    assert notify.tell(Settings(), [FAILED])
    assert told == []


@pytest.mark.parametrize("address", ["json://127.0.0.1:9/secret-of-the-hook", "no address at all: secret-of-the-hook"])
def test_an_address_that_cannot_be_reached_stops_nothing_is_logged_and_not_named(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="include"):
        assert not notify.tell(Settings(notify=(address,)), [FAILED])
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("include")]
    assert ours == ["a notice could not be delivered to every address of NIGHTSHIFT_NOTIFY; its verdicts are in ops.contract_results"]


def test_addresses_are_read_from_the_environment_and_never_shown() -> None:
    settings = settings_module.load({"NIGHTSHIFT_NOTIFY": " json://a/secret  mailto://b "})
    assert settings.notify == ("json://a/secret", "mailto://b")
    assert "secret" not in repr(settings)
