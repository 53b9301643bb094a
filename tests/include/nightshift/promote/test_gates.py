"""A small zoo of bad models: each must turn the gate red that is there for it, and every gate must have spoken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import date, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.nightshift.errors import RegistryError
from include.nightshift.promote import gates
from include.nightshift.promote.gates import Evidence, Scored
from include.nightshift.promote.verdict import Verdict
from include.nightshift.usecase import GatePolicy

FIRST = date(2026, 3, 15)
POLICY = GatePolicy(min_frauds=40)
ALL = ["enough_evidence", "sound_scores", "not_itself", "better", "card_precision"]
ROWS = 3500


def _evidence() -> Evidence:
    random = np.random.default_rng(11)
    day = np.array([FIRST + timedelta(days=offset) for offset in range(7)], dtype="datetime64[D]").repeat(ROWS // 7)
    target = (random.random(ROWS) < 0.03).astype(np.int64)
    entity = random.integers(0, 900, ROWS)
    known = np.array([FIRST - timedelta(days=9)], dtype="datetime64[D]")
    return Evidence(
        day=day,
        entity=entity,
        target=target,
        known_fraud_day=np.concatenate([known, day[target == 1]]),
        known_fraud_entity=np.concatenate([[3], entity[target == 1]]),
        first_test_day=FIRST,
        label_delay_days=7,
        list_size=20,
    )


EVIDENCE = _evidence()


def scores_of(skill: float, seed: int = 5) -> np.ndarray:
    """Probabilities that separate the classes by `skill` standard deviations."""
    return 1 / (1 + np.exp(-(np.random.default_rng(seed).normal(size=ROWS) + skill * EVIDENCE.target - 2)))


CHAMPION = Scored("3", "c" * 64, scores_of(1.5))
GOOD = Scored("4", "a" * 64, scores_of(3))


def red(report: gates.Report) -> set[str]:
    assert [verdict.gate for verdict in report.verdicts] == ALL, "every gate has spoken, once, in order"
    assert all(verdict.reasons for verdict in report.verdicts)
    json.dumps(report.as_dict(), allow_nan=False)
    return {verdict.gate for verdict in report.verdicts if not verdict.passed}


def with_scores(change: Callable[[np.ndarray], np.ndarray]) -> Scored:
    return dataclasses.replace(GOOD, scores=change(GOOD.scores))


def test_truly_better_model_passes_every_gate() -> None:
    report = gates.judge(GOOD, CHAMPION, EVIDENCE, POLICY)
    assert red(report) == set()
    assert report.passed
    own, theirs = EVIDENCE.measure(GOOD.scores), EVIDENCE.measure(CHAMPION.scores)
    assert report.figures == {
        f"{role}_{metric}": figure for role, seen in (("candidate", own), ("champion", theirs)) for metric, figure in vars(seen).items()
    }
    assert own.average_precision > theirs.average_precision + 0.1
    assert len(report.reasons) == len(ALL)


ZOO: dict[str, tuple[Scored, Any, dict[str, Any], set[str]]] = {
    "wrong sign": (with_scores(lambda s: 1 - s), CHAMPION, {}, {"better", "card_precision"}),
    "wrong sign, nobody reigns": (with_scores(lambda s: 1 - s), None, {}, {"better"}),
    "constant": (with_scores(lambda s: np.full(ROWS, 0.5)), CHAMPION, {}, {"sound_scores", "better", "card_precision"}),
    "tie": (dataclasses.replace(CHAMPION, model_version="4", model_sha256="a" * 64), CHAMPION, {}, {"better"}),
    "tie where no gain is asked": (
        dataclasses.replace(CHAMPION, model_version="4", model_sha256="a" * 64),
        CHAMPION,
        {"min_gain": 0.0},
        {"better"},
    ),
    "the champion itself": (CHAMPION, CHAMPION, {}, {"not_itself", "better"}),
    "the champion's file under a new version": (
        dataclasses.replace(GOOD, model_sha256=CHAMPION.model_sha256),
        CHAMPION,
        {},
        {"not_itself"},
    ),
    "another file under the champion's version": (dataclasses.replace(GOOD, model_version="3"), CHAMPION, {}, {"not_itself"}),
    "no hash": (dataclasses.replace(GOOD, model_sha256=""), CHAMPION, {}, {"not_itself"}),
    "no hash, nobody reigns": (dataclasses.replace(GOOD, model_sha256=""), None, {}, {"not_itself"}),
    "one NaN": (with_scores(lambda s: np.r_[np.nan, s[1:]]), CHAMPION, {}, {"sound_scores", "better", "card_precision"}),
    "all NaN": (with_scores(lambda s: s * np.nan), CHAMPION, {}, {"sound_scores", "better", "card_precision"}),
    "infinite": (with_scores(lambda s: np.r_[np.inf, s[1:]]), CHAMPION, {}, {"sound_scores", "better", "card_precision"}),
    "log odds, not probabilities": (with_scores(lambda s: np.log(s / (1 - s))), CHAMPION, {}, {"sound_scores"}),
    "per cent": (with_scores(lambda s: 100 * s), CHAMPION, {}, {"sound_scores"}),
    "a hair below zero": (with_scores(lambda s: s - s.min() - 1e-9), CHAMPION, {}, {"sound_scores"}),
    "short array": (with_scores(lambda s: s[:-1]), CHAMPION, {}, {"sound_scores", "better", "card_precision"}),
    "two columns": (with_scores(lambda s: np.column_stack([1 - s, s])), CHAMPION, {}, {"sound_scores", "better", "card_precision"}),
    "no scores": (with_scores(lambda s: s[:0]), CHAMPION, {}, {"sound_scores", "better", "card_precision"}),
    "champion short of a row": (GOOD, dataclasses.replace(CHAMPION, scores=CHAMPION.scores[1:]), {}, {"better", "card_precision"}),
    "champion with a NaN": (GOOD, dataclasses.replace(CHAMPION, scores=CHAMPION.scores * np.nan), {}, {"better", "card_precision"}),
    "gain too small": (GOOD, CHAMPION, {"min_gain": 0.9}, {"better"}),
    "below the floor, nobody reigns": (GOOD, None, {"floor_average_precision": 1.0}, {"better"}),
    "too few frauds": (GOOD, CHAMPION, {"min_frauds": 1000}, {"enough_evidence"}),
    "a night is missing": (GOOD, CHAMPION, {"holdout_nights": 8}, {"enough_evidence"}),
    "a night too many": (GOOD, CHAMPION, {"holdout_nights": 6}, {"enough_evidence"}),
}


@pytest.mark.parametrize("animal", ZOO)
def test_bad_model_turns_its_gate_red_and_no_gate_stays_silent(animal: str) -> None:
    candidate, champion, change, wanted = ZOO[animal]
    report = gates.judge(candidate, champion, EVIDENCE, dataclasses.replace(POLICY, **change))
    assert red(report) == wanted
    assert not report.passed
    assert {reason.split(":")[0] for reason in report.reasons} == wanted


def test_list_that_got_worse_is_red_although_the_ranking_got_better() -> None:
    # The candidate ranks all rows better, except that on each day it puts twenty innocent cards on top.
    scores = scores_of(6) * 0.9
    for day in np.unique(EVIDENCE.day):
        scores[np.flatnonzero((EVIDENCE.day == day) & (EVIDENCE.target == 0))[:20]] = 0.99
    weak = dataclasses.replace(CHAMPION, scores=scores_of(0.4))
    report = gates.judge(dataclasses.replace(GOOD, scores=scores), weak, EVIDENCE, dataclasses.replace(POLICY, card_precision_margin=0.0))
    assert red(report) == {"card_precision"}


def test_loss_within_the_margin_is_allowed_and_beyond_is_not() -> None:
    worse = dataclasses.replace(GOOD, scores=scores_of(1.3))
    loss = -gates.card_precision(worse, CHAMPION, EVIDENCE, POLICY).figures["card_precision_change"]
    assert loss > 0
    for margin, passed in ((loss + 1e-9, True), (loss - 1e-9, False)):
        policy = dataclasses.replace(POLICY, card_precision_margin=margin)
        assert gates.card_precision(worse, CHAMPION, EVIDENCE, policy).passed is passed


def test_first_model_is_judged_by_the_floor_and_says_so() -> None:
    report = gates.judge(GOOD, None, EVIDENCE, POLICY)
    assert red(report) == set()
    assert report.figures == {f"candidate_{metric}": figure for metric, figure in vars(EVIDENCE.measure(GOOD.scores)).items()}
    assert sum("nobody reigns" in reason for reason in report.reasons) == 3


@pytest.mark.parametrize(
    "error", [RegistryError("MLflow is down"), ConnectionError("refused"), KeyError("average_precision"), AssertionError()]
)
def test_champion_look_up_that_raises_rejects_with_that_reason(error: Exception) -> None:
    def look_up() -> Scored | None:
        raise error

    report = gates.judge(GOOD, look_up, EVIDENCE, dataclasses.replace(POLICY, floor_average_precision=0))
    assert red(report) == {"not_itself", "better", "card_precision"}
    assert not report.passed
    assert all(type(error).__name__ in reason and str(error) in reason for reason in report.reasons)


def test_look_up_is_made_once_and_its_answer_counts() -> None:
    calls: list[int] = []

    def look_up() -> Scored | None:
        calls.append(1)
        return CHAMPION

    assert gates.judge(GOOD, look_up, EVIDENCE, POLICY) == gates.judge(GOOD, CHAMPION, EVIDENCE, POLICY)
    assert calls == [1]
    assert red(gates.judge(GOOD, lambda: None, EVIDENCE, POLICY)) == set()


def test_frauds_of_cards_already_known_are_no_evidence() -> None:
    blocked = dataclasses.replace(
        EVIDENCE,
        known_fraud_day=np.full(ROWS, np.datetime64(FIRST - timedelta(days=8))),
        known_fraud_entity=EVIDENCE.entity,
    )
    report = gates.judge(GOOD, CHAMPION, blocked, POLICY)
    assert red(report) == {"enough_evidence", "better", "card_precision"}


def test_evidence_whose_columns_are_not_aligned_rejects() -> None:
    torn = dataclasses.replace(EVIDENCE, target=EVIDENCE.target[:-1])
    assert {"enough_evidence", "better", "card_precision"} <= red(gates.judge(GOOD, CHAMPION, torn, POLICY))


def test_evidence_from_before_the_fold_rejects() -> None:
    early = dataclasses.replace(EVIDENCE, first_test_day=FIRST + timedelta(days=1))
    assert {"enough_evidence", "better", "card_precision"} <= red(gates.judge(GOOD, CHAMPION, early, POLICY))


def test_report_without_verdicts_has_not_passed() -> None:
    assert not gates.Report(()).passed


def test_report_read_back_is_the_same_and_a_forged_pass_is_not_believed() -> None:
    report = gates.judge(with_scores(lambda s: 1 - s), CHAMPION, EVIDENCE, POLICY)
    plain = json.loads(json.dumps(report.as_dict()))
    assert gates.Report.from_dict(plain) == report
    assert gates.digest(gates.Report.from_dict(plain), night=FIRST) == gates.digest(report, night=FIRST)
    assert not gates.Report.from_dict(plain | {"passed": True}).passed


BOUND: dict[str, Any] = {"model_sha256": "a" * 64, "versions": {"gold.card_fraud_features": 12}, "policy": POLICY}


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "a" * 63 + "b"},
        {"versions": {"gold.card_fraud_features": 13}},
        {"versions": {"gold.card_fraud_feature": 12}},
        {"policy": dataclasses.replace(POLICY, min_gain=0.011)},
        {"night": FIRST},
        {"passed": True},
    ],
)
def test_digest_changes_with_anything_that_is_bound(change: dict[str, Any]) -> None:
    report = gates.judge(GOOD, CHAMPION, EVIDENCE, POLICY)
    assert gates.digest(report, **BOUND) != gates.digest(report, **(BOUND | change))


def test_digest_changes_with_each_part_of_a_verdict_and_with_nothing_else() -> None:
    verdict = Verdict("better", True, ("gain",), {"gain": 0.02})
    own = gates.digest(gates.Report((verdict,)), **BOUND)
    for change in ({"gate": "worse"}, {"passed": False}, {"reasons": ("gain!",)}, {"figures": {"gain": 0.020000000000000004}}):
        assert gates.digest(gates.Report((dataclasses.replace(verdict, **change),)), **BOUND) != own
    assert gates.digest(gates.Report((dataclasses.replace(verdict),)), **dict(reversed(BOUND.items()))) == own


def test_digest_is_a_known_one() -> None:
    # Approvals given before an upgrade must still be found after it.
    report = gates.Report((Verdict("better", True, ("gain",), {"candidate_average_precision": 0.5}),))

    class Role(Enum):
        CHAMPION = "champion"

    seen = gates.digest(report, night=FIRST, table=Path("a/b"), role=Role.CHAMPION, sizes=(1, 2))
    assert seen == gates.digest(report, night="2026-03-15", table="a/b", role="champion", sizes=[1, 2])
    assert seen == "ef77a9ee1ad811855450ee54f1202c679c163b41a7fa18294d34cdf8a1601bf3"


@pytest.mark.parametrize(("bound", "error"), [({"x": object()}, TypeError), ({"x": {1, 2}}, TypeError), ({"x": float("nan")}, ValueError)])
def test_digest_refuses_what_has_no_canonical_form(bound: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        gates.digest(gates.Report(()), **bound)
