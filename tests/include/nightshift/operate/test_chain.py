"""Checking the chains as a person does: what is wrong on standard error, the heads on standard output, 1 where a row is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.lakehouse import chain, records
from include.nightshift.lakehouse.tables import ACTS
from include.nightshift.operate import chain as program
from include.nightshift.operate.environment import nightshift_variables
from include.nightshift.operate.rest import Airflow
from include.nightshift.settings import Settings

Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def check(records_home: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the program; its status, what it printed, and what it said on standard error."""
    for name, value in nightshift_variables(records_home).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = program.main(arguments)
        return (status, *capsys.readouterr())

    return run


def test_faults_and_heads_are_printed_and_a_chain_that_was_cut_is_found_by_what_was_printed_before(
    records_home: Settings, check: Check, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        chain.append(records_home, ACTS, {"act_id": name}, {})
    status, printed, said = check("--heads", "[]")
    assert (status, said) == (0, "0 faults; compared with the heads of 0 times\n")
    assert json.loads(printed) == chain.heads(records_home)
    kept = tmp_path / "kept.json"
    kept.write_text(printed)
    assert check("--heads", str(kept))[0] == 0

    records.amend(records_home, ACTS, lambda held: [row for row in held if row["act_id"] == "a"])
    assert check("--heads", "[]")[0] == 0
    status, _, said = check("--heads", printed)
    assert status == 1
    assert "nightshift: ops.acts row 2: a kept head says 2:" in said
    assert "it is gone, and all after it" in said

    records.amend(records_home, ACTS, lambda held: [row | {"why": "another"} for row in held])
    status, _, said = check("--heads", "[]")
    assert (status, "nightshift: ops.acts row 1: it was altered" in said) == (1, True)


def test_an_audit_log_that_cannot_be_read_is_no_check_that_passed(check: Check) -> None:
    status, printed, said = check()
    assert (status, printed) == (1, "")
    assert "rows cut from a chain's end would not be missed" in said


@pytest.mark.parametrize("text", ["{", "nowhere.json", '{"ops.acts": "newest"}', '["ops.acts"]', "3"])
def test_what_are_no_heads_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(program.ConfigurationError, match="is no heads"):
        program.given(text)


def test_the_audit_log_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch, records_home: Settings) -> None:
    held: list[dict[str, Any]] = [{"extra": json.dumps({"ops.acts": f"{number}:a"})} for number in range(1, 251)]

    def call(self: Airflow, method: str, path: str) -> Any:
        asked = dict(part.split("=") for part in path.partition("?")[2].split("&"))
        assert (path.partition("?")[0], asked["event"], asked["order_by"]) == ("/eventLogs", "nightshift.chain", "event_log_id")
        begin = int(asked["offset"])
        return {"event_logs": held[begin : begin + int(asked["limit"])], "total_entries": len(held)}

    monkeypatch.setattr(Airflow, "__init__", lambda self, settings, user: None)
    monkeypatch.setattr(Airflow, "call", call)
    assert [kept["ops.acts"] for kept in program.audited(records_home)] == [f"{number}:a" for number in range(1, 251)]
