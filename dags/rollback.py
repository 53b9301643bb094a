"""Back to an earlier champion, from the next list on.

**Fires** over REST or by hand. **Params**: `version`, one that reigned before, or `previous`: the one promoted last before the one that
reigns; `why`, the reason, which is kept with the name of whoever started the run; `republish`, a night (this morning's, say) whose list
is scored by that version and published again, as its next revision.
**Reads** `ops.champion_history`, `ops.gate_reports`, `ops.approvals`: only a version whose report passed and was approved returns, and only
with the bytes that were judged. **Writes** `ops.acts`, `ops.champion_history`, then the alias `champion` in MLflow; with `republish` the
night's scores, parity, list and `ops.publications`.

Other lists that are out stay as they are. To score the night again would be to have it scored by whoever reigned over it. The version
that is left needs a new report to return, and promotions go on: `freeze` in `<use case>_reign` stops them. **When it fails.**
*RegistryError*: the message says what the version lacks, and which ones could return; nothing changed. *Reigns by now*: somebody was
quicker; look, then start another run. *republish*: the guards would hold that list, or there is none to replace; what is out stays, and the
rollback holds.
**Rerun?** Always safe: a cleared task finishes this rollback, and never does a second one. A new run is a new rollback, one further back.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param
from nightshift_airflow.defaults import NIGHT, night_dag, reason
from nightshift_airflow.operators.reign import RollbackOperator
from nightshift_airflow.operators.score import RepublishOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase

PARAMS = {
    "version": Param("previous", type="string", pattern=r"^(previous|\d+)$", description="The version to return to, or previous."),
    "why": reason(),
    "republish": Param("", type="string", pattern=rf"^$|{NIGHT}", description="A night whose list is published again, by that version."),
}


def rollback(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "rollback", __doc__) | {"max_active_runs": 1}, schedule=None, params=PARAMS):
        rollback = RollbackOperator(task_id="rollback", use_case=use_case.name)
        rollback >> RepublishOperator(
            task_id="republish", use_case=use_case.name, nights="{{ params.republish }}", rollback_task_id="rollback"
        )


for registered in usecase.registered(settings.load()):
    rollback(registered)
