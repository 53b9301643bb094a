"""An act bears the name of whoever started the run, is done once however often its task runs, and by nobody unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.courts import START, Court
from include.nightshift.lakehouse import records, tables
from include.nightshift.operate.environment import prepare_home
from include.nightshift.promote import history, registry
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it.
ACT = """
import json, os, sys
from pathlib import Path
from types import SimpleNamespace
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from bench.courts import Court
from nightshift_airflow.operators.reign import ReignOperator, RollbackOperator
from nightshift_airflow.operators.score import RepublishOperator
Court(Path(sys.argv[1])).presides()
rollback = RollbackOperator(task_id="rollback", use_case="card_fraud", version="previous", why="it finds nothing")
freeze = ReignOperator(task_id="reign", use_case="card_fraud", act_name="freeze", why="look first")
def run(operator, by, run_id):
    dag_run = SimpleNamespace(triggering_user_name=by, run_id=run_id, dag_id=operator.task_id)
    try:
        return operator.execute({"dag_run": dag_run, "ti": SimpleNamespace(xcom_pull=lambda task_ids: asked[1])})
    except (AirflowFailException, AirflowSkipException) as error:
        return f"{type(error).__name__}: {error}"
asked = [run(rollback, None, "r0"), run(rollback, "ann", "r1"), run(rollback, "ann", "r1"), run(freeze, "bob", "r1")]
for night in ("", "2010-01-09"):
    republish = RepublishOperator(task_id="republish", use_case="card_fraud", nights=night, rollback_task_id="rollback")
    asked.append(run(republish, "ann", "r1"))
print("ANSWER" + json.dumps(asked), flush=True)
# As Airflow ends a task: threads of the libraries that it loaded are not waited for.
os._exit(0)
"""


def test_acts_are_done_once_in_the_name_of_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    court = Court(tmp_path).open()
    monkeypatch.setattr(registry, "client", lambda settings: court.alias)
    prepare_home(court.settings)
    for version, champion in (("1", None), ("2", "1"), ("3", "2")):
        history.crown(court.settings, court.use_case, court.approved(version, champion), why="gates passed")
    answers = apart.run(court.settings, "-c", ACT, str(tmp_path)).answer
    rolled = {"model_version": "2", "from_night": START.isoformat(), "by": "ann", "why": "it finds nothing"}
    assert answers[1:3] == [rolled, rolled]
    assert "nobody is known to have started r0" in answers[0]
    assert answers[3] == {"act": "freeze", "night": START.isoformat(), "by": "bob", "why": "look first"}
    assert answers[4] == "AirflowSkipException: no night was named: lists that are out stay as they are"
    assert "AirflowFailException: night 2010-01-09 of card_fraud has no list that could be published again" in answers[5]
    acts = sorted(records.read(court.settings, tables.ACTS), key=lambda act: act["seq"])
    assert [(act["act_id"], act["act"], act["by"]) for act in acts] == [("rollback r1", "rollback", "ann"), ("reign r1", "freeze", "bob")]
    assert court.alias.champion == "2"
