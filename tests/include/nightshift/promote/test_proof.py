"""What speaks for a model and what against it, by one use case's papers: every flaw is said, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.nightshift.lakehouse import tables
from include.nightshift.promote import report as reports
from include.nightshift.promote.gates import Report
from include.nightshift.promote.proof import APPROVE, BOUND, REJECT, VOID, Papers, written
from include.nightshift.promote.verdict import Verdict

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
SAID = {
    "use_case": "card_fraud",
    "model_version": "2",
    "model_sha256": "b" * 64,
    "champion_version": "1",
    "champion_sha256": "a" * 64,
    "baseline_sha256": "0" * 64,
}
Row = dict[str, Any]


def judged(text: str | None = None, **columns: Any) -> Row:
    text = text or reports.document(Report((Verdict("better", True, ("it is",)),)), **SAID)
    return SAID | {"seq": 2, "report_digest": reports.digest(text), "document": text, "passed": True} | columns


REPORT = judged()
DIGEST = REPORT["report_digest"]


def answered(answer: str = APPROVE, **columns: Any) -> Row:
    own = {"seq": 2, "report_digest": DIGEST, "by": "ann", "answer": answer, "model_version": "2", "expires_at": NOW + timedelta(hours=1)}
    return own | columns


REIGN = {"seq": 2, "report_digest": DIGEST, "model_version": "2", "model_sha256": "b" * 64}
SOUND = Papers(
    history=[REIGN], reports=[judged("{}", seq=1), REPORT], answers=[answered(REJECT, seq=1, report_digest="other"), answered()], broken={}
)


def test_nothing_speaks_against_a_model_whose_papers_are_in_order() -> None:
    assert SOUND.against_report(DIGEST) == []
    assert SOUND.against_answer(DIGEST, NOW) == []
    assert SOUND.against_answer(DIGEST, None) == []
    assert SOUND.against_reign(REIGN) == []
    assert (SOUND.report(DIGEST), SOUND.answer(DIGEST)) == (REPORT, answered())
    assert SOUND.report("f" * 64) is None


@pytest.mark.parametrize(("found", "count"), [([], 0), ([REPORT, REPORT], 2)])
def test_there_is_one_report_or_its_model_does_not_reign(found: list[Row], count: int) -> None:
    papers = replace(SOUND, reports=found)
    assert papers.against_report(DIGEST) == [f"ops.gate_reports holds {count} reports {DIGEST[:12]}, expected one"]
    assert papers.against_reign(REIGN) == papers.against_report(DIGEST)


@pytest.mark.parametrize("column", BOUND)
def test_a_column_that_says_what_the_document_does_not_is_named(column: str) -> None:
    papers = replace(SOUND, reports=[REPORT | {column: "forged"}])
    [said] = papers.against_report(DIGEST)
    assert said == f"report {DIGEST[:12]}: its column {column} says forged, its document {SAID[column]}"


def test_a_report_that_did_not_pass_says_so_and_a_pass_that_its_verdicts_deny_is_not_believed() -> None:
    text = reports.document(Report((Verdict("better", False, ("it is not",)),)), **SAID)
    digest = reports.digest(text)
    failed = replace(SOUND, reports=[judged(text, passed=False)])
    assert failed.against_report(digest) == [f"report {digest[:12]} did not pass the gates"]
    forged = replace(SOUND, reports=[judged(text)])
    assert forged.against_report(digest) == [f"report {digest[:12]}: its column passed says True, its document False"]
    assert len(replace(SOUND, reports=[REPORT | {"passed": 1}]).against_report(DIGEST)) == 1, "true is what a gate says, not a number"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (REPORT | {"document": None}, "has no document: it is of an earlier version, so train and judge anew"),
        (REPORT | {"document": "{}"}, f"has the digest {reports.digest('{}')[:12]}: it was altered after it was judged"),
        (judged("[]"), "has a document that is none (TypeError: list indices must be integers or slices, not str)"),
        (judged("x"), "has a document that is none (JSONDecodeError: Expecting value: line 1 column 1 (char 0))"),
        (judged("{}"), "has a document that is none (KeyError: 'verdicts')"),
    ],
)
def test_a_document_that_does_not_vouch_for_its_row_is_said_once(row: Row, said: str) -> None:
    digest = row["report_digest"]
    assert replace(SOUND, reports=[row]).against_report(digest) == [f"report {digest[:12]} {said}"]


def test_a_row_that_the_chain_does_not_hold_is_said_for_that_row_alone() -> None:
    others = {(str(table), 1): "altered" for table in (tables.GATE_REPORTS, tables.APPROVALS, tables.CHAMPION_HISTORY)}
    assert replace(SOUND, broken=others).against_reign(REIGN) == []
    for table in (tables.GATE_REPORTS, tables.APPROVALS, tables.CHAMPION_HISTORY):
        papers = replace(SOUND, broken={(str(table), 2): "altered"})
        assert papers.against_reign(REIGN) == [f"its {table} row does not hold: altered"]


def test_without_an_answer_nobody_reigns() -> None:
    for at in (NOW, None):
        assert replace(SOUND, answers=[]).against_answer(DIGEST, at) == [f"nobody answered for report {DIGEST[:12]}"]


@pytest.mark.parametrize("no", [REJECT, VOID])
def test_the_newest_answer_counts_before_a_promotion_and_a_later_one_unseats_nobody(no: str) -> None:
    refused = [f"ann answered {no} for report {DIGEST[:12]}"]
    assert replace(SOUND, answers=[answered(no)]).against_answer(DIGEST, None) == refused
    taken_back = replace(SOUND, answers=[answered(), answered(no, seq=3)])
    assert taken_back.against_answer(DIGEST, NOW) == refused
    assert taken_back.against_answer(DIGEST, None) == []
    assert replace(SOUND, answers=[answered(no), answered(seq=3)]).against_answer(DIGEST, NOW) == []
    assert taken_back.answer(DIGEST)["answer"] == no


def test_an_approval_is_valid_to_the_second_that_it_names_and_counts_for_good_once_it_was_used() -> None:
    until = answered()["expires_at"]
    assert SOUND.against_answer(DIGEST, until) == []
    [said] = SOUND.against_answer(DIGEST, until + timedelta(seconds=1))
    assert said == f"ann's approval of report {DIGEST[:12]} was valid until 2026-03-01 10:00 UTC"
    assert SOUND.against_answer(DIGEST, None) == []
    assert replace(SOUND, answers=[answered(expires_at=None)]).against_answer(DIGEST, NOW + timedelta(days=999)) == []


def test_an_approval_is_of_the_version_that_the_report_is_of() -> None:
    papers = replace(SOUND, answers=[answered(model_version="9")])
    assert papers.against_answer(DIGEST, NOW) == ["ann approved version 9, the report is of 2"]
    assert replace(papers, reports=[]).against_answer(DIGEST, NOW) == []
    assert replace(SOUND, answers=[answered(model_version=None)]).against_answer(DIGEST, NOW) == []


@pytest.mark.parametrize("column", ["model_version", "model_sha256"])
def test_a_reign_of_another_model_than_its_reports_is_said(column: str) -> None:
    assert SOUND.against_reign(REIGN | {column: "9"}) == [f"the history says {column} 9, its report {REPORT[column]}"]


def test_a_reign_without_a_report_has_neither_report_nor_answer() -> None:
    assert SOUND.against_reign(REIGN | {"report_digest": None}) == [
        "ops.gate_reports holds 0 reports , expected one",
        "nobody answered for report ",
    ]


def test_rows_come_in_the_order_of_their_places_and_one_without_a_seal_is_not_looked_at_beside_sealed_ones() -> None:
    first, second, put_in = {"seq": 1, "seal": "x"}, {"seq": 2, "seal": "y"}, {"seq": None, "seal": None}
    assert written([second, put_in, first]) == [first, second]
    assert written([{"seq": 10, "seal": "x"}, {"seq": 9, "seal": "y"}])[0]["seq"] == 9
    old = [{"seq": None, "seal": None}, put_in | {"of": "an earlier version"}]
    assert written(old) == old
    unnumbered = {"seq": None, "seal": "x"}
    assert written([first, unnumbered]) == [unnumbered, first]
