"""A champion that may not stay, whose successor was refused: who is asked, what is done, and what stands in `ops.acts`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from include.nightshift.lakehouse import records, storage, tables
from include.nightshift.operate.environment import prepare_home
from include.nightshift.settings import ROOT, Settings
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it.
PROGRAM = """
import json, sys
from datetime import date
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import TaskAwaitingInput
from include.nightshift import settings
from include.nightshift.errors import RegistryError
from include.nightshift.promote import history
from include.usecases.card_fraud.usecase import USE_CASE
import airflow.providers.standard.operators.hitl as hitl

bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
[dag] = bag.dags.values()
refer, settle = dag.get_task("refer"), dag.get_task("settle")
hitl.upsert_hitl_detail = lambda **asked: None
done = []
def baseline(settings, use_case, by, why, act_id):
    if why == "there is none":
        raise RegistryError("no baseline was judged beside it")
    done.append((by, why))
history.baseline = baseline
answer = {"options": refer.options, "assigned": [user["name"] for user in refer.assigned_users], "defaults": refer.defaults,
          "rule": refer.trigger_rule.value, "upstream": sorted(settle.upstream_task_ids)}
for name, case in json.loads(sys.argv[2]).items():
    told = {"gate": case["report"], "refer": case.get("answer")}
    pulled = lambda task_ids, key=None: told[task_ids]
    run = SimpleNamespace(dag_id="card_fraud_train", run_id=name, triggering_user_name=None)
    context = {"ti": SimpleNamespace(xcom_pull=pulled), "task_instance": SimpleNamespace(id=name), "dag_run": run}
    before = len(done)
    try:
        task = refer if case.get("answer") is None else settle
        result = task.execute(context) if task is refer else task.work(context, settings.load(), USE_CASE, [date(2026, 4, 1)])
    except (Exception, TaskAwaitingInput) as error:
        result = f"{type(error).__name__}: {error}"
    answer[name] = {"result": str(result), "returned": done[before:]}
print("ANSWER" + json.dumps(answer))
"""
REFUSED = {"outcome": "refused", "mandatory": True, "digest": "d", "model_version": "4", "champion_version": "3", "reasons": ["worse"]}


def answered(chosen: str, by: str | None = "operator", comment: str = "") -> dict[str, Any]:
    responder = {"id": by, "name": by} if by else None
    return {"report": REFUSED, "answer": {"chosen_options": [chosen], "responded_by_user": responder, "params_input": {"comment": comment}}}


CASES = {
    "refused": {"report": REFUSED},
    "not mandatory": {"report": REFUSED | {"mandatory": False}},
    "waits": {"report": REFUSED | {"outcome": "wait"}},
    "passed": {"report": REFUSED | {"outcome": "passed"}},
    "never judged": {"report": None},
    "keep": answered("Keep the champion", comment="until Monday"),
    "return": answered("Return to the baseline"),
    "return to nothing": answered("Return to the baseline", comment="there is none"),
    "a stranger": answered("Keep the champion", by="analyst"),
    "nobody": answered("Keep the champion", by=None),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    from deltalake import DeltaTable

    settings = Settings(home=tmp_path_factory.mktemp("home"))
    prepare_home(settings)
    DeltaTable.create(storage.location(settings, tables.ACTS), tables.ACTS.arrow([]).schema)
    return settings


@pytest.fixture(scope="module")
def told(home: Settings) -> dict[str, Any]:
    answer: dict[str, Any] = apart.run(home, "-c", PROGRAM, str(ROOT / "dags" / "train.py"), json.dumps(CASES)).answer
    return answer


def test_approvers_are_asked_and_silence_is_no_answer(told: dict[str, Any]) -> None:
    assert told["refused"]["result"].startswith("TaskAwaitingInput")
    assert (told["assigned"], told["defaults"]) == (["operator", "admin"], None)
    assert told["options"] == ["Keep the champion", "Return to the baseline"]
    # The gate is skipped when it refuses.
    assert (told["rule"], told["upstream"]) == ("none_failed", ["refer"])


@pytest.mark.parametrize("name", ["not mandatory", "waits", "passed", "never judged"])
def test_nobody_is_asked_where_the_champion_may_stay_or_its_successor_was_not_refused(told: dict[str, Any], name: str) -> None:
    assert told[name]["result"].startswith("AirflowSkipException: nothing to refer")


def test_an_answer_is_done_and_kept_with_who_and_why(told: dict[str, Any], home: Settings) -> None:
    assert told["keep"]["returned"] == []
    assert told["return"]["returned"] == [["operator", "Return to the baseline, without a word why"]]
    kept = {act["act_id"]: act for act in records.read(home, tables.ACTS)}
    for name, answer, why in (
        ("keep", "Keep the champion", "until Monday"),
        ("return", "Return to the baseline", "Return to the baseline, without a word why"),
    ):
        act = kept[f"card_fraud_train {name} refer"]
        assert (act["act"], act["by"], act["why"]) == ("refer", "operator", why)
        assert json.loads(act["detail"]) == {"answer": answer, "report_digest": "d", "model_version": "4"}


@pytest.mark.parametrize(("name", "who"), [("a stranger", "analyst"), ("nobody", "nobody")])
def test_the_word_of_who_is_no_approver_does_nothing(told: dict[str, Any], home: Settings, name: str, who: str) -> None:
    assert told[name]["result"].startswith(f"AirflowFailException: {who} answered 'Keep the champion', and is none of the approvers")
    assert not records.read(home, tables.ACTS, act_id=f"card_fraud_train {name} refer")


def test_a_baseline_that_is_not_there_is_told_and_the_answer_is_kept(told: dict[str, Any], home: Settings) -> None:
    assert told["return to nothing"]["result"] == "AirflowFailException: no baseline was judged beside it"
    assert records.read(home, tables.ACTS, act_id="card_fraud_train return to nothing refer")
