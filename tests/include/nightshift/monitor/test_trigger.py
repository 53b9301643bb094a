from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.nightshift.monitor import trigger
from include.nightshift.monitor.trigger import JudgedNight, Request
from include.nightshift.promote.question import Kind, Question
from include.nightshift.usecase import DriftPolicy

START = date(2026, 3, 1)
POLICY = DriftPolicy(max_loss=0.10, nights_violated=3, nights_watched=5, cooldown_nights=7)
PROMISED = 0.60
GOOD, BAD = 0.58, 0.50


def night(offset: int) -> date:
    return START + timedelta(days=offset)


def judged(values: Sequence[float], model: str = "3", first: int = 0) -> list[JudgedNight]:
    return [JudgedNight(night(first + offset), model, value) for offset, value in enumerate(values)]


def decide(values: Sequence[float | JudgedNight], **change: Any) -> trigger.RetrainVerdict:
    history = [entry if isinstance(entry, JudgedNight) else JudgedNight(night(offset), "3", entry) for offset, entry in enumerate(values)]
    given_: dict[str, Any] = {
        "policy": POLICY,
        "night": max((entry.night for entry in history), default=START),
        "champion": "3",
        "promised": PROMISED,
        "judged": history,
        "requests": [],
    }
    verdict = trigger.decide(**(given_ | change))
    assert verdict.reasons, "it says why, and why not as well"
    assert all(verdict.reasons)
    assert json.loads(json.dumps(verdict.evidence, allow_nan=False)) == verdict.evidence
    assert verdict.cause == ("performance" if verdict.asked else "")
    return verdict


def filed(*offsets: int, cause: str = "performance", pending: bool = False) -> list[Request]:
    return [Request(night(offset), cause, pending) for offset in offsets]


def replay(values: Sequence[float], policy: DriftPolicy = POLICY) -> list[int]:
    """Live through the nights: every request is filed and closed at once. Returns the nights that asked."""
    asked: list[int] = []
    for offset in range(len(values)):
        verdict = decide(judged(values)[: offset + 1], policy=policy, night=night(offset), requests=filed(*asked))
        if verdict.asked:
            asked.append(offset)
    return asked


def test_sustained_loss_asks_and_shows_its_figures() -> None:
    verdict = decide([GOOD, GOOD, BAD, BAD, BAD])
    assert verdict.asked
    assert verdict.evidence["nights_violated"] == 3
    assert verdict.evidence["promised_average_precision"] == PROMISED
    assert [entry["violated"] for entry in verdict.evidence["watched"]] == [False, False, True, True, True]
    assert verdict.evidence["watched"][-1]["loss"] == pytest.approx(1 / 6)
    assert "3 of the last 5" in verdict.reasons[0]
    assert "16.7%" in verdict.reasons[1]


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        pytest.param([BAD, BAD, BAD], True, id="three judged nights are enough when all are bad"),
        pytest.param([BAD, GOOD, BAD, GOOD, BAD], True, id="three of five, with good ones between"),
        pytest.param([BAD, BAD, BAD, BAD, GOOD], False, id="the newest is good"),
        pytest.param([GOOD, GOOD, GOOD, BAD, BAD], False, id="two of five"),
        pytest.param([BAD, BAD, GOOD, GOOD, GOOD, GOOD, BAD], False, id="bad nights that are watched no more"),
        pytest.param([BAD, BAD], False, id="too few judged nights"),
        pytest.param([0.9, 0.9, 0.9], False, id="better than promised"),
    ],
)
def test_asks_for_enough_bad_nights_the_newest_among_them(values: list[float], asked: bool) -> None:
    assert decide(values).asked is asked


def test_exactly_the_loss_allowed_is_allowed() -> None:
    policy = DriftPolicy(max_loss=0.25)
    assert not decide([0.75] * 5, promised=1.0, policy=policy).asked
    assert decide([0.7499] * 5, promised=1.0, policy=policy).asked


def test_one_old_bad_night_does_not_ask_for_ever() -> None:
    # The rule "any violation since a fixed date" would ask on each of the 59 nights that follow.
    assert replay([BAD] + [GOOD] * 59) == []


def test_one_old_bad_stretch_asks_once() -> None:
    assert replay([GOOD] * 5 + [BAD] * 4 + [GOOD] * 50) == [7]


def test_lasting_loss_asks_again_only_after_each_cooldown() -> None:
    assert replay([BAD] * 30) == [2, 10, 18, 26]


def test_flapping_around_the_limit_asks_no_more_often_than_the_cooldown() -> None:
    asked = replay([BAD, GOOD] * 30)
    assert asked[0] == 4
    assert all(later - earlier > POLICY.cooldown_nights for earlier, later in itertools.pairwise(asked))


def test_rare_bad_nights_never_ask() -> None:
    assert replay([BAD, GOOD, GOOD] * 20) == []


@pytest.mark.parametrize(("since", "asked"), [(1, False), (7, False), (8, True), (400, True)])
def test_cooldown_counts_nights_since_the_last_request(since: int, asked: bool) -> None:
    verdict = decide([BAD] * 5, requests=filed(4 - since, 4 - since - 30))
    assert verdict.asked is asked
    assert any("quiet for 7 nights" in reason for reason in verdict.reasons) is not asked


def test_cooldown_of_none_lets_the_next_night_ask() -> None:
    assert replay([BAD] * 5, DriftPolicy(cooldown_nights=0)) == [2, 3, 4]


def test_pending_request_silences_and_the_loss_is_still_told() -> None:
    verdict = decide([BAD] * 5, requests=filed(-60, pending=True))
    assert not verdict.asked
    assert "5 of the last 5" in verdict.reasons[0]
    assert verdict.reasons[-1] == "a request of 2025-12-31 (performance) is open or claimed already"


def test_every_reason_for_silence_is_told() -> None:
    verdict = decide([BAD] * 5, requests=filed(2, pending=True))
    assert len([reason for reason in verdict.reasons if "request" in reason]) == 2


def test_nights_of_another_model_do_not_count() -> None:
    others = judged([BAD] * 5, model="2")
    assert not decide(others + judged([BAD] * 2, first=5)).asked
    assert decide(others + judged([BAD] * 3, first=5)).asked
    assert not decide(others).asked
    assert "no matured night was scored by champion 3" in decide(others).reasons[0]
    assert not decide(judged([BAD] * 5) + judged([BAD], model="2", first=5)).asked


def test_nights_between_those_of_another_model_are_not_padded_with_them() -> None:
    mixed = judged([BAD, BAD]) + judged([GOOD] * 6, model="2", first=2) + judged([BAD], first=8)
    assert decide(mixed).asked


@pytest.mark.parametrize("promised", [None, 0.0, -0.1, float("nan"), float("inf")])
def test_champion_without_a_promise_cannot_break_it(promised: float | None) -> None:
    verdict = decide([BAD] * 5, promised=promised)
    assert not verdict.asked
    assert "promises no average precision" in verdict.reasons[0]
    assert verdict.evidence["promised_average_precision"] is None


def test_nobody_reigns() -> None:
    verdict = decide([BAD] * 5, champion=None, promised=None)
    assert not verdict.asked
    assert "nobody reigns" in verdict.reasons[0]


def test_night_that_could_not_be_measured_does_not_count() -> None:
    assert not decide([BAD, BAD, float("nan")]).asked
    assert len(decide([BAD, BAD, float("nan")]).evidence["watched"]) == 2


def test_night_that_stands_twice_counts_once_with_its_last_figure() -> None:
    assert not decide([*judged([BAD, BAD]), *judged([BAD, BAD])], night=night(1)).asked
    assert not decide([*judged([BAD, BAD, BAD]), JudgedNight(night(2), "3", GOOD)], night=night(2)).asked


def test_nights_without_new_verdicts_do_not_repeat_an_old_alarm() -> None:
    history = judged([BAD] * 5)
    assert decide(history, night=night(4)).asked
    stale = decide(history, night=night(33))
    assert not stale.asked
    assert "night 2026-04-03 has no figure of champion 3: the newest is of 2026-03-05" in stale.reasons


def test_judging_a_night_again_after_its_request_was_filed_says_the_same() -> None:
    assert decide([BAD] * 5, requests=filed(4, pending=True)) == decide([BAD] * 5)
    assert decide([BAD] * 5, requests=filed(4)).asked


def test_request_of_the_same_night_by_somebody_else_silences() -> None:
    assert not decide([BAD] * 5, requests=filed(4, cause="new terminals", pending=True)).asked
    assert not decide([BAD] * 5, requests=filed(4, cause="new terminals")).asked


def test_request_that_waits_for_a_later_night_silences_an_old_one_too() -> None:
    assert not decide([BAD] * 5, requests=filed(9, pending=True)).asked
    assert decide([BAD] * 5, requests=filed(9)).asked


VALUES = st.lists(st.sampled_from([GOOD, BAD, 0.3]), min_size=1, max_size=30)


@given(values=VALUES, at=st.integers(0, 29), asked=st.lists(st.integers(0, 40), max_size=4), order=st.randoms(use_true_random=False))
def test_replaying_an_old_night_gives_that_nights_verdict(values: list[float], at: int, asked: list[int], order: Any) -> None:
    at = min(at, len(values) - 1)
    then = decide(judged(values)[: at + 1], night=night(at), requests=filed(*(offset for offset in asked if offset < at)))
    now = order.sample(judged(values), len(values))
    assert decide(now, night=night(at), requests=filed(*asked)) == then


@given(values=VALUES)
def test_requests_are_always_further_apart_than_the_cooldown(values: list[float]) -> None:
    asked = replay(values)
    assert all(later - earlier > POLICY.cooldown_nights for earlier, later in itertools.pairwise(asked))
    assert all(values[offset] != GOOD for offset in asked)


def test_the_question_is_about_the_nights_since_the_first_of_the_bad_ones_that_never_stopped() -> None:
    verdict = decide([BAD, GOOD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD])
    assert verdict.question == Question(kind=Kind.RECOVER, changed_on=night(2)), "further back than the nights that are watched"
    assert decide([GOOD] * 5).evidence["violated_since"] is None
