"""Question: what can be asked, that it survives its way through tables, and which one a training answers that answers several."""

from __future__ import annotations

import json
from datetime import date

import pytest

from include.nightshift.errors import ConfigurationError, NightError
from include.nightshift.promote.question import FIRST, IMPROVE, Kind, Question, together
from include.nightshift.usecase import GatePolicy

NIGHT = date(2026, 3, 1)
REFRESH, FORGET = Question(kind=Kind.REFRESH), Question(kind=Kind.REFRESH, mandatory=True)
RECOVER = Question(kind=Kind.RECOVER, changed_on=NIGHT)


@pytest.mark.parametrize("question", [FIRST, IMPROVE, REFRESH, FORGET, RECOVER])
def test_a_question_is_read_back_as_it_was_told(question: Question) -> None:
    assert Question.of(json.loads(json.dumps(question.told()))) == question


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({}, ConfigurationError),
        ({"kind": "promote", "changed_on": None, "mandatory": False}, ConfigurationError),
        ({"kind": "recover", "changed_on": None, "mandatory": False}, ConfigurationError),
        ({"kind": "improve", "changed_on": "2026-03-01", "mandatory": False}, ConfigurationError),
        ({"kind": "improve", "changed_on": None, "mandatory": True}, ConfigurationError),
        ({"kind": "recover", "changed_on": "yesterday", "mandatory": False}, NightError),
    ],
)
def test_what_is_no_question_is_refused(told: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Question.of(told)


@pytest.mark.parametrize(
    ("questions", "answered"),
    [
        ([IMPROVE], IMPROVE),
        ([IMPROVE, REFRESH], REFRESH),
        ([REFRESH, FORGET], FORGET),
        ([RECOVER, Question(kind=Kind.RECOVER, changed_on=date(2026, 2, 1))], RECOVER),
        ([FORGET, RECOVER, IMPROVE], Question(kind=Kind.RECOVER, changed_on=NIGHT, mandatory=True)),
    ],
)
def test_one_training_is_asked_what_is_most_urgent_and_what_must_be_must_be(questions: list[Question], answered: Question) -> None:
    assert together(questions) == together(questions[::-1]) == answered


def test_nothing_is_no_question() -> None:
    with pytest.raises(ConfigurationError, match="no question is asked"):
        together([])


def test_a_first_model_and_a_changed_world_are_judged_on_fewer_nights() -> None:
    policy = GatePolicy(holdout_nights=21, short_holdout_nights=5)
    assert [question.nights(policy) for question in (FIRST, IMPROVE, FORGET, RECOVER)] == [5, 21, 21, 5]
