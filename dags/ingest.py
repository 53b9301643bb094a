"""Bring a night's drops to bronze and silver.

**Fires** half past midnight UTC for the day that is over, one partition a night; over REST for any night
(`partition_key`). **Params**: `accept`, contract rules that would stop the batch and may not this time.
**Reads** `landing/<feed>/<night>.<csv|jsonl|parquet>[.gz|.zst]`, which a feed with a `pull` lands first, unless it is there.
**Writes** `bronze.<feed>`, `silver.<feed>`, `silver.quarantine`, `silver.pseudonyms`, `ops.contract_results`, `ops.batches`,
`ops.stale_nights`, `ops.nights`; publishes both silver assets at once; then the page of all sources, `<home>/reports/sources.html`.
Beside it *chain* looks whether the records of decisions are as they were written, and has Airflow's audit log keep their heads.

**When it fails.** *No file*: the drop is late; land it and clear the task. *Cut short, still being written*: nothing of the file
was written; have it landed again. *A pull*: the message says what to mend at the source; no file was left. *The batch is stopped*: the
message names the rule, what was seen and what was expected; have it landed again or, if it is right all the same, start the night
again with `accept`. *WriteConflictError*: clear the task. *chain*: somebody altered a record; nothing waits for it, but find out who.
A row that breaks a rule fails nothing: look at `silver.quarantine`, mend contract or source, and run `release`.
**Rerun?** Always safe: the same file does nothing, a corrected one replaces its night.
"""

from __future__ import annotations

from airflow.sdk import DAG
from nightshift_airflow import assets
from nightshift_airflow.defaults import accept, clock, night_dag
from nightshift_airflow.operators.chain import ChainOperator
from nightshift_airflow.operators.ingest import IngestOperator, PublishOperator, PullOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase

PARAMS = {"accept": accept()}


def ingest(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "ingest", __doc__), schedule=clock(), params=PARAMS):
        feeds = [IngestOperator(task_id=feed.name, use_case=use_case.name, feed=feed.name) for feed in use_case.feeds]
        publish = PublishOperator(
            task_id="publish",
            use_case=use_case.name,
            task_ids=[feed.name for feed in use_case.feeds],
            outlets=[assets.silver(use_case, feed) for feed in use_case.feeds],
        )
        for feed, task in zip(use_case.feeds, feeds, strict=True):
            if feed.pull:
                PullOperator(task_id=f"pull_{feed.name}", use_case=use_case.name, feed=feed.name) >> task
        feeds >> publish
        # Of every night, whatever came: so it waits for nothing.
        ChainOperator(task_id="chain")


for registered in usecase.registered(settings.load()):
    ingest(registered)
