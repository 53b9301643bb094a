"""Back to an earlier champion, from the next list on.

**Fires** over REST or by hand. **Params**: `version`, one that reigned before, or `previous`: the one promoted last before the one that
reigns; `why`, the reason, which is kept with the name of whoever started the run.
**Reads** `ops.champion_history`, `ops.gate_reports`, `ops.approvals`: only a version whose report passed and was approved returns, and only
with the bytes that were judged. **Writes** `ops.acts`, `ops.champion_history`, then the alias `champion` in MLflow.

Lists that are out stay as they are; the version that is left needs a new report to return, and promotions go on: `freeze` in
`<use case>_reign` stops them. **When it fails.** *RegistryError*: the message says what the version lacks, and which ones could return;
nothing changed. *Reigns by now*: somebody was quicker; look, then start another run.
**Rerun?** Always safe: a cleared task finishes this rollback, and never does a second one. A new run is a new rollback, one further back.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param
from nightshift_airflow.defaults import night_dag, reason
from nightshift_airflow.operators.reign import RollbackOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase

PARAMS = {
    "version": Param("previous", type="string", pattern=r"^(previous|\d+)$", description="The version to return to, or previous."),
    "why": reason(),
}


def rollback(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "rollback", __doc__) | {"max_active_runs": 1}, schedule=None, params=PARAMS):
        RollbackOperator(task_id="rollback", use_case=use_case.name)


for registered in usecase.registered(settings.load()):
    rollback(registered)
