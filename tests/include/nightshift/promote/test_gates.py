"""A zoo of bad models: each must turn the gate red that is there for it, every gate must have spoken, and that gate alone refuses it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from include.nightshift.errors import RegistryError
from include.nightshift.promote import gates
from include.nightshift.promote.evidence import Evidence, HeldOut, Provenance, Scored, level
from include.nightshift.promote.question import FIRST as FIRST_MODEL
from include.nightshift.promote.question import IMPROVE, Kind, Question
from include.nightshift.usecase import GatePolicy

FIRST = date(2026, 3, 15)
POLICY = GatePolicy(min_frauds=40)
ALL = [
    *("enough_evidence", "sound_scores", "signature", "disjoint", "clean"),
    *("not_itself", "better", "card_precision", "calibration"),
]
COMPARED = {"better", "card_precision", "calibration"}
ROWS = 7000
FEATURES = ("amount", "risk", "count")


def _held() -> HeldOut:
    random = np.random.default_rng(11)
    day = np.array([FIRST + timedelta(days=offset) for offset in range(14)], dtype="datetime64[D]").repeat(ROWS // 14)
    target = (random.random(ROWS) < 0.03).astype(np.int64)
    entity = random.integers(0, 900, ROWS)
    known = np.array([FIRST - timedelta(days=9)], dtype="datetime64[D]")
    return HeldOut(
        nights=14,
        day=day,
        entity=entity,
        target=target,
        clusters=(random.integers(0, 300, ROWS),),
        known_fraud_day=np.concatenate([known, day[target == 1]]),
        known_fraud_entity=np.concatenate([[3], entity[target == 1]]),
        first_test_day=FIRST,
        label_delay_days=7,
        list_size=20,
    )


PROVENANCE = Provenance(
    contract=(*FEATURES, "new"),
    trained_on=FEATURES,
    reads=FEATURES,
    repeats=0.0,
    rows_first=FIRST - timedelta(days=60),
    rows_last=FIRST - timedelta(days=8),
    champion_rows_last=None,
    leak_scan=(True, "3 features of 40 events stood still in 12 changed worlds"),
    parity=(14, 14, 0),
)
EVIDENCE = Evidence(held=_held(), question=IMPROVE, provenance=PROVENANCE, judged_before=0, level=level(0.05, 0))
HELD = EVIDENCE.held


def asked(question: Question, **changes: Any) -> Evidence:
    return dataclasses.replace(EVIDENCE, question=question, **changes)


def made(**changes: Any) -> Evidence:
    """The evidence of a candidate that was made otherwise."""
    return dataclasses.replace(EVIDENCE, provenance=dataclasses.replace(PROVENANCE, **changes))


def held(**changes: Any) -> Evidence:
    return dataclasses.replace(EVIDENCE, held=dataclasses.replace(HELD, **changes))


def scores_of(skill: float, seed: int = 5) -> np.ndarray:
    """Probabilities that know a row's class by `skill` standard deviations, and say what they know: by Bayes, of two normals."""
    seen = np.random.default_rng(seed).normal(size=ROWS) + skill * HELD.target
    return 1 / (1 + np.exp(-(skill * seen - skill**2 / 2 + np.log(0.03 / 0.97))))


CHAMPION = Scored("3", "c" * 64, scores_of(1.5))
GOOD = Scored("4", "a" * 64, scores_of(3))
OTHER = {"model_version": "4", "model_sha256": "a" * 64}


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
    assert report.outcome == "passed"
    own, theirs = HELD.measure(GOOD.scores), HELD.measure(CHAMPION.scores)
    for role, seen in (("candidate", own), ("champion", theirs)):
        assert report.figures.items() >= {f"{role}_{metric}": figure for metric, figure in vars(seen).items()}.items()
    assert own.average_precision > theirs.average_precision + 0.1
    assert len(report.reasons) == len(ALL) + 3


ZOO: dict[str, tuple[Scored, Any, Evidence, dict[str, Any], set[str]]] = {
    # What it says
    "wrong sign": (with_scores(lambda s: 1 - s), CHAMPION, EVIDENCE, {}, COMPARED),
    "wrong sign, nobody reigns": (with_scores(lambda s: 1 - s), None, asked(FIRST_MODEL), {}, {"better", "calibration"}),
    "constant": (with_scores(lambda s: np.full(ROWS, 0.5)), CHAMPION, EVIDENCE, {}, {"sound_scores", *COMPARED}),
    "one NaN": (with_scores(lambda s: np.r_[np.nan, s[1:]]), CHAMPION, EVIDENCE, {}, {"sound_scores", *COMPARED}),
    "all NaN": (with_scores(lambda s: s * np.nan), CHAMPION, EVIDENCE, {}, {"sound_scores", *COMPARED}),
    "infinite": (with_scores(lambda s: np.r_[np.inf, s[1:]]), CHAMPION, EVIDENCE, {}, {"sound_scores", *COMPARED}),
    "log odds, not probabilities": (with_scores(lambda s: np.log(s / (1 - s))), CHAMPION, EVIDENCE, {}, {"sound_scores", "calibration"}),
    "per cent": (with_scores(lambda s: 100 * s), CHAMPION, EVIDENCE, {}, {"sound_scores", "calibration"}),
    "a hair below zero": (with_scores(lambda s: s - s.min() - 1e-9), CHAMPION, EVIDENCE, {}, {"sound_scores"}),
    "short array": (with_scores(lambda s: s[:-1]), CHAMPION, EVIDENCE, {}, {"sound_scores", *COMPARED}),
    "two columns": (with_scores(lambda s: np.column_stack([1 - s, s])), CHAMPION, EVIDENCE, {}, {"sound_scores", *COMPARED}),
    "no scores": (with_scores(lambda s: s[:0]), CHAMPION, EVIDENCE, {}, {"sound_scores", *COMPARED}),
    "promises three times too much": (with_scores(lambda s: 3 * s / (1 + 2 * s)), CHAMPION, EVIDENCE, {}, {"calibration"}),
    "promises a third": (with_scores(lambda s: s / (3 - 2 * s)), CHAMPION, EVIDENCE, {}, {"calibration"}),
    # How much better it is
    "tie": (dataclasses.replace(CHAMPION, **OTHER), CHAMPION, EVIDENCE, {}, {"better"}),
    "tie where no gain is asked": (dataclasses.replace(CHAMPION, **OTHER), CHAMPION, EVIDENCE, {"min_gain": 0.0}, {"better"}),
    "tie where the world has changed": (
        *(dataclasses.replace(CHAMPION, **OTHER), CHAMPION, asked(Question(kind=Kind.RECOVER, changed_on=FIRST)), {}, {"better"}),
    ),
    "a noise twin": (
        dataclasses.replace(GOOD, scores=scores_of(1.5, seed=8)),
        CHAMPION,
        EVIDENCE,
        {"card_precision_margin": 0.1},
        {"better"},
    ),
    "gain too small": (GOOD, CHAMPION, EVIDENCE, {"min_gain": 0.9}, {"better"}),
    "below the floor, nobody reigns": (GOOD, None, asked(FIRST_MODEL), {"floor_average_precision": 1.0}, {"better"}),
    "believes too much, nobody reigns": (with_scores(lambda s: s**0.3), None, asked(FIRST_MODEL), {}, {"calibration"}),
    "worse where a refresh may lose a little": (
        *(dataclasses.replace(CHAMPION, **OTHER), dataclasses.replace(GOOD, model_version="5", model_sha256="d" * 64)),
        *(asked(Question(kind=Kind.REFRESH)), {}, COMPARED),
    ),
    "asked as a first model, and somebody reigns": (GOOD, CHAMPION, asked(FIRST_MODEL), {}, {"better"}),
    "asked to improve, and nobody reigns": (GOOD, None, EVIDENCE, {}, {"better"}),
    # Who it is
    "the champion itself": (CHAMPION, CHAMPION, EVIDENCE, {}, {"not_itself", "better"}),
    "the champion's file under a new version": (
        *(dataclasses.replace(GOOD, model_sha256=CHAMPION.model_sha256), CHAMPION, EVIDENCE, {}, {"not_itself"}),
    ),
    "another file under the champion's version": (dataclasses.replace(GOOD, model_version="3"), CHAMPION, EVIDENCE, {}, {"not_itself"}),
    "no hash": (dataclasses.replace(GOOD, model_sha256=""), CHAMPION, EVIDENCE, {}, {"not_itself"}),
    "no hash, nobody reigns": (dataclasses.replace(GOOD, model_sha256=""), None, asked(FIRST_MODEL), {}, {"not_itself"}),
    # Whom it met
    "champion short of a row": (GOOD, dataclasses.replace(CHAMPION, scores=CHAMPION.scores[1:]), EVIDENCE, {}, COMPARED),
    "champion with a NaN": (GOOD, dataclasses.replace(CHAMPION, scores=CHAMPION.scores * np.nan), EVIDENCE, {}, COMPARED),
    # How it was made
    "features in another order": (GOOD, CHAMPION, made(reads=("risk", "amount", "count")), {}, {"signature"}),
    "one feature fewer": (GOOD, CHAMPION, made(reads=FEATURES[:2]), {}, {"signature"}),
    "a feature that is no longer built": (GOOD, CHAMPION, made(contract=FEATURES[1:]), {}, {"signature"}),
    "scores otherwise than when it was made": (GOOD, CHAMPION, made(repeats=1e-3), {}, {"signature"}),
    "scores as nobody knows": (GOOD, CHAMPION, made(repeats=float("nan")), {}, {"signature"}),
    "no probe": (GOOD, CHAMPION, made(repeats=None), {}, {"signature"}),
    "trained on test days": (GOOD, CHAMPION, made(rows_last=FIRST), {}, {"disjoint"}),
    "trained on a night whose verdicts were not in": (GOOD, CHAMPION, made(rows_last=FIRST - timedelta(days=7)), {}, {"disjoint"}),
    "a leaky feature": (GOOD, CHAMPION, made(leak_scan=(False, "risk moved with later verdicts")), {}, {"clean"}),
    "features that nobody scanned": (GOOD, CHAMPION, made(leak_scan=None), {}, {"clean"}),
    "scored rows that silver does not give": (GOOD, CHAMPION, made(parity=(14, 14, 1)), {}, {"clean"}),
    "scored rows that nobody compared": (GOOD, CHAMPION, made(parity=(14, 13, 0)), {}, {"clean"}),
    # What it was judged on
    "too few frauds": (GOOD, CHAMPION, EVIDENCE, {"min_frauds": 1000}, {"enough_evidence"}),
    "a night is missing": (GOOD, CHAMPION, held(nights=15), {}, {"enough_evidence"}),
    "a night too many": (GOOD, CHAMPION, held(nights=13), {}, {"enough_evidence"}),
    "nights from before the change": (
        *(GOOD, CHAMPION, asked(Question(kind=Kind.RECOVER, changed_on=FIRST + timedelta(days=1))), {}, {"enough_evidence"}),
    ),
}
WAITS = {"too few frauds", "a night is missing", "nights from before the change"}


@pytest.mark.parametrize("animal", ZOO)
def test_bad_model_turns_its_gate_red_and_no_gate_stays_silent(animal: str) -> None:
    candidate, champion, evidence, change, wanted = ZOO[animal]
    report = gates.judge(candidate, champion, evidence, dataclasses.replace(POLICY, **change))
    assert red(report) == wanted
    assert not report.passed
    assert report.outcome == ("wait" if animal in WAITS else "refused")
    assert {reason.split(":")[0] for reason in report.reasons} == wanted


@pytest.mark.parametrize("animal", ZOO)
def test_each_gate_that_is_red_refuses_the_bad_model_alone(animal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, champion, evidence, change, wanted = ZOO[animal]
    for name in wanted:
        monkeypatch.setattr(gates, "ALONE", ())
        monkeypatch.setattr(gates, "AGAINST_CHAMPION", (getattr(gates, name),))
        assert not gates.judge(candidate, champion, evidence, dataclasses.replace(POLICY, **change)).passed


def test_list_that_got_worse_is_red_although_the_ranking_got_better() -> None:
    # The candidate ranks all rows better, except that on each day it puts twenty innocent cards on top.
    scores = scores_of(6) * 0.9
    for day in np.unique(HELD.day):
        scores[np.flatnonzero((HELD.day == day) & (HELD.target == 0))[:20]] = 0.99
    weak = dataclasses.replace(CHAMPION, scores=scores_of(0.4))
    lenient = dataclasses.replace(POLICY, card_precision_margin=0.0, calibration_margin=10.0)
    assert red(gates.judge(dataclasses.replace(GOOD, scores=scores), weak, EVIDENCE, lenient)) == {"card_precision"}


@pytest.mark.parametrize(
    ("gate", "margin", "bound"),
    [(gates.card_precision, "card_precision_margin", "card_precision_low"), (gates.better, "margin", "average_precision_low")],
)
def test_a_bound_within_the_margin_is_allowed_and_beyond_is_not(gate: gates.Gate, margin: str, bound: str) -> None:
    worse, evidence = dataclasses.replace(GOOD, scores=scores_of(1.4)), asked(Question(kind=Kind.REFRESH))
    low = gate(worse, CHAMPION, evidence, POLICY).figures[bound]
    assert low < 0
    for allowed, passed in ((-low + 1e-9, True), (-low - 1e-9, False)):
        assert gate(worse, CHAMPION, evidence, dataclasses.replace(POLICY, **{margin: allowed})).passed is passed


def test_what_is_just_enough_is_enough() -> None:
    """Bounds that may be reached: as many frauds as are needed, the floor itself, a loss as large as is allowed, the last night that may
    have been seen, a score that is off by what arithmetic is."""
    frauds = int(gates.enough_evidence(GOOD, CHAMPION, EVIDENCE, POLICY).figures["frauds"])
    for owed, passed in ((frauds, True), (frauds + 1, False)):
        assert gates.enough_evidence(GOOD, CHAMPION, EVIDENCE, dataclasses.replace(POLICY, min_frauds=owed)).passed is passed
    own = HELD.measure(GOOD.scores).average_precision
    for floor, passed in ((own, True), (float(np.nextafter(own, 1)), False)):
        assert gates.better(GOOD, None, asked(FIRST_MODEL), dataclasses.replace(POLICY, floor_average_precision=floor)).passed is passed
    worse = dataclasses.replace(GOOD, scores=scores_of(1.4))
    low = gates.card_precision(worse, CHAMPION, EVIDENCE, POLICY).figures["card_precision_low"]
    assert gates.card_precision(worse, CHAMPION, EVIDENCE, dataclasses.replace(POLICY, card_precision_margin=-low)).passed
    sharp = with_scores(lambda s: s**0.7)
    promised = gates.calibration(sharp, None, asked(FIRST_MODEL), POLICY).figures["candidate_calibration_error"]
    for floor, passed in ((promised, True), (float(np.nextafter(promised, 0)), False)):
        assert gates.calibration(sharp, None, asked(FIRST_MODEL), dataclasses.replace(POLICY, floor_calibration=floor)).passed is passed
    tie = dataclasses.replace(CHAMPION, **OTHER)
    assert gates.calibration(tie, CHAMPION, EVIDENCE, dataclasses.replace(POLICY, calibration_margin=0.0)).passed
    for ends, passed in (((0, 1), True), ((-1e-9, 1), False), ((0, 1 + 1e-9), False)):
        within = dataclasses.replace(GOOD, scores=np.concatenate([ends, GOOD.scores[2:]]))
        assert gates.sound_scores(within, CHAMPION, EVIDENCE, POLICY).passed is passed
    for off, passed in ((1e-6, True), (1.1e-6, False)):
        assert gates.signature(GOOD, CHAMPION, made(repeats=off), POLICY).passed is passed


def test_a_gain_of_just_what_is_asked_is_not_more_than_that() -> None:
    low = gates.better(GOOD, CHAMPION, EVIDENCE, POLICY).figures["average_precision_low"]
    for asked_for, passed in ((low, False), (float(np.nextafter(low, 0)), True)):
        assert gates.better(GOOD, CHAMPION, EVIDENCE, dataclasses.replace(POLICY, min_gain=asked_for)).passed is passed


def test_probabilities_that_tell_less_are_refused_though_they_promise_no_more_than_is_there() -> None:
    verdict = gates.calibration(dataclasses.replace(GOOD, scores=scores_of(1.0)), CHAMPION, EVIDENCE, POLICY)
    found = verdict.figures
    assert found["candidate_calibration_error"] <= found["champion_calibration_error"] + POLICY.calibration_margin
    assert not verdict.passed
    assert found["brier_high"] > POLICY.calibration_margin * 0.0244


def test_a_verdict_tells_what_was_seen() -> None:
    sound = gates.sound_scores(GOOD, CHAMPION, EVIDENCE, POLICY)
    assert sound.figures == {"lowest_score": GOOD.scores.min(), "highest_score": GOOD.scores.max()}
    assert gates.sound_scores(with_scores(lambda s: s * np.nan), CHAMPION, EVIDENCE, POLICY).figures == {}
    for reads, place in ((("risk", "amount", "count"), 0), (("amount", "count", "risk"), 1), (FEATURES[:2], 2)):
        assert f"from place {place} on they are others" in gates.signature(GOOD, CHAMPION, made(reads=reads), POLICY).reasons[0]
    one = gates.sound_scores(with_scores(lambda s: np.r_[0.5, s[1:] * np.nan]), CHAMPION, EVIDENCE, POLICY)
    assert one.reasons[1] == "every row scores 0.5; such a model ranks nothing"
    itself = gates.not_itself(CHAMPION, CHAMPION, EVIDENCE, POLICY)
    assert itself.reasons[0] == "candidate and champion are the same model file (cccccccccccc)"
    for evidence, champion, reigns in ((EVIDENCE, None, "nobody reigns"), (asked(FIRST_MODEL), CHAMPION, "version 3 reigns")):
        assert f"the question was {evidence.question.kind}, and {reigns}" in gates.better(GOOD, champion, evidence, POLICY).reasons[0]
    needed = gates.compare.average_precision(HELD.folds, GOOD.scores, CHAMPION.scores).needed(EVIDENCE.level)
    assert f"better by {0.01 + needed:.3f} would show it" in gates.better(GOOD, CHAMPION, EVIDENCE, POLICY).reasons[0]
    assert "; -0.02 is allowed" in gates.card_precision(GOOD, CHAMPION, EVIDENCE, POLICY).reasons[0]
    assert gates.clean(GOOD, CHAMPION, EVIDENCE, POLICY).reasons[1] == "parity: 14 scored nights are what silver gives"
    assert gates.clean(GOOD, CHAMPION, made(parity=(0, 0, 0)), POLICY).reasons[1] == "parity: nobody has scored these nights"


def test_what_is_asked_is_the_questions() -> None:
    """One pair of models, three questions: what is enough to refresh or to recover is not enough to improve."""
    slightly = dataclasses.replace(GOOD, scores=scores_of(1.62))
    recover = Question(kind=Kind.RECOVER, changed_on=FIRST)
    low = gates.better(slightly, CHAMPION, EVIDENCE, POLICY).figures["average_precision_low"]
    assert low > 0
    policy = dataclasses.replace(POLICY, min_gain=low + 1e-9)
    answers = [
        gates.better(slightly, CHAMPION, asked(question), policy).passed for question in (IMPROVE, Question(kind=Kind.REFRESH), recover)
    ]
    assert answers == [False, True, True]


def test_every_candidate_that_was_judged_before_makes_the_next_one_harder() -> None:
    lows = []
    for before in range(4):
        evidence = dataclasses.replace(EVIDENCE, judged_before=before, level=level(POLICY.error, before))
        verdict = gates.better(GOOD, CHAMPION, evidence, POLICY)
        lows.append(verdict.figures["average_precision_low"])
        assert f"{before} other candidates were" in verdict.reasons[1] or (before == 1 and "one other candidate was" in verdict.reasons[1])
    assert lows == sorted(lows, reverse=True)
    assert len(set(lows)) == 4
    assert sum(level(0.05, before) for before in range(100_000)) < 0.05, "all of them together do not spend more"


def test_first_model_is_judged_by_the_floor_and_says_so() -> None:
    report = gates.judge(GOOD, None, asked(FIRST_MODEL), POLICY)
    assert red(report) == set()
    measured = {f"candidate_{metric}": figure for metric, figure in vars(HELD.measure(GOOD.scores)).items()}
    assert report.figures == measured | {"candidate_calibration_error": report.figures["candidate_calibration_error"]}
    assert sum("nobody reigns" in reason for reason in report.reasons) == 4


@pytest.mark.parametrize(
    "error", [RegistryError("MLflow is down"), ConnectionError("refused"), KeyError("average_precision"), AssertionError()]
)
def test_champion_look_up_that_raises_rejects_with_that_reason(error: Exception) -> None:
    def look_up() -> Scored | None:
        raise error

    report = gates.judge(GOOD, look_up, EVIDENCE, dataclasses.replace(POLICY, floor_average_precision=0))
    assert red(report) == {"not_itself", *COMPARED}
    assert not report.passed
    assert report.outcome == "refused"
    assert all(type(error).__name__ in reason and str(error) in reason for reason in report.reasons)


def test_look_up_is_made_once_and_its_answer_counts() -> None:
    calls: list[int] = []

    def look_up() -> Scored | None:
        calls.append(1)
        return CHAMPION

    assert gates.judge(GOOD, look_up, EVIDENCE, POLICY) == gates.judge(GOOD, CHAMPION, EVIDENCE, POLICY)
    assert calls == [1]
    assert red(gates.judge(GOOD, lambda: None, asked(FIRST_MODEL), POLICY)) == set()


def test_frauds_of_cards_already_known_are_no_evidence() -> None:
    # Of both folds: a week later, what was known two weeks before the first one counts no more.
    told = [np.full(ROWS, np.datetime64(FIRST - timedelta(days=days))) for days in (8, 1)]
    blocked = held(known_fraud_day=np.concatenate(told), known_fraud_entity=np.tile(HELD.entity, 2))
    report = gates.judge(GOOD, CHAMPION, blocked, POLICY)
    assert red(report) == {"enough_evidence", *COMPARED}


def test_evidence_whose_columns_are_not_aligned_rejects() -> None:
    assert {"enough_evidence", *COMPARED} <= red(gates.judge(GOOD, CHAMPION, held(target=HELD.target[:-1]), POLICY))


def test_evidence_from_before_the_fold_rejects() -> None:
    assert {"enough_evidence", *COMPARED} <= red(gates.judge(GOOD, CHAMPION, held(first_test_day=FIRST + timedelta(days=1)), POLICY))


def test_a_champion_that_has_seen_the_rows_is_told_and_harms_nobody_else() -> None:
    verdict = gates.disjoint(GOOD, CHAMPION, made(champion_rows_last=FIRST), POLICY)
    assert verdict.passed
    assert f"the champion has seen nights until {FIRST}" in verdict.reasons[0]
    verdict = gates.disjoint(GOOD, CHAMPION, made(champion_rows_last=FIRST - timedelta(days=8)), POLICY)
    assert "flatters" not in verdict.reasons[0], "it may have seen that one, as the candidate may"


def test_report_without_verdicts_has_not_passed() -> None:
    assert not gates.Report(()).passed


def test_report_read_back_is_the_same_and_a_forged_pass_is_not_believed() -> None:
    report = gates.judge(with_scores(lambda s: 1 - s), CHAMPION, EVIDENCE, POLICY)
    plain = json.loads(json.dumps(report.as_dict()))
    assert gates.Report.from_dict(plain) == report
    assert not gates.Report.from_dict(plain | {"passed": True, "outcome": "passed"}).passed
