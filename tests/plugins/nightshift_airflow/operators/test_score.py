"""A held list turns its task red after what is out was published, the watch is told before; a person's word is theirs by login."""

from __future__ import annotations

from typing import Any

import pytest

from include.nightshift.operate.environment import prepare_home
from include.nightshift.settings import Settings
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it.
PUBLISH = """
import json
from datetime import date
from types import SimpleNamespace
from airflow.sdk.exceptions import AirflowFailException
from include.nightshift import notify
from include.nightshift.errors import PublicationError
from include.nightshift.lakehouse import log, session
from include.nightshift.score import decide, held, publications
from include.nightshift.score.publications import Decision, Published
from nightshift_airflow import assets
from nightshift_airflow.operators.score import AlertsOperator, GuardOperator, PublishOperator
from include.usecases.card_fraud.usecase import USE_CASE

told = []
session.connect = lambda settings: None
log.version = lambda settings, table: 12
log.rows_by_night = lambda settings, table, slice_: {night: 100 for night in slice_["day"]}
notify.warn = lambda settings, title, lines, **how: told.append(["notice", title, list(lines)])

def decided(session, settings, use_case, nights):
    states = ["published", "held", "held"]
    return [Decision(night=night, state=state, reasons=("two rows too many",) if state == "held" else (), model_version="3")
            for night, state in zip(nights, states)]

def published(session, settings, use_case, decisions, *, triggered_by):
    told.append(["published", [str(each.night) for each in decisions], triggered_by])
    # Somebody let the last one out before.
    marks = dict(zip([each.night for each in decisions], [None, "stale", "anyway"]))
    return {each.night: Published(each.night, 1, each.state, marks[each.night], 100, 7) for each in decisions}

def released(session, settings, use_case, night, *, by, why, act_id):
    if by != "bob":
        raise PublicationError(f"{by} may not")
    told.append(["released", str(night), by, why, act_id])
    return Published(night, 2, "marked", "anyway", 100, 8)

promoted = set()

def check_reign(settings, use_case, decisions):
    if promoted & {each.night for each in decisions}:
        raise PublicationError("version 4 reigns by now")

decide.decide, decide.check_reign, publications.publish, held.release = decided, check_reign, published, released

def run(operator, **context):
    try:
        return operator.execute(context)
    except AirflowFailException as error:
        return f"{type(error).__name__}: {error}"

asset = assets.scores(USE_CASE)
events = {asset: SimpleNamespace(extra=None)}
guard = GuardOperator(task_id="guard", use_case="card_fraud", nights="2026-03-12..2026-03-14", outlets=[asset])
decisions = run(guard, outlet_events=events)
ti = SimpleNamespace(xcom_pull=lambda task_ids: decisions)
by = lambda name: SimpleNamespace(triggering_user_name=name, run_id="r1", dag_id="card_fraud_publish")

def alerts(nights, count):
    global ti
    ti = SimpleNamespace(xcom_pull=lambda task_ids: decisions[:count])
    return run(AlertsOperator(task_id="alerts", use_case="card_fraud", nights=nights, guard_task_id="guard"), ti=ti, dag_run=by("ann"))

answers = {
    "guard": decisions, "extra": events[asset].extra,
    "held": alerts("2026-03-12..2026-03-14", 3), "out": alerts("2026-03-12", 1),
    "publish": [run(PublishOperator(task_id="publish", use_case="card_fraud", nights="2026-03-13", why="a holiday"), dag_run=by(name))
                for name in ("ann", "bob", None)],
}
answers["told"] = list(told)
promoted |= {date(2026, 3, 12)}
answers["late"] = alerts("2026-03-12..2026-03-14", 3)
answers["told late"] = told[len(answers["told"]):]
print("ANSWER" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    prepare_home(settings)
    told: dict[str, Any] = apart.run(settings, "-c", PUBLISH).answer
    return told


def test_the_watch_is_told_of_the_scores_whatever_becomes_of_the_lists(answers: dict[str, Any]) -> None:
    assert [(told["night"], told["state"]) for told in answers["guard"]] == [
        ("2026-03-12", "published"),
        ("2026-03-13", "held"),
        ("2026-03-14", "held"),
    ]
    assert answers["extra"] == {"version": 12, "rows": 300}


def test_a_held_list_fails_its_task_once_what_is_out_was_published_and_told(answers: dict[str, Any]) -> None:
    assert answers["told"][:2] == [
        ["published", ["2026-03-12", "2026-03-13", "2026-03-14"], "ann"],
        ["notice", "card_fraud 2026-03-13: list held", ["two rows too many"]],
    ]
    assert answers["held"].startswith("AirflowFailException: night 2026-03-13 is held: two rows too many. The list before it is out")
    assert "more nights" not in answers["held"], "the other one was let out"


def test_a_list_that_is_out_tells_its_length_and_revision(answers: dict[str, Any]) -> None:
    assert answers["out"] == {"lengths": {"2026-03-12": 100}, "revisions": {"2026-03-12": 1}, "version": 7}


def test_of_several_nights_none_goes_out_where_another_champion_reigns_over_one_by_now(answers: dict[str, Any]) -> None:
    assert answers["late"] == "AirflowFailException: version 4 reigns by now"
    assert answers["told late"] == []


def test_a_held_list_is_let_out_in_the_name_of_who_is_logged_in_and_a_refusal_is_final(answers: dict[str, Any]) -> None:
    assert answers["publish"] == [
        "AirflowFailException: ann may not",
        {"night": "2026-03-13", "revision": 2, "rows": 100, "version": 8},
        "AirflowFailException: None may not",
    ]
    assert answers["told"][-1] == ["released", "2026-03-13", "bob", "a holiday", "card_fraud_publish r1"]
