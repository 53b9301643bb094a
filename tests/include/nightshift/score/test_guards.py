"""What each guard sees, and what follows from all of them together."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from include.nightshift.errors import ConfigurationError
from include.nightshift.monitor import drift
from include.nightshift.score import guards
from include.nightshift.score.guards import Checked, Distance, Judged, Seen, Verdict
from include.nightshift.usecase import GuardPolicy

UNHURRIED = hypothesis(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NIGHT = date(2026, 3, 12)
POLICY = GuardPolicy()
SOUND = Seen(
    night=NIGHT,
    events=1000,
    features=1000,
    scores=1000,
    own_day=0.98,
    recent={NIGHT - timedelta(days=age): 1000 for age in range(1, 29)},
    parity=Checked(500, 0),
    distinct=900,
    versions=("3",),
    expected="3",
    distance=Distance(0.01, 1000, 7000, "the nights before"),
    entities=800,
    listed=100,
    repeated=30,
)
DATA: dict[str, dict[str, Any]] = {
    "no partition of features": {"features": 0, "scores": 0, "own_day": None, "parity": Checked(0, 0)},
    "no file where one is owed": {"events": 0, "features": 0, "scores": 0, "own_day": None, "parity": Checked(0, 0)},
    "scores that lack a row": {"scores": 999},
    "scores twice": {"scores_doubled": 1},
    "features twice": {"features_doubled": 1},
    "half the rows": {"events": 500, "features": 500, "scores": 500},
    "twice the rows": {"events": 2000, "features": 2000, "scores": 2000},
    "another night's file": {"own_day": 0.02},
    "another night's scores": {"strangers": 1},
    "a column of another type": {"columns": ("gold.card_fraud_scores: score is string, expected double",)},
    "features that silver does not give": {"parity": Checked(500, 3, ("tx_amount", "score"))},
    "nobody checked": {"parity": None},
    "nothing was checked": {"parity": Checked(0, 0)},
    "rows that differ in nothing that is named": {"parity": Checked(500, 1)},
}
MODEL: dict[str, dict[str, Any]] = {
    "NaN": {"unknown": 1},
    "a score outside 0..1": {"outside": 1},
    "all the same": {"distinct": 1},
    "scored by another version": {"versions": ("2",)},
    "scored by two versions": {"versions": ("2", "3")},
    "scores that the model does not give": {"parity": Checked(500, 500, ("score",))},
}

ALONE = ("scores twice", "features twice", "another night's file", "another night's scores", "a column of another type", "nobody checked",
         "features that silver does not give", "NaN", "a score outside 0..1", "scores that the model does not give")  # fmt: skip
"""Faults that one figure shows, whatever the others are."""


def judged(**changes: Any) -> Judged:
    return guards.judge(replace(SOUND, **changes), POLICY)


def test_a_sound_night_passes_every_guard_and_each_says_what_it_saw() -> None:
    said = judged()
    assert said.outcome == "passed"
    assert said.reasons == ()
    assert [verdict.guard for verdict in said.verdicts] == [guard.__name__ for guard in guards.GUARDS]
    assert all(reason for verdict in said.verdicts for reason in verdict.reasons)


@pytest.mark.parametrize("fault", DATA)
def test_a_fault_of_the_data_holds_the_list(fault: str) -> None:
    said = judged(**DATA[fault])
    assert said.outcome == "hold"
    assert {verdict.kind for verdict in said.verdicts if not verdict.passed} == {"data"}, said.reasons


@pytest.mark.parametrize("fault", MODEL)
def test_a_fault_of_the_model_asks_for_other_scores(fault: str) -> None:
    said = judged(**MODEL[fault])
    assert said.outcome == "again"
    assert {verdict.kind for verdict in said.verdicts if not verdict.passed} == {"model"}, said.reasons


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"distance": Distance(0.3, 1000, 7000, "the nights before")}, "odd"),
        ({"distance": Distance(2.0, 1000, 7000, "the nights before")}, "hold"),
        ({"distance": Distance(math.nan, 1000, 7000, "the nights before")}, "hold"),
        ({"distance": Distance(0.3, 60, 60, "the nights before")}, "passed"),
        ({"distance": None}, "passed"),
        ({"repeated": 95}, "odd"),
        ({"repeated": 100}, "hold"),
        ({"repeated": 100, "entities": 150}, "passed"),
        ({"repeated": None}, "passed"),
        ({"repeated": 0}, "passed"),
    ],
    ids=[
        "moved",
        "far away",
        "no number",
        "too few rows to tell",
        "nothing before",
        "hardly new",
        "the same",
        "everybody",
        "first",
        "all new",
    ],
)
def test_what_is_odd_is_marked_and_held_only_beyond_the_hard_bound(changes: dict[str, Any], outcome: str) -> None:
    assert judged(**changes).outcome == outcome


def test_no_overlap_is_odd_where_the_policy_says_so() -> None:
    said = guards.judge(replace(SOUND, repeated=2), replace(POLICY, overlap_least=0.05))
    assert (said.outcome, said.reasons) == ("odd", ("overlap (odd): 2 of 100 were on the list before, expected 5% or more",))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", MODEL)
def test_no_model_mends_data(data: str, model: str) -> None:
    both = MODEL[model] | DATA[data]
    assert judged(**both).outcome == "hold"


def test_a_faulty_model_is_replaced_before_what_is_odd_about_its_scores_counts() -> None:
    assert judged(distinct=1, distance=Distance(9.0, 1000, 7000, "the nights before")).outcome == "again"


def test_an_empty_night_that_owes_no_file_passes() -> None:
    empty = {
        "events": 0,
        "features": 0,
        "scores": 0,
        "own_day": None,
        "parity": Checked(0, 0),
        "distinct": 0,
        "versions": (),
        "entities": 0,
    }
    said = judged(**empty, owed=False, listed=0, distance=None)
    assert said.outcome == "passed", said.reasons


def test_a_weekday_that_always_has_half_the_rows_is_no_fault_and_half_of_it_is_one() -> None:
    recent = {night: 500 if night.weekday() == NIGHT.weekday() else 1000 for night in SOUND.recent}
    half = {"events": 500, "features": 500, "scores": 500, "recent": recent}
    assert judged(**half).outcome == "passed"
    assert judged(**half | {"events": 250, "features": 250, "scores": 250}).outcome == "hold"


def test_too_short_a_history_says_nothing_about_volume() -> None:
    half = {"events": 500, "features": 500, "scores": 500}
    assert judged(**half, recent={NIGHT - timedelta(days=age): 1000 for age in (1, 2)}).outcome == "passed"
    assert judged(**half, recent={NIGHT - timedelta(days=age): 1000 for age in (1, 2, 3)}).outcome == "hold"


def test_a_guard_that_cannot_judge_has_seen_a_fault_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seen: Seen, policy: GuardPolicy) -> Verdict:
        raise KeyError("gone")

    for kind, outcome in (("data", "hold"), ("model", "again"), ("odd", "hold")):
        monkeypatch.setattr(guards, "GUARDS", {broken: kind})
        said = judged()
        assert said.outcome == outcome
        assert said.reasons == (f"broken ({kind}): could not be judged (KeyError: 'gone')",)


def test_without_verdicts_nothing_is_published() -> None:
    assert Judged(NIGHT).outcome == "hold"


def test_a_distance_is_that_of_the_drift_report_and_chance_grows_with_fewer_rows() -> None:
    scores = np.linspace(0, 1, 1000)
    described = drift.reference({"score": scores}, guards.BINS)["score"]
    near, far = Distance.between(described, scores, "before"), Distance.between(described, scores / 10, "before")
    assert near is not None
    assert far is not None
    assert near.value == 0 < near.chance < POLICY.distance_odd
    assert far.value == drift.population_stability_index(described, scores / 10) > POLICY.distance_hold
    assert Distance.between(described, scores[:0], "before") is None
    assert Distance.between(drift.reference({"score": scores[:0]})["score"], scores, "before") is None


rows = st.integers(0, 10_000)
anything = st.builds(
    Seen,
    night=st.just(NIGHT),
    owed=st.booleans(),
    events=rows,
    features=rows,
    features_doubled=st.integers(0, 3),
    scores=rows,
    scores_doubled=st.integers(0, 3),
    strangers=st.integers(0, 3),
    own_day=st.none() | st.floats(0, 1),
    recent=st.dictionaries(st.dates(date(2026, 2, 1), date(2026, 3, 11)), rows, max_size=6),
    columns=st.just(()) | st.just(("score is string, expected double",)),
    parity=st.none() | st.builds(Checked, rows, st.integers(0, 3), st.sampled_from([(), ("score",), ("tx_amount", "score")])),
    unknown=st.integers(0, 3),
    outside=st.integers(0, 3),
    distinct=rows,
    versions=st.sampled_from([(), ("2",), ("3",), ("2", "3")]),
    expected=st.sampled_from([None, "3"]),
    distance=st.none() | st.builds(Distance, st.floats(), st.integers(1, 9999), st.integers(1, 9999), st.just("before")),
    entities=rows,
    listed=rows,
    repeated=st.none() | rows,
)


@UNHURRIED
@given(anything)
def test_whatever_was_seen_is_judged_and_published_unmarked_only_without_a_breach(seen: Seen) -> None:
    said = guards.judge(seen, POLICY)
    assert len(said.verdicts) == len(guards.GUARDS)
    assert (said.outcome == "passed") == (said.reasons == ())
    if any(verdict.kind == "data" and not verdict.passed for verdict in said.verdicts):
        assert said.outcome == "hold"


@UNHURRIED
@given(anything, st.sampled_from([*(DATA[name] for name in ALONE if name in DATA), *(MODEL[name] for name in ALONE if name in MODEL)]))
def test_no_other_figure_makes_up_for_a_fault(seen: Seen, fault: dict[str, Any]) -> None:
    assert guards.judge(replace(seen, **fault), POLICY).outcome in ("hold", "again")


@pytest.mark.parametrize(
    "wrong",
    [
        {"enough_nights": 0},
        {"enough_nights": 8},
        {"volume": (0.0, 1.5)},
        {"volume": (1.1, 1.5)},
        {"volume": (0.5, 0.9)},
        {"own_day": 1.5},
        {"distance_odd": 0.0},
        {"distance_odd": 2.0},
        {"overlap_least": 0.95},
        {"overlap_hold": 1.5},
    ],
    ids=str,
)
def test_a_policy_that_cannot_judge_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^guards: "):
        GuardPolicy(**wrong)
