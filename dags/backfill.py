"""Bring a range of past nights through all stages up to monitoring, in one run, with the nightly functions.

**Fires** over REST or by hand. **Params**: `first_night`, `last_night` (both included); `start_at`, the first stage to run
(`ingest`, `features` or `scores`; later stages follow); `accept`, contract rules that may not stop a batch this time;
where a feed is pulled, `pull_again`: replace its nights' files by what the source holds of them now (a row updated since is not
among it, it came with its later night).
**Reads and writes** what the nightly DAGs do, but publishes no partition keys (100 nights would start 100 runs of each DAG
downstream) and files no retrain request. Nights over which nobody reigns are not scored.

**When it fails**, nights are whole or untouched; clear the failed task. *alerts*: some nights' lists are held, the others are out.
**Rerun?** Always safe: equal content commits nothing.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param, TriggerRule
from nightshift_airflow.defaults import accept, night_dag, night_range
from nightshift_airflow.operators.backfill import StartAtOperator
from nightshift_airflow.operators.features import FeaturesOperator
from nightshift_airflow.operators.ingest import ConsistencyOperator, IngestOperator, PullOperator
from nightshift_airflow.operators.monitor import ReportOperator, WatchOperator
from nightshift_airflow.operators.night import RANGE
from nightshift_airflow.operators.score import AlertsOperator, GuardOperator, ParityOperator, ScoreOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase

PARAMS = {
    **night_range(),
    "accept": accept(),
    "start_at": Param("ingest", type="string", enum=["ingest", "features", "scores"], description="First stage to run."),
}
PULL_AGAIN = {"pull_again": Param(False, type="boolean", description="Pull nights again that have their file.")}


def backfill(use_case: UseCase) -> None:
    arguments = night_dag(use_case, "backfill", __doc__) | {"max_active_runs": 1}
    firsts = [f"pull_{feed.name}" if feed.pull else feed.name for feed in use_case.feeds]
    again = PULL_AGAIN if any(feed.pull for feed in use_case.feeds) else {}
    with DAG(**arguments, schedule=None, params=PARAMS | again):
        nights = {"use_case": use_case.name, "nights": RANGE, "trigger_rule": TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS}
        start = StartAtOperator(task_id="start_at", use_case=use_case.name, nights=RANGE, stages={"ingest": firsts})
        feeds = [IngestOperator(task_id=feed.name, feed=feed.name, **nights) for feed in use_case.feeds]
        for feed, task in zip(use_case.feeds, feeds, strict=True):
            if feed.pull:
                start >> PullOperator(task_id=f"pull_{feed.name}", feed=feed.name, again="{{ params.pull_again }}", **nights) >> task
            else:
                start >> task
        consistency = ConsistencyOperator(task_id="consistency", **nights)
        features = FeaturesOperator(task_id="features", **nights)
        scores = ScoreOperator(task_id="scores", **nights)
        parity = ParityOperator(task_id="parity", **nights)
        guard = GuardOperator(task_id="guard", **nights)
        alerts = AlertsOperator(task_id="alerts", guard_task_id="guard", **nights)
        watch = WatchOperator(task_id="watch", **nights)
        report = ReportOperator(task_id="report", **nights)
        feeds >> consistency >> features >> scores >> parity >> guard >> [alerts, watch]
        watch >> report
        start >> [features, scores]


for registered in usecase.registered(settings.load()):
    backfill(registered)
