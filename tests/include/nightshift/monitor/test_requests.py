"""The ledger of requests: filed once, claimed once, closed with an outcome."""

from datetime import date, timedelta

from include.nightshift.monitor import requests
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

NIGHT = date(2020, 3, 1)


def test_a_night_asks_once_for_one_cause_however_often_it_is_run(records_home: Settings, use_case: UseCase) -> None:
    first = requests.file(records_home, use_case, NIGHT, "performance", {"loss": 0.5})
    again = requests.file(records_home, use_case, NIGHT, "performance", {"loss": 0.4})
    assert (again["request_id"], again["evidence"]) == (first["request_id"], '{"loss": 0.5}')
    assert requests.file(records_home, use_case, NIGHT, "somebody asked", {})["request_id"] != first["request_id"]
    assert [request["state"] for request in requests.of(records_home, use_case)] == ["open", "open"]


def test_one_training_takes_all_open_requests_of_the_nights_it_knows_and_the_next_finds_none(
    records_home: Settings, use_case: UseCase
) -> None:
    known = [requests.file(records_home, use_case, NIGHT + timedelta(days=day), "performance", {})["request_id"] for day in range(2)]
    later = requests.file(records_home, use_case, NIGHT + timedelta(days=5), "performance", {})["request_id"]
    assert sorted(requests.claim(records_home, use_case, NIGHT + timedelta(days=1))) == sorted(known)
    assert requests.claim(records_home, use_case, NIGHT + timedelta(days=1)) == []
    requests.close(records_home, known, done=True, outcome="version 2 reigns")
    requests.close(records_home, [later], done=False, outcome="was never claimed")
    ended = {request["request_id"]: (request["state"], request["outcome"]) for request in requests.of(records_home, use_case)}
    assert ended == {known[0]: ("done", "version 2 reigns"), known[1]: ("done", "version 2 reigns"), later: ("open", None)}


def test_a_request_that_was_answered_is_not_filed_again_by_a_rerun_of_its_night(records_home: Settings, use_case: UseCase) -> None:
    asked = requests.file(records_home, use_case, NIGHT, "performance", {})
    assert asked["state"] == "open"
    requests.close(records_home, requests.claim(records_home, use_case, NIGHT), done=False, outcome="the gate refused")
    again = requests.file(records_home, use_case, NIGHT, "performance", {})
    assert (again["request_id"], again["state"]) == (asked["request_id"], "refused")
    assert [request["state"] for request in requests.of(records_home, use_case)] == ["refused"]
