"""Publish a held night's list all the same.

**Fires** over REST or by hand, by one of `NIGHTSHIFT_APPROVERS` who did not start the run whose list is held. **Params**: `night`; `why`,
the reason, which is kept with the name of whoever started the run.
**Reads** `ops.publications`: why the night is held. **Writes** `ops.acts`, then `gold.<use case>_alerts` (the night's own scores, marked
`anyway`, as its next revision) and `ops.publications`.

Look first at what the guards saw: `select reasons from ops.publications where day = date'…'`. **When it fails.** *PublicationError*: the
night is not held, nothing was scored, or another person must do this; the message says which, and what is out stays.
**Rerun?** Always safe: a cleared task publishes the same revision. A night that is scored again and held again keeps this list.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param
from nightshift_airflow.defaults import NIGHT, night_dag, reason
from nightshift_airflow.operators.score import PublishOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase

PARAMS = {"night": Param(type="string", pattern=NIGHT, description="The held night, YYYY-MM-DD."), "why": reason()}


def publish(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "publish", __doc__) | {"max_active_runs": 1}, schedule=None, params=PARAMS):
        PublishOperator(task_id="publish", use_case=use_case.name, nights="{{ params.night }}")


for registered in usecase.registered(settings.load()):
    publish(registered)
