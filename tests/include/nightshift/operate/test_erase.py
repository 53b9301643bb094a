"""Asking for an erasure as a person or a program does: the id comes on standard input and goes nowhere but into the request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from include.nightshift.erase import request
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Settings
from include.usecases.card_fraud.usecase import USE_CASE

CARD = "7412906358174205693"


def ask(settings: Settings, *arguments: str, given: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "include.nightshift.operate.erase", *arguments]
    return subprocess.run(line, cwd=ROOT, env=environment(settings), input=given, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def test_a_request_is_prepared_from_standard_input_and_only_its_token_is_printed(settings: Settings) -> None:
    done = ask(settings, "--prepare", given=f"{CARD}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert request.read(settings, USE_CASE, done.stdout.strip()).person == CARD


def test_a_request_whose_run_cannot_be_started_waits_and_says_how_to_go_on(settings: Settings) -> None:
    done = ask(settings, given=CARD)
    [token] = [path.name for path in (settings.home / "erasures").iterdir()]
    assert done.returncode == 1
    assert f"request {token}" in done.stdout
    assert "Start card_fraud_erase with this token later" in done.stderr
    assert CARD not in done.stdout + done.stderr


@pytest.mark.parametrize(("given", "said"), [("", "no id was given"), ("somebody\n", "is no customer_id of card_fraud")])
def test_what_is_no_id_is_refused_and_leaves_nothing(settings: Settings, given: str, said: str) -> None:
    done = ask(settings, given=given)
    assert done.returncode == 1
    assert said in done.stderr
    assert "somebody" not in done.stderr
    assert not (settings.home / "erasures").exists()


def test_an_id_is_taken_from_no_argument(settings: Settings) -> None:
    assert ask(settings, CARD, given=CARD).returncode == 2
    assert not (settings.home / "erasures").exists()
