"""Bring a night's drops to bronze and silver.

**Fires** half past midnight UTC for the day that is over, one partition a night; over REST for any night
(`partition_key`). **Reads** `landing/<feed>/<night>.csv.gz`. **Writes** `bronze.<feed>`, `silver.<feed>`,
`silver.quarantine`, `ops.nights`; publishes both silver assets at once.

**When it fails.** *No file*: the drop is late; land it and clear the task. *Truncated, other columns*: nothing of the file
was written; have it landed again. *WriteConflictError*: two runs of one night met; clear the task.
A row that breaks a rule fails nothing: look at `silver.quarantine`.
**Rerun?** Always safe: the night's rows are replaced, and equal content commits nothing.
"""

from __future__ import annotations

from airflow.sdk import DAG
from nightshift_airflow import assets
from nightshift_airflow.defaults import clock, night_dag
from nightshift_airflow.operators.ingest import IngestOperator, PublishOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase


def ingest(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "ingest", __doc__), schedule=clock()):
        feeds = [IngestOperator(task_id=feed.name, use_case=use_case.name, feed=feed.name) for feed in use_case.feeds]
        publish = PublishOperator(
            task_id="publish",
            task_ids=[feed.name for feed in use_case.feeds],
            outlets=[assets.silver(use_case, feed) for feed in use_case.feeds],
        )
        feeds >> publish


for registered in usecase.registered(settings.load()):
    ingest(registered)
