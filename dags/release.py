"""Let rows out of quarantine: judge nights again, from bronze, by the contract as it is now.

**Fires** over REST or by hand, after a contract was mended. (After the source was mended, land the file again and run `ingest`.)
**Params**: `first_night`, `last_night` (both included); `accept`, contract rules that may not stop a batch this time. **Reads** bronze.
**Writes** `silver.<feed>`: rows that pass now; `silver.quarantine`: the moment they were released; `ops.stale_nights`: the nights
built on what has changed, which wait for a `backfill` from the first of them on.

**When it fails.** *Never ingested*: run `ingest` for that night. *The batch is stopped*: as in `ingest`.
**Rerun?** Always safe: equal content commits nothing.
"""

from __future__ import annotations

from airflow.sdk import DAG
from nightshift_airflow.defaults import accept, night_dag, night_range
from nightshift_airflow.operators.ingest import ConsistencyOperator, ReleaseOperator
from nightshift_airflow.operators.night import RANGE

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase

PARAMS = night_range() | {"accept": accept()}


def release(use_case: UseCase) -> None:
    arguments = night_dag(use_case, "release", __doc__) | {"max_active_runs": 1}
    with DAG(**arguments, schedule=None, params=PARAMS):
        nights = {"use_case": use_case.name, "nights": RANGE}
        feeds = [ReleaseOperator(task_id=feed.name, feed=feed.name, **nights) for feed in use_case.feeds]
        feeds >> ConsistencyOperator(task_id="consistency", **nights)


for registered in usecase.registered(settings.load()):
    release(registered)
