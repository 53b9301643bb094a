"""Erase a person: from every table, landed file of ours and training extract, for good.

**Fires** over REST or by hand, best by `make erase`, which reads the id from standard input and starts this run. **Params**: `token`, the
name of the request. The id itself is in `<home>/erasures/<token>` (0600), which the run destroys as its last act: it stands in no run
configuration, no log and no rendered template.
**Reads** every table, landed file and run folder. **Writes** `ops.erased_keys`: keyed digests, by which ingest leaves the person out from
then on; every table that held them, without their rows, and without its older versions (pins that held those are given up);
`ops.batches`; landed files below the home and training extracts, rewritten; a retrain request (`ops.retrain_requests`, cause `erasure`)
where the model that reigns was trained on them; last `ops.erasures`, the receipt.

**What remains** is in the runbook: backups, sources, a landing folder that is not ours, models until they are trained anew.
**When it fails.** *Places still tell of the person*: the message names them; what a run brought meanwhile goes with the next try, any other
place is not this platform's: remove it by hand. *May be under way*: a killed run left files; the task tries again for over an hour, after
which they count as dead. *Is being trained*: wait for that run. *Key*: restore it. The request stays on disk until the run has ended well.
**Rerun?** Always safe: clear the task, or start it again with the same token. A second request for the same person finds nothing, and gets
a receipt of its own.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from nightshift_airflow.defaults import night_dag
from nightshift_airflow.operators.erase import EraseOperator

from include.nightshift import settings, usecase
from include.nightshift.erase import request
from include.nightshift.usecase import UseCase

PARAMS = {"token": Param(type="string", pattern=request.TOKEN, description="The token that `make erase` printed.")}


def erase(use_case: UseCase) -> None:
    arguments = night_dag(use_case, "erase", __doc__) | {"max_active_runs": 1}
    with DAG(**arguments, schedule=None, params=PARAMS):
        # For over an hour: as long as files of a killed run may be a write's that is under way.
        patient = {"retries": 8, "retry_delay": timedelta(minutes=10), "retry_exponential_backoff": 0}
        EraseOperator(task_id="erase", use_case=use_case.name, **patient)


for registered in usecase.registered(settings.load()):
    erase(registered)
