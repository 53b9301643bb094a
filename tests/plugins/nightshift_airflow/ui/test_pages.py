"""The pages in Airflow's web server: what stands on them, and that nobody without a login, or without the right, gets any."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from deltalake import DeltaTable

from include.nightshift.features import docs
from include.nightshift.features.project import Node
from include.nightshift.lakehouse import ledger, storage, tables
from include.nightshift.operate.environment import prepare_home
from include.nightshift.promote import report as reports
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import USE_CASE
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it; in one, because it takes its time to.
PROGRAM = """
import json, sys
from types import SimpleNamespace

from airflow import plugins_manager
[plugin] = [plugin for plugin in plugins_manager._get_plugins()[0] if plugin.name == "nightshift"]
[mounted] = plugin.fastapi_apps
registered = {
    "links": [link.name for link in plugin.operator_extra_links], "prefix": mounted["url_prefix"],
    "views": [[view["href"], view["destination"]] for view in plugin.external_views],
    "pages loaded": "nightshift_airflow.ui.pages" in sys.modules,
}

from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from nightshift_airflow.operators.features import FeaturesOperator
with DAG("card_fraud_features", schedule=None) as dag:
    task = FeaturesOperator(task_id="features", use_case="card_fraud")
run = SimpleNamespace(dag_id="card_fraud_features", run_id="manual__2026-03-10T00:00:00+00:00_x/y")
kept = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("features")
link = {"url": task.operator_extra_links[0].get_link(task, ti_key=run), "kept": kept.operator_extra_link_dict["dbt results"].xcom_key}

from airflow.api_fastapi.app import init_auth_manager
from airflow.api_fastapi.core_api.security import get_user
from fastapi import HTTPException
from fastapi.testclient import TestClient
from nightshift_airflow import ui
init_auth_manager()
answers = {}
for name, case in json.loads(sys.argv[1]).items():
    from nightshift_airflow.ui import pages
    def sees(dag_id: str) -> None:
        if dag_id.startswith("hidden_"):
            raise HTTPException(403, "Forbidden")
    looked_up = []
    def find(dag_id, run_id):
        looked_up.append([dag_id, run_id])
        return pages.Run(*case["run"]) if case["run"] else None
    login = {get_user: lambda: "analyst", pages.sees_dag: sees, pages.sees_documentation: lambda: None}
    pages.app.dependency_overrides = {pages.runs: lambda: find} | (login if case["login"] else {})
    client = TestClient(mounted["app"], follow_redirects=False, headers={"accept": case["accept"]})
    response = client.get(case["path"])
    answers[name] = {
        "status": response.status_code, "text": response.text, "headers": dict(response.headers), "looked up": looked_up,
    }
print("ANSWER" + json.dumps({"registered": registered, "link": link, "answers": answers}))
"""
NIGHT = date(2026, 3, 10)
RUN = f"scheduled__{NIGHT}T00:00:00+00:00"
PAGE = f"/dbt/card_fraud_features/{RUN}"
HOSTILE = "<script>alert('1')</script> & \"é\""
NODES = (
    Node("card_fraud_features", "model", "success", 4.256, 3512, "OK"),
    Node("a_transaction_has_one_row", "test", "fail", 0.5, 2, HOSTILE),
    Node("card_fraud_events", "model", "success", 1.0, None, ""),
)


def case(
    path: str = PAGE, key: str | None = str(NIGHT), conf: Any = None, *, run: bool = True, login: bool = True, accept: str = "text/html"
) -> dict[str, Any]:
    return {"path": path, "run": [key, conf] if run else None, "login": login, "accept": accept}


DIGEST = "0123456789abcdef" * 4
REPORT = f"/gates/card_fraud_train/{DIGEST}"
PATHS = {"page": PAGE, "documentation": "/docs", "report": REPORT, "nothing": "/dbt/none/none", "odd": "/dbt/x%27/y"}
CASES = {
    "page": case(),
    "page of a range": case(key=None, conf={"first_night": "2026-03-01", "last_night": str(NIGHT)}),
    "documentation": case("/docs"),
    "report": case(REPORT),
    "report that is not there": case(f"/gates/card_fraud_train/{'0' * 64}"),
    "report of a hidden dag": case(f"/gates/hidden_train/{DIGEST}"),
    "report of another": case(f"/gates/other_train/{DIGEST}"),
    "way out of the reports": case("/gates/card_fraud_train/..%2F..%2Fsources"),
    "no digest": case(f"/gates/card_fraud_train/{DIGEST}0"),
    "unknown run": case(run=False),
    "run of no night": case(key=None, conf={"as_of": "last"}),
    "night that is none": case(key=HOSTILE),
    "night not built": case(key="2026-03-11"),
    "hidden dag": case("/dbt/hidden_features/r"),
    "other dag": case("/dbt/other_features/r"),
    "dag of a like name": case("/dbt/card_fraudulent/r"),
    "blank in the run": case("/dbt/card_fraud_features/a%20b"),
    "markup in the run": case("/dbt/card_fraud_features/%3Cscript%3E"),
    "endless run": case(f"/dbt/card_fraud_features/{'r' * 251}"),
    "quote in the dag": case("/dbt/card_fraud_features'/r"),
    **{f"stranger's browser: {name}": case(path, login=False) for name, path in PATHS.items()},
    **{f"stranger's program: {name}": case(path, login=False, accept="*/*") for name, path in PATHS.items()},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    prepare_home(settings)
    table = tables.DBT_NODES
    DeltaTable.create(storage.location(settings, table), table.arrow([]).schema, partition_by=list(table.partition))
    ledger.record_nodes(settings, USE_CASE, [NIGHT], NODES)
    docs.place(settings).parent.mkdir()
    docs.place(settings).write_text("dbt's own")
    reports.place(settings, DIGEST).parent.mkdir()
    reports.place(settings, DIGEST).write_text("what the gates said")
    return settings


@pytest.fixture(scope="module")
def told(settings: Settings) -> dict[str, Any]:
    answer: dict[str, Any] = apart.run(settings, "-c", PROGRAM, json.dumps(CASES)).answer
    return answer


@pytest.fixture
def answers(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["answers"]
    return found


def test_a_person_reads_what_each_node_of_the_night_did(answers: dict[str, Any]) -> None:
    page = answers["page"]
    assert (page["status"], page["looked up"]) == (200, [["card_fraud_features", RUN]])
    for said in ("card_fraud_features", "3,512", "4.26", f"night {NIGHT}", "The build failed at a_transaction_has_one_row.", "../../docs"):
        assert said in page["text"], said
    # Models before tests.
    assert page["text"].index("card_fraud_events") < page["text"].rindex("a_transaction_has_one_row")
    assert answers["page of a range"]["text"] == page["text"]
    assert (answers["documentation"]["status"], answers["documentation"]["text"]) == (200, "dbt's own")


def test_no_text_becomes_markup_and_no_page_reaches_out_or_stays_in_the_browser(answers: dict[str, Any]) -> None:
    assert "&lt;script&gt;" in answers["page"]["text"]
    assert [name for name, answer in answers.items() if "<script" in answer["text"]] == []
    assert "color-scheme: light dark" in answers["page"]["text"]
    for name in ("page", "documentation", "unknown run"):
        headers = answers[name]["headers"]
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "connect-src" not in headers["content-security-policy"]


@pytest.mark.parametrize("name", PATHS)
def test_somebody_without_a_login_gets_no_page_and_a_browser_is_sent_to_log_in(answers: dict[str, Any], name: str) -> None:
    browser, program = answers[f"stranger's browser: {name}"], answers[f"stranger's program: {name}"]
    assert browser["status"] == 307
    assert "/auth/" in browser["headers"]["location"]
    assert "next=" in browser["headers"]["location"]
    assert program["status"] == 401
    for answer in (browser, program):
        assert ("card_fraud_events" in answer["text"], answer["looked up"]) == (False, [])


def test_a_dag_that_somebody_may_not_see_is_refused_before_anything_is_looked_up(answers: dict[str, Any]) -> None:
    assert (answers["hidden dag"]["status"], answers["hidden dag"]["looked up"]) == (403, [])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("unknown run", "Open a run from its DAG&#x27;s page"),
        ("run of no night", "Open a run of a DAG that builds features"),
        ("night that is none", "is no night: give a date"),
        ("night not built", "Run card_fraud_features for that night"),
        ("other dag", "belongs to no use case"),
        ("dag of a like name", "belongs to no use case"),
        ("report that is not there", "Open it from the task gate"),
        ("report of another", "belongs to no use case"),
    ],
)
def test_what_is_not_there_is_answered_with_advice(answers: dict[str, Any], name: str, advice: str) -> None:
    assert (answers[name]["status"], advice in answers[name]["text"]) == (404, True)


@pytest.mark.parametrize("name", ["blank in the run", "markup in the run", "endless run", "quote in the dag", "no digest"])
def test_text_that_names_no_dag_or_run_is_refused_before_anything_is_looked_up(answers: dict[str, Any], name: str) -> None:
    assert (answers[name]["status"], answers[name]["looked up"]) == (422, [])


def test_a_report_is_shown_to_whoever_may_see_the_training_and_nothing_else_below_the_home_is(answers: dict[str, Any]) -> None:
    assert (answers["report"]["status"], answers["report"]["text"]) == (200, "what the gates said")
    assert "default-src 'none'" in answers["report"]["headers"]["content-security-policy"]
    assert answers["report of a hidden dag"]["status"] == 403
    assert answers["way out of the reports"]["status"] in (404, 422)


def test_the_link_of_the_task_leads_to_the_page_of_its_run_and_survives_serialisation(told: dict[str, Any], settings: Settings) -> None:
    base = f"{settings.airflow_url}/nightshift/dbt/card_fraud_features"
    assert told["link"] == {"url": f"{base}/manual__2026-03-10T00%3A00%3A00%2B00%3A00_x%2Fy", "kept": "_link_DbtResultsLink"}


def test_the_plugin_is_registered_and_loads_no_page_before_somebody_asks_for_one(told: dict[str, Any]) -> None:
    assert told["registered"] == {
        "links": ["MLflow run", "Machine", "dbt results", "gate report"],
        "prefix": "/nightshift",
        "views": [["/nightshift/dbt/{DAG_ID}/{RUN_ID}", "dag_run"]],
        "pages loaded": False,
    }
