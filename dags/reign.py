"""Stop and start promotions; have the lists come from the linear baseline, or from the champion again.

**Fires** over REST or by hand. **Params**: `act`, one of `freeze` (no model is promoted, whoever approves), `unfreeze`, `baseline` (from
the next list on, the linear model that was judged beside the champion gives it, and the list says so) and `champion`; `why`, the reason,
which is kept with the name of whoever started the run.
**Reads** `ops.champion_history`, `ops.gate_reports`. **Writes** `ops.acts`, which is all there is to it: `promote` and `score` look there.

Whoever reigns goes on reigning, and `rollback` works while promotions are frozen. **When it fails.** *RegistryError*: nobody reigns, or the
baseline is not what was judged; the message says what to do, and nothing changed.
**Rerun?** Always safe: a cleared task does its act once. Doing an act again in a new run changes nothing but the record of it.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param
from nightshift_airflow.defaults import night_dag, reason
from nightshift_airflow.operators.reign import ReignOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase

PARAMS = {
    "act": Param(type="string", enum=["freeze", "unfreeze", "baseline", "champion"], description="What to do."),
    "why": reason(),
}


def reign(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "reign", __doc__) | {"max_active_runs": 1}, schedule=None, params=PARAMS):
        ReignOperator(task_id="reign", use_case=use_case.name)


for registered in usecase.registered(settings.load()):
    reign(registered)
