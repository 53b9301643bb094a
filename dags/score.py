"""Score a night with its champion, compare a sample with what silver gives, and publish the morning's list.

**Fires** when the night's features are there. **Reads** `gold.<use case>_features`, the champion whose nights contain the
night (`ops.champion_history`), its model from MLflow or the local copy. **Writes** `gold.<use case>_scores`,
`gold.<use case>_alerts`, `ops.parity`, `ops.nights`; publishes the scores asset.

**Skipped** when nobody reigns over the night: train a first model. **When it fails.** *Other bytes than registered*:
somebody changed the model; roll back and find out. *MLflow does not answer*: `make status`. *parity*: features or
scores are not what silver gives, and nothing was published; build the night's features again and score it (`ops.parity` tells the columns).
**Rerun?** Always safe; an old night is scored by the champion of that night, never by a later one.
"""

from __future__ import annotations

from airflow.sdk import DAG, PartitionedAssetTimetable
from nightshift_airflow import assets
from nightshift_airflow.defaults import night_dag
from nightshift_airflow.operators.score import AlertsOperator, ParityOperator, ScoreOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase


def score(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "score", __doc__), schedule=PartitionedAssetTimetable(assets=assets.features(use_case))):
        scores = ScoreOperator(task_id="scores", use_case=use_case.name)
        parity = ParityOperator(task_id="parity", use_case=use_case.name)
        alerts = AlertsOperator(task_id="alerts", use_case=use_case.name, scores_task_id="scores", outlets=[assets.scores(use_case)])
        scores >> parity >> alerts


for registered in usecase.registered(settings.load()):
    score(registered)
