"""The ledger of requests: filed once, claimed once, closed with an outcome."""

from datetime import date, timedelta

from include.nightshift.lakehouse import records
from include.nightshift.monitor import requests
from include.nightshift.promote.question import IMPROVE, Kind, Question
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

NIGHT = date(2020, 3, 1)


def test_a_night_asks_once_for_one_cause_however_often_it_is_run(records_home: Settings, use_case: UseCase) -> None:
    first = requests.file(records_home, use_case, NIGHT, "performance", IMPROVE, {"loss": 0.5})
    again = requests.file(records_home, use_case, NIGHT, "performance", IMPROVE, {"loss": 0.4})
    assert (again["request_id"], again["evidence"]) == (first["request_id"], '{"loss": 0.5}')
    assert requests.file(records_home, use_case, NIGHT, "somebody asked", IMPROVE, {})["request_id"] != first["request_id"]
    assert [request["state"] for request in requests.of(records_home, use_case)] == ["open", "open"]


def test_one_training_takes_all_open_requests_of_the_nights_it_knows_and_the_next_finds_none(
    records_home: Settings, use_case: UseCase
) -> None:
    known = [
        requests.file(records_home, use_case, NIGHT + timedelta(days=day), "performance", IMPROVE, {})["request_id"] for day in range(2)
    ]
    later = requests.file(records_home, use_case, NIGHT + timedelta(days=5), "performance", IMPROVE, {})["request_id"]
    claimed = requests.claim(records_home, use_case, NIGHT + timedelta(days=1))
    assert sorted(request["request_id"] for request in claimed) == sorted(known)
    assert requests.claim(records_home, use_case, NIGHT + timedelta(days=1)) == []
    requests.close(records_home, known, done=True, outcome="version 2 reigns")
    requests.close(records_home, [later], done=False, outcome="was never claimed")
    ended = {request["request_id"]: (request["state"], request["outcome"]) for request in requests.of(records_home, use_case)}
    assert ended == {known[0]: ("done", "version 2 reigns"), known[1]: ("done", "version 2 reigns"), later: ("open", None)}


def test_a_request_that_was_answered_is_not_filed_again_by_a_rerun_of_its_night(records_home: Settings, use_case: UseCase) -> None:
    asked = requests.file(records_home, use_case, NIGHT, "performance", IMPROVE, {})
    assert asked["state"] == "open"
    requests.close(
        records_home,
        [request["request_id"] for request in requests.claim(records_home, use_case, NIGHT)],
        done=False,
        outcome="the gate refused",
    )
    again = requests.file(records_home, use_case, NIGHT, "performance", IMPROVE, {})
    assert (again["request_id"], again["state"]) == (asked["request_id"], "refused")
    assert [request["state"] for request in requests.of(records_home, use_case)] == ["refused"]


def test_the_question_is_kept_as_it_was_asked_first_and_an_older_request_asks_for_an_improvement(
    records_home: Settings, use_case: UseCase
) -> None:
    recover = Question(kind=Kind.RECOVER, changed_on=NIGHT)
    requests.file(records_home, use_case, NIGHT, "performance", recover, {})
    requests.file(records_home, use_case, NIGHT, "performance", IMPROVE, {})
    before_questions = {"request_id": "old", "use_case": use_case.name, "night": NIGHT, "cause": "old", "state": "open"}
    records.amend(records_home, requests.TABLE, lambda held: [*held, before_questions])
    claimed = requests.claim(records_home, use_case, NIGHT)
    asked = dict(zip([request["cause"] for request in claimed], requests.asked(claimed), strict=True))
    assert asked == {"performance": recover, "old": IMPROVE}


def test_requests_that_wait_are_open_again_and_say_why(records_home: Settings, use_case: UseCase) -> None:
    known = requests.file(records_home, use_case, NIGHT, "performance", IMPROVE, {})["request_id"]
    requests.claim(records_home, use_case, NIGHT)
    requests.wait(records_home, [known, "nobody's"], outcome="too little has matured")
    [waiting] = requests.of(records_home, use_case)
    assert (waiting["state"], waiting["outcome"]) == ("open", "too little has matured")
    assert [request["request_id"] for request in requests.claim(records_home, use_case, NIGHT)] == [known]
