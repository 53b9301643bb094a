"""Keep the lakehouse small: few files, no version that nobody keeps, no checkpoint of a finished run.

**Fires** Sundays at half past four UTC (never by itself with `NIGHTSHIFT_CLOCK=off`), over REST, or by hand. **Params**: `keep_days`, how
long a version stays readable after another took its place; 0 keeps only the live and the pinned ones.
**Reads** `ops.table_pins` and the log of every table. **Writes** no row: small files are merged, files that no kept version needs are
removed, pins whose last day is over are released, checkpoints of finished runs in `<home>/runs` are cleared.

Kept are the live version, pinned ones (each training run pins what it read for a year), those replaced within `keep_days`, and for an
hour every file that no version names: it may be a write's. Files and bytes before and after, and the versions kept, are in the log.

**When it fails.** *A pinned version lacks files*: somebody else removed them; restore a backup, or release the pin. *Files are gone*: as
before, and just now. *WriteConflictError*: nightly runs won each time; clear the task later. *CheckpointError*: a trainer hangs.
**Rerun?** Always safe: the second run finds nothing to do and commits nothing.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param
from nightshift_airflow.defaults import night_dag, weekly
from nightshift_airflow.operators.maintain import MaintainOperator, PruneOperator

from include.nightshift import settings, usecase
from include.nightshift.lakehouse.maintenance import KEEP_DAYS
from include.nightshift.usecase import UseCase

PARAMS = {"keep_days": Param(KEEP_DAYS, type="integer", minimum=0, maximum=3650, description="Days a replaced version stays readable.")}


def maintain(use_case: UseCase) -> None:
    arguments = night_dag(use_case, "maintain", __doc__) | {"max_active_runs": 1}
    with DAG(**arguments, schedule=weekly(), params=PARAMS):
        # Side by side: the one works on tables, the other on run folders.
        MaintainOperator(task_id="tables", use_case=use_case.name, keep_days="{{ params.keep_days }}")
        PruneOperator(task_id="checkpoints", use_case=use_case.name)


for registered in usecase.registered(settings.load()):
    maintain(registered)
