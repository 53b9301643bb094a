"""Watch a night: matured performance, drift, and the verdict that may ask for a new model.

**Fires** when the night's scores are there. **Reads** scores, features, matured verdicts, the champion's promise
(`ops.gate_reports`). **Writes** `ops.performance` (of the night seven days earlier, whose verdicts are in now),
`ops.drift_metrics`, `ops.nights`, and, when the policy says so, `ops.retrain_requests`, whose asset starts `train`; then an
Evidently page of the night beside the model in MLflow.

**When it fails**, the night's list is out already: nothing waits for it but the next request.
**Rerun?** Always safe: a night's verdict depends on what was known that night, and a request is filed once.
"""

from __future__ import annotations

from airflow.sdk import DAG, PartitionedAssetTimetable
from nightshift_airflow import assets
from nightshift_airflow.defaults import night_dag
from nightshift_airflow.operators.monitor import ReportOperator, WatchOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase


def monitor(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "monitor", __doc__), schedule=PartitionedAssetTimetable(assets=assets.scores(use_case))):
        watch = WatchOperator(task_id="watch", use_case=use_case.name, outlets=[assets.filed_requests(use_case)])
        report = ReportOperator(task_id="report", use_case=use_case.name)
        watch >> report


for registered in usecase.registered(settings.load()):
    monitor(registered)
