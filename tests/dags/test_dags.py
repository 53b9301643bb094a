"""The DAG files as Airflow sees them: all parse, each is documented and bounded, and none imports what costs seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include.nightshift.operate.environment import prepare_home
from include.nightshift.settings import ROOT, Settings
from tests import apart

FILES = sorted((ROOT / "dags").glob("*.py"))
HEAVY = {"pyspark", "delta", "torch", "mlflow", "xgboost", "evidently", "pandas", "sklearn", "dbt", "shap", "deltalake", "duckdb", "polars"}
SECONDS = 0.3

LOOK = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
dags = {
    dag.dag_id: {
        "file": dag.fileloc, "doc": dag.doc_md, "tags": sorted(dag.tags), "max_active_runs": dag.max_active_runs,
        "timetable": type(dag.timetable).__name__, "params": dag.params.dump(),
        "tasks": {
            task.task_id: {
                "owner": task.owner, "retries": task.retries,
                "timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
                "type": task.task_type, "after": sorted(task.upstream_task_ids),
            }
            for task in dag.tasks
        },
    }
    for dag in bag.dags.values()
}
print("ANSWER" + json.dumps({"errors": bag.import_errors, "dags": dags}))
"""

PULLED = """
from dataclasses import replace
from include.nightshift.usecase import Pull
from include.usecases.card_fraud import usecase as card_fraud
pull = Pull(connection="switch", relation="public.transactions", watermark="written_at")
card_fraud.USE_CASE = replace(card_fraud.USE_CASE, events=replace(card_fraud.USE_CASE.events, pull=pull))
"""

# Airflow and its operators are there in the process that parses; what the file adds is what counts.
IMPORT = """
import importlib.util, json, sys, time
import airflow.sdk, airflow.providers.standard.operators.hitl, airflow.providers.standard.operators.python
from airflow.dag_processing.dagbag import DagBag
# At its first asset Airflow imports the handlers of all providers' URIs, whatever asset it is.
airflow.sdk.Asset("first://asset")
sys.path.insert(0, sys.argv[1])
answer = {}
for path in sys.argv[2:]:
    before = set(sys.modules)
    # Of this processor, whatever else the machine is doing.
    started = time.process_time()
    spec = importlib.util.spec_from_file_location("parsed_" + str(len(answer)), path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    seconds = time.process_time() - started
    answer[path] = {"seconds": seconds, "modules": sorted({name.partition(".")[0] for name in set(sys.modules) - before})}
print("ANSWER" + json.dumps(answer))
"""

WITHOUT_AIRFLOW = """
import importlib, json, pathlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "airflow":
            raise ModuleNotFoundError("airflow is absent")
sys.meta_path.insert(0, Absent())
names = []
for path in sorted(pathlib.Path("include").rglob("*.py")):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
    names.append(name)
print("ANSWER" + json.dumps({"names": names, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    prepare_home(settings)
    return settings


@pytest.fixture(scope="module")
def bag(settings: Settings) -> dict[str, Any]:
    answer: dict[str, Any] = apart.run(settings, "-c", LOOK, str(ROOT / "dags")).answer
    assert answer["errors"] == {}
    return dict(answer["dags"])


def test_each_file_makes_one_dag_per_use_case_named_by_its_stem(bag: dict[str, Any]) -> None:
    stems = (
        "backfill",
        "erase",
        "features",
        "ingest",
        "maintain",
        "monitor",
        "publish",
        "reign",
        "release",
        "replay",
        "rollback",
        "score",
        "train",
    )
    assert sorted(bag) == [f"card_fraud_{stem}" for stem in stems]
    assert {name: Path(dag["file"]).stem for name, dag in bag.items()} == {name: name.removeprefix("card_fraud_") for name in bag}


def test_each_dag_has_a_runbook_tags_and_an_owner(bag: dict[str, Any]) -> None:
    for name, dag in bag.items():
        for word in ("**Fires**", "**Reads", "**When it fails", "**Rerun?**"):
            assert word in dag["doc"], (name, word)
        assert {"nightshift", "card_fraud"} <= set(dag["tags"]), name
        assert {task["owner"] for task in dag["tasks"].values()} == {"fraud-analytics"}, name
        assert dag["max_active_runs"] <= 4, name


def test_each_task_is_retried_and_ends_some_day(bag: dict[str, Any]) -> None:
    for name, dag in bag.items():
        assert dag["tasks"], name
        for task, seen in dag["tasks"].items():
            assert seen["retries"] >= 1, (name, task)
            # A person may take days to answer, and the waiting holds no worker.
            assert (seen["timeout"] is None) == (task in ("approve", "refer")), (name, task)


def test_a_list_is_published_only_after_its_guards_and_the_watch_does_not_wait_for_it(bag: dict[str, Any]) -> None:
    score = {name: task["after"] for name, task in bag["card_fraud_score"]["tasks"].items()}
    assert score == {"scores": [], "parity": ["scores"], "guard": ["parity"], "alerts": ["guard"]}
    backfill = bag["card_fraud_backfill"]["tasks"]
    assert {name: backfill[name]["after"] for name in ("guard", "alerts", "watch")} == {
        "guard": ["parity"],
        "alerts": ["guard"],
        "watch": ["guard"],
    }


def test_the_human_is_asked_with_the_retries_that_a_quick_answer_needs(bag: dict[str, Any]) -> None:
    approve = bag["card_fraud_train"]["tasks"]["approve"]
    assert approve["type"] == "HITLOperator"
    assert approve["retries"] >= 2


def test_a_feed_that_is_pulled_is_pulled_before_it_is_ingested_and_the_rest_is_as_without(bag: dict[str, Any], settings: Settings) -> None:
    pulled = apart.run(settings, "-c", PULLED + LOOK, str(ROOT / "dags")).answer
    assert pulled["errors"] == {}
    for name, dag in pulled["dags"].items():
        after = {task: seen["after"] for task, seen in dag["tasks"].items()}
        without = {task: seen["after"] for task, seen in bag[name]["tasks"].items()}
        assert not any(task.startswith("pull_") for task in without), name
        if name in ("card_fraud_ingest", "card_fraud_backfill"):
            assert dag["tasks"]["pull_transactions"]["type"] == "PullOperator"
            assert after.pop("pull_transactions") == without["transactions"]
            assert after.pop("transactions") == ["pull_transactions"]
            del without["transactions"]
        assert after == without, name
    assert set(pulled["dags"]["card_fraud_backfill"]["params"]) - set(bag["card_fraud_backfill"]["params"]) == {"pull_again"}


def test_maintain_runs_weekly_one_at_a_time_and_with_the_clock_off_never_by_itself(bag: dict[str, Any], settings: Settings) -> None:
    maintain = bag["card_fraud_maintain"]
    assert (maintain["timetable"], maintain["max_active_runs"]) == ("CronTriggerTimetable", 1)
    assert maintain["params"] == {"keep_days": 30}
    assert {name: task["type"] for name, task in maintain["tasks"].items()} == {
        "tables": "MaintainOperator",
        "checkpoints": "PruneOperator",
    }
    off = apart.run(settings, "-c", LOOK, str(ROOT / "dags" / "maintain.py"), NIGHTSHIFT_CLOCK="off").answer
    assert off["errors"] == {}
    assert off["dags"]["card_fraud_maintain"]["timetable"] == "NullTimetable"


def test_erase_takes_a_token_and_nothing_else_and_outwaits_what_a_killed_run_left(bag: dict[str, Any]) -> None:
    erase = bag["card_fraud_erase"]
    assert (erase["timetable"], erase["max_active_runs"], list(erase["params"])) == ("NullTimetable", 1, ["token"])
    [task] = erase["tasks"].values()
    assert (task["type"], task["retries"]) == ("EraseOperator", 8)


def test_what_a_person_does_to_champions_asks_why_and_is_done_by_nobody_else_meanwhile(bag: dict[str, Any]) -> None:
    back = {"rollback": "RollbackOperator", "republish": "RepublishOperator"}
    for name, operators, params in (
        ("rollback", back, {"version", "why", "republish"}),
        ("reign", {"reign": "ReignOperator"}, {"act", "why"}),
    ):
        dag = bag[f"card_fraud_{name}"]
        assert (dag["timetable"], dag["max_active_runs"], set(dag["params"])) == ("NullTimetable", 1, params)
        assert {task: seen["type"] for task, seen in dag["tasks"].items()} == operators


def test_no_dag_file_costs_more_than_a_third_of_a_second_or_imports_anything_heavy(settings: Settings) -> None:
    answer = apart.run(settings, "-c", IMPORT, str(ROOT / "plugins"), *map(str, FILES)).answer
    assert len(answer) == len(FILES) > 0
    for path, seen in answer.items():
        assert not HEAVY & set(seen["modules"]), path
        assert seen["seconds"] < SECONDS, (path, seen["seconds"])


def test_the_library_imports_with_airflow_absent_and_pulls_in_neither_it_nor_spark(settings: Settings) -> None:
    answer = apart.run(settings, "-c", WITHOUT_AIRFLOW).answer
    assert {"include.nightshift.lakehouse.writes", "include.nightshift.train.trees", "include.usecases.card_fraud.usecase"} <= set(
        answer["names"]
    )
    assert not {"airflow", "pyspark", "mlflow", "torch", "evidently", "xgboost"} & set(answer["modules"])
