"""Report: its text binds all that an approval is an approval of, and its digest is known for good."""

from __future__ import annotations

import dataclasses
import json
from datetime import date
from enum import Enum
from typing import Any

import pytest

from include.nightshift.promote import gates, report
from include.nightshift.promote.verdict import Verdict
from include.nightshift.usecase import GatePolicy

NIGHT, POLICY = date(2026, 3, 15), GatePolicy()
GAIN = Verdict("better", True, ("gain",), {"candidate_average_precision": 0.5})
PASSED = gates.Report((GAIN,))
BOUND: dict[str, Any] = {"model_sha256": "a" * 64, "versions": {"gold.card_fraud_features": 12}, "policy": POLICY}


def digest(said: gates.Report, **bound: Any) -> str:
    return report.digest(report.document(said, **bound))


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "a" * 63 + "b"},
        {"versions": {"gold.card_fraud_features": 13}},
        {"versions": {"gold.card_fraud_feature": 12}},
        {"policy": dataclasses.replace(POLICY, min_gain=0.011)},
        {"night": NIGHT},
        {"passed": True},
    ],
)
def test_digest_changes_with_anything_that_is_bound(change: dict[str, Any]) -> None:
    assert digest(PASSED, **BOUND) != digest(PASSED, **(BOUND | change))


def test_digest_changes_with_each_part_of_a_verdict_and_with_nothing_else() -> None:
    own = digest(PASSED, **BOUND)
    others: list[dict[str, Any]] = [
        {"gate": "worse"},
        {"passed": False},
        {"passed": False, "waits": True},
        {"reasons": ("gain!",)},
        {"figures": {"candidate_average_precision": 0.5000000000000001}},
    ]
    digests = {digest(gates.Report((dataclasses.replace(GAIN, **change),)), **BOUND) for change in others}
    assert len(digests | {own}) == len(others) + 1
    assert digest(gates.Report((dataclasses.replace(GAIN),)), **dict(reversed(BOUND.items()))) == own


def test_a_text_is_read_back_as_it_was_and_a_forged_pass_is_not_believed() -> None:
    refused = gates.Report((GAIN, Verdict("clean", False, ("a leak",))))
    text = report.document(refused, night=NIGHT)
    assert report.read(text) == (refused, {"night": "2026-03-15"})
    forged = json.dumps(json.loads(text) | {"passed": True, "outcome": "passed"})
    assert not report.read(forged)[0].passed
    assert report.digest(forged) != report.digest(text)


def test_digest_is_a_known_one() -> None:
    # Approvals given before an upgrade must still be found after it.
    class Role(Enum):
        CHAMPION = "champion"

    seen = digest(PASSED, night=NIGHT, role=Role.CHAMPION, sizes=(1, 2))
    assert seen == digest(PASSED, night="2026-03-15", role="champion", sizes=[1, 2])
    assert seen == "781092141d1f3061003f087ec7edfafe868611cd71fe91cd7ee3a1ed3eadea88"
    assert report.document(PASSED, by="Zoë").isascii()


@pytest.mark.parametrize(("bound", "error"), [({"x": object()}, TypeError), ({"x": {1, 2}}, TypeError), ({"x": float("nan")}, ValueError)])
def test_digest_refuses_what_has_no_canonical_form(bound: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        digest(gates.Report(()), **bound)
