"""The page of a report and the model card: they say what the report's text says, and whatever it says stays text."""

from __future__ import annotations

import dataclasses
import re
from datetime import date
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from include.nightshift.promote import curves, gates, page, report
from include.nightshift.promote.evidence import Evidence, HeldOut, Provenance, Scored
from include.nightshift.promote.question import IMPROVE
from include.nightshift.promote.verdict import Verdict
from include.usecases.card_fraud.usecase import USE_CASE

HOSTILE = "'\"></style><script>alert('1')</script><img src=x onerror=y> & é"
BOUND: dict[str, Any] = {
    "run_id": "run-7",
    "question": IMPROVE.told(),
    "recipe": {"name": "trees", "kind": "trees", "rounds": 100},
    "model_version": "4",
    "model_sha256": "a" * 64,
    "champion_version": "3",
    "as_of": date(2026, 4, 1),
    "holdout_first": date(2026, 3, 1),
    "holdout_last": date(2026, 3, 28),
    "versions": {"gold.card_fraud_features": 12},
    "code": "0123abc",
}
FIGURES = {"candidate_average_precision": 0.7, "champion_average_precision": 0.65, "average_precision_change": 0.05}
FIGURES |= {"average_precision_low": 0.031, "average_precision_high": 0.069}


class Taken(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data


def text(*verdicts: Verdict, **changes: Any) -> str:
    return report.document(gates.Report(verdicts or (Verdict("better", True, ("gain +0.05",), FIGURES),)), **(BOUND | changes))


@pytest.fixture(scope="module")
def drawn() -> curves.Curves:
    dice = np.random.default_rng(1)
    rows = 4000
    target = (dice.random(rows) < 0.05).astype(np.int64)
    day = np.datetime64("2026-03-01") + np.sort(dice.integers(0, 14, rows))
    held = HeldOut(
        nights=14,
        day=day,
        entity=dice.integers(0, 300, rows),
        target=target,
        known_fraud_day=day[:0],
        known_fraud_entity=target[:0],
        first_test_day=date(2026, 3, 1),
        label_delay_days=7,
        list_size=20,
    )
    origin = Provenance(
        contract=(), trained_on=(), reads=(), repeats=0, rows_first=date(2026, 1, 1), rows_last=date(2026, 2, 1),
        champion_rows_last=None, leak_scan=None, parity=(0, 0, 0),
    )  # fmt: skip
    evidence = Evidence(held=held, question=IMPROVE, provenance=origin, judged_before=0, level=0.03)
    scores = [np.clip(0.3 * dice.random(rows) + skill * target * dice.random(rows), 0, 1) for skill in (0.9, 0.4)]
    return curves.curves(evidence, Scored("4", "a", scores[0]), Scored("3", "b", scores[1]))


def test_the_page_says_what_was_asked_what_each_gate_said_and_which_digest_it_is(drawn: curves.Curves) -> None:
    document = text()
    said = Taken(page.render(USE_CASE, document, drawn)).said
    for word in (
        "version 4 against version 3",
        "Asked to improve",
        "gain +0.05",
        "0.7000",
        "+0.0310",
        report.digest(document),
        "2026-03-28",
    ):
        assert word in said, word
    for fact in ("Meant for", "Not meant for", "Owner", "Learnt from", "Persons", "Limits"):
        assert fact in said


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Verdict("clean", False, ("a leak",)), "refused"),
        (Verdict("enough_evidence", False, ("3 positives",), waits=True), "wait"),
    ],
)
def test_a_page_of_a_refusal_or_a_wait_needs_no_drawings_and_says_so(verdict: Verdict, outcome: str) -> None:
    taken = Taken(page.render(USE_CASE, text(verdict, champion_version=None), None))
    assert f"{outcome}" in re.sub(r"\s+", " ", taken.said)
    assert "against nobody" in taken.said
    assert not [tag for tag, _ in taken.tags if tag == "svg"]


def test_whatever_a_report_says_stays_text(drawn: curves.Curves) -> None:
    use_case = dataclasses.replace(USE_CASE, title=HOSTILE, owner=HOSTILE)
    hostile = text(Verdict(HOSTILE, False, (HOSTILE,)), model_version=HOSTILE, champion_version=HOSTILE, code=HOSTILE, run_id=HOSTILE)
    renamed = dataclasses.replace(drawn, models=tuple(dataclasses.replace(model, model_version=HOSTILE) for model in drawn.models))
    taken = Taken(page.render(use_case, hostile, renamed))
    assert {"script", "img"}.isdisjoint(tag for tag, _ in taken.tags)
    assert not any(name.startswith("on") or name == "src" for _, found in taken.tags for name in found)
    assert HOSTILE in taken.said


def test_the_card_names_recipe_rows_and_every_verdict() -> None:
    card = page.card(USE_CASE, text(Verdict("better", True, ("gain",)), Verdict("clean", False, ("a leak",))))
    for word in (
        "# Card fraud, version 4",
        "trees (trees): rounds 100",
        "gold.card_fraud_features 12",
        "- better (passed): gain",
        "- clean (refused)",
    ):
        assert word in card


def test_curves_end_where_all_positives_are_found_and_promise_what_the_scores_say(drawn: curves.Curves) -> None:
    for model in drawn.models:
        assert model.ranking[-1][0] == 1.0
        recalls = [recall for recall, _ in model.ranking]
        assert recalls == sorted(recalls)
        assert len(model.ranking) <= curves.POINTS
        assert all(0 <= promised <= 1 and 0 <= found <= 1 for promised, found in model.reliability)
    assert [week.first for week in drawn.weeks] == ["2026-03-01", "2026-03-08"]
    assert all(week.low < week.estimate < week.high for week in drawn.weeks)
