"""The human's task and what becomes of an answer: whose yes counts, until when, and what stands in `ops.approvals`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.nightshift.lakehouse import chain, records, tables
from include.nightshift.operate.environment import prepare_home
from include.nightshift.settings import ROOT, Settings
from include.usecases.card_fraud.usecase import USE_CASE
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it.
PROGRAM = """
import json, sys
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
from include.nightshift import settings
from include.nightshift.promote import history
from include.usecases.card_fraud import usecase as card_fraud

own, asked = card_fraud.USE_CASE, {}
waived = replace(own, gate=replace(own.gate, approval="waived"))
for name, use_case in (("human", own), ("waived", waived)):
    card_fraud.USE_CASE = use_case
    bag = DagBag(sys.argv[1])
    assert not bag.import_errors, bag.import_errors
    [asked[name]] = bag.dags.values()
approve = asked["human"].get_task("approve")
answer = {
    "assigned": [user["name"] for user in approve.assigned_users], "defaults": approve.defaults,
    "hours": approve.response_timeout.total_seconds() / 3600, "params": list(approve.params),
    "waived": [task.task_id for task in asked["waived"].tasks if "gate" in task.upstream_task_ids],
}
crowned = []
def crown(settings, use_case, digest, why):
    crowned.append(digest)
    return {"model_version": "4", "from_night": datetime(2026, 4, 1).date()}
history.crown = crown
for name, case in json.loads(sys.argv[2]).items():
    told = {"gate": case["judged"], "approve": case.get("answer")}
    started = SimpleNamespace(triggering_user_name=case["started"], start_date=datetime.now(UTC))
    context = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: told[task_ids]), "dag_run": started}
    try:
        task = asked[case.get("policy", "human")].get_task("promote")
        result = str(task.work(context, settings.load(), own, []))
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    answer[name] = {"result": result, "crowned": case["judged"]["digest"] in crowned}
print("ANSWER" + json.dumps(answer))
"""
AT = datetime(2026, 4, 1, 9, tzinfo=UTC)


def case(digest: str, by: str | None = "operator", chosen: str = "Approve", started: str | None = "admin", **more: Any) -> dict[str, Any]:
    judged = {"digest": digest, "model_version": "4", "reasons": ["better"], "released_by": [], "authors": []} | more
    responder = {"id": by, "name": by} if by else None
    told = {
        "chosen_options": [chosen],
        "responded_by_user": responder,
        "responded_at": AT.isoformat(),
        "params_input": {"comment": "looks well"},
    }
    return {"judged": judged, "answer": told, "started": started}


CASES = {
    "yes": case("yes"),
    "no": case("no", chosen="Reject"),
    "nobody in time": case("late", by=None, chosen="Reject"),
    "yes of who started it": case("own", by="admin"),
    "yes of a stranger": case("stranger", by="analyst"),
    "yes of an author": case("author", authors=["Operator", "operator@bank.example"]),
    "yes of who released rows": case("released", released_by=["operator"]),
    "authors unknown": case("unknown", authors=None),
    "by policy": case("policy") | {"policy": "waived"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    from deltalake import DeltaTable

    from include.nightshift.lakehouse import storage

    settings = Settings(home=tmp_path_factory.mktemp("home"))
    prepare_home(settings)
    for table in tables.SHARED:
        DeltaTable.create(storage.location(settings, table), table.arrow([]).schema, partition_by=list(table.partition))
    return settings


@pytest.fixture(scope="module")
def told(home: Settings) -> dict[str, Any]:
    answer: dict[str, Any] = apart.run(home, "-c", PROGRAM, str(ROOT / "dags" / "train.py"), json.dumps(CASES)).answer
    return answer


def kept(home: Settings, digest: str) -> dict[str, Any]:
    [row] = records.read(home, tables.APPROVALS, report_digest=digest)
    return row


def test_approvers_are_asked_for_as_long_as_the_policy_says_and_silence_is_a_no(told: dict[str, Any]) -> None:
    assert told["assigned"] == ["operator", "admin"]
    assert (told["defaults"], told["hours"], told["params"]) == (["Reject"], USE_CASE.gate.approval_hours, ["comment"])


def test_a_yes_promotes_and_is_kept_with_its_comment_and_its_end(told: dict[str, Any], home: Settings) -> None:
    assert told["yes"]["crowned"]
    row = kept(home, "yes")
    assert (row["answer"], row["by"], row["at"], row["comment"]) == ("Approve", "operator", AT, "looks well")
    assert row["expires_at"] == AT + timedelta(hours=USE_CASE.gate.approval_hours)
    assert (row["channel"], row["triggered_by"], row["model_version"]) == ("human", "admin", "4")


@pytest.mark.parametrize(("name", "digest", "by"), [("no", "no", "operator"), ("nobody in time", "late", "nobody (timed out)")])
def test_a_no_and_silence_promote_nothing_and_are_no_failure(told: dict[str, Any], home: Settings, name: str, digest: str, by: str) -> None:
    assert told[name]["result"].startswith("AirflowSkipException")
    assert not told[name]["crowned"]
    assert (kept(home, digest)["answer"], kept(home, digest)["by"]) == ("Reject", by)


@pytest.mark.parametrize(
    ("name", "digest", "why"),
    [
        ("yes of who started it", "own", "admin started the training"),
        ("yes of a stranger", "stranger", "analyst is none of the approvers"),
        ("yes of an author", "author", "operator wrote of its recipe"),
        ("yes of who released rows", "released", "operator let rows out of quarantine"),
    ],
)
def test_a_yes_of_somebody_who_has_a_hand_in_it_is_void(told: dict[str, Any], home: Settings, name: str, digest: str, why: str) -> None:
    assert told[name]["result"].startswith("AirflowFailException")
    assert why in told[name]["result"]
    assert "let somebody else answer" in told[name]["result"]
    assert not told[name]["crowned"]
    assert (kept(home, digest)["answer"], why in kept(home, digest)["comment"]) == ("Void", True)


def test_where_nobody_can_tell_the_authors_the_others_still_answer(told: dict[str, Any]) -> None:
    assert told["authors unknown"]["crowned"]


def test_a_policy_that_waives_the_human_asks_nobody_and_says_so(told: dict[str, Any], home: Settings) -> None:
    assert sorted(told["waived"]) == ["promote", "refer"]
    assert told["by policy"]["crowned"]
    row = kept(home, "policy")
    assert (row["answer"], row["by"], row["channel"], row["comment"]) == ("Approve", "the policy", "policy", None)


def test_the_answers_are_a_chain(told: dict[str, Any], home: Settings) -> None:
    assert len(records.read(home, tables.APPROVALS)) == len(CASES)
    assert chain.verify(home, tables.APPROVALS) == []
