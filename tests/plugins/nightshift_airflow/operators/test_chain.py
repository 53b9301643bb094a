"""The chains are checked in every run, and their heads go to Airflow's audit log when it ends: in its own transaction, or not at all."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from include.nightshift.lakehouse import chain, records
from include.nightshift.lakehouse.tables import ACTS
from include.nightshift.operate.environment import environment, prepare_home
from include.nightshift.settings import Settings
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it. Airflow's database, its models and what its
# scheduler does with a run whose tasks have ended; only the task is called here, and not by way of the API server.
RUNS = """
import json, sys
from datetime import UTC, datetime
from types import SimpleNamespace
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from nightshift_airflow.operators.chain import ChainOperator

with DAG("night", schedule=None) as dag:
    task = ChainOperator(task_id="chain")
    EmptyOperator(task_id="beside")
with create_session() as session:
    DagBundlesManager().sync_bundles_to_db(session=session)
with create_session() as session:
    SerializedDAG.bulk_write_to_db("dags-folder", None, [dag], session=session)
    SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="dags-folder", session=session)

def run(name, beside, lost):
    where = {"run_id": name, "dag_ids": "night", "task_ids": "chain"}
    with create_session() as session:
        stored = SerializedDagModel.get_dag("night", session=session)
        stored.create_dagrun(run_id=name, run_after=datetime.now(UTC), run_type=DagRunType.MANUAL, state="running",
                             triggered_by=DagRunTriggeredByType.TEST, session=session)
        # What a task is answered that pulls: one alone as it is, several as a list.
        found = session.scalars(XComModel.get_many(key="audit", include_prior_dates=True, **where))
        before = [XComModel.deserialize_value(each) for each in found]
        kept, left, said = before[0] if len(before) == 1 else before, {}, ""
    try:
        task.execute({"ti": SimpleNamespace(xcom_pull=lambda **asked: kept, xcom_push=lambda key, value: left.update({key: value}))})
    except Exception as error:
        said = str(error)
    with create_session() as session:
        for key, value in left.items():
            XComModel.set(key, value, dag_id="night", task_id="chain", run_id=name, session=session)
        for ti in session.query(DagRun).filter(DagRun.run_id == name).one().get_task_instances(session=session):
            ti.state = ("failed" if said else "success") if ti.task_id == "chain" else beside
    with create_session() as session:
        ended = session.query(DagRun).filter(DagRun.run_id == name).one()
        ended.dag = stored
        ended.update_state(session=session, execute_callbacks=False)
        state = str(ended.state)
        if lost:
            session.rollback()
    with create_session() as session:
        rows = session.query(Log).filter(Log.event == "nightshift.chain", Log.run_id == name)
        return {"state": state, "said": said, "kept": [[row.dag_id, row.task_id, row.owner, json.loads(row.extra)] for row in rows]}

print("ANSWER" + json.dumps([run(*asked) for asked in json.loads(sys.argv[1])]))
"""


@pytest.fixture
def airflow(records_home: Settings) -> Settings:
    """A home with the platform's own tables and Airflow's database, all empty."""
    prepare_home(records_home)
    line = ["airflow", "db", "migrate"]
    done = subprocess.run(line, env=environment(records_home), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return records_home


def run(settings: Settings, *asked: tuple[str, str, bool]) -> list[dict[str, Any]]:
    """Runs, each by its name, how the task beside ends, and whether the scheduler is lost before its transaction ends."""
    program = settings.home / "night.py"
    program.write_text(RUNS)
    answer: list[dict[str, Any]] = apart.run(settings, str(program), json.dumps(asked)).answer
    return answer


def test_heads_are_kept_when_a_run_ends_and_a_chain_that_was_cut_since_is_found(airflow: Settings) -> None:
    for number in range(3):
        chain.append(airflow, ACTS, {"act_id": str(number), "use_case": "card_fraud", "by": "ann"}, {"act_id": str(number)})
    kept = [["night", "chain", "nightshift", chain.heads(airflow)]]
    # Whatever failed beside it.
    assert run(airflow, ("one", "success", False), ("two", "failed", False), ("lost", "success", True)) == [
        {"state": "success", "said": "", "kept": kept},
        {"state": "failed", "said": "", "kept": kept},
        {"state": "success", "said": "", "kept": []},
    ]
    records.amend(airflow, ACTS, lambda held: [row for row in held if row["seq"] != 3])
    assert chain.verify(airflow) == []
    [third] = run(airflow, ("three", "success", False))
    assert (third["state"], third["kept"]) == ("failed", [])
    assert "ops.acts row 3: a kept head says 3:" in third["said"]
