"""The watch's verdict, from the records alone: the champion's own matured weeks against what it was promoted on."""

import json
from datetime import date, timedelta

import pytest

from include.nightshift.lakehouse import records, tables
from include.nightshift.lakehouse.records import Record
from include.nightshift.monitor import requests, watch
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

NIGHT = date(2020, 3, 31)
MATURED = NIGHT - timedelta(days=7)
REIGNS_FROM = date(2020, 3, 1)


@pytest.fixture
def promised(records_home: Settings, use_case: UseCase) -> Settings:
    """Version 3 reigns since 1 March, on a promise of 0.6."""
    reign = {"use_case": use_case.name, "model_version": "3", "from_night": REIGNS_FROM, "report_digest": "d3"}
    report = {"report_digest": "d3", "use_case": use_case.name, "figures": json.dumps({"candidate_average_precision": 0.6})}
    records.amend(records_home, tables.CHAMPION_HISTORY, lambda held: [*held, reign])
    records.amend(records_home, tables.GATE_REPORTS, lambda held: [*held, report])
    return records_home


def matured(settings: Settings, use_case: UseCase, values: dict[date, float | None]) -> None:
    def figure(night: date, cohort: str, metric: str, value: float | None) -> Record:
        held = {"day": night, "use_case": use_case.name, "judged_on": night + timedelta(days=7), "model_version": "3"}
        return held | {"cohort": cohort, "metric": metric, "value": value}

    for night, value in values.items():
        figures = [figure(night, "week", "average_precision", value), figure(night, "night", "average_precision", 0.01)]
        figures.append(figure(night, "week", "card_precision", 0.01))
        records.replace(settings, tables.PERFORMANCE, figures, {"day": [night], "use_case": [use_case.name]})


def test_weeks_that_keep_the_promise_ask_for_nothing_and_lost_ones_do(promised: Settings, use_case: UseCase) -> None:
    nights = [MATURED - timedelta(days=age) for age in range(5)]
    matured(promised, use_case, dict.fromkeys(nights, 0.59))
    assert not watch.decide(promised, use_case, NIGHT).asked
    matured(promised, use_case, dict.fromkeys(nights[:3], 0.4))
    verdict = watch.decide(promised, use_case, NIGHT)
    assert (verdict.asked, verdict.evidence["nights_violated"], verdict.evidence["promised_average_precision"]) == (True, 3, 0.6)


def test_a_week_that_began_under_another_champion_does_not_count(promised: Settings, use_case: UseCase) -> None:
    night = REIGNS_FROM + timedelta(days=12)
    early = [night - timedelta(days=7 + age) for age in range(5)]
    assert early[0] < REIGNS_FROM + timedelta(days=6)
    matured(promised, use_case, dict.fromkeys(early, 0.1))
    assert "no matured night was scored by champion 3 yet" in watch.decide(promised, use_case, night).reasons


def test_nights_after_the_one_watched_do_not_count(promised: Settings, use_case: UseCase) -> None:
    matured(promised, use_case, {MATURED + timedelta(days=age): 0.1 for age in range(1, 6)} | {MATURED: 0.59})
    assert watch.decide(promised, use_case, NIGHT).evidence["nights_violated"] == 0


def test_a_week_without_a_figure_is_passed_over(promised: Settings, use_case: UseCase) -> None:
    matured(promised, use_case, {MATURED: 0.1, MATURED - timedelta(days=1): None, MATURED - timedelta(days=2): 0.1})
    assert [entry["average_precision"] for entry in watch.decide(promised, use_case, NIGHT).evidence["watched"]] == [0.1, 0.1]


def test_a_request_that_waits_silences_the_next_night_and_not_its_own(promised: Settings, use_case: UseCase) -> None:
    matured(promised, use_case, {MATURED + timedelta(days=age): 0.1 for age in range(-4, 2)})
    asked = watch.decide(promised, use_case, NIGHT)
    requests.file(promised, use_case, NIGHT, asked.cause, asked.question, asked.evidence)
    assert watch.decide(promised, use_case, NIGHT).asked, "a rerun of the night says the same"
    assert not watch.decide(promised, use_case, NIGHT + timedelta(days=1)).asked


def test_without_a_champion_nothing_is_asked(records_home: Settings, use_case: UseCase) -> None:
    verdict = watch.decide(records_home, use_case, NIGHT)
    assert (verdict.asked, verdict.reasons) == (False, ("nobody reigns: there is no promise to hold a night against",))
