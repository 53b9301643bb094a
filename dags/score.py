"""Score a night with its champion, compare it with what silver gives, have the guards judge it, and publish the morning's list.

**Fires** when the night's features are there. **Reads** `gold.<use case>_features`, the champion whose nights contain the
night (`ops.champion_history`), its verified copy. **Writes** `gold.<use case>_scores`, `ops.parity`, `ops.nights`,
`gold.<use case>_alerts` and `ops.publications`; publishes the scores asset.

What the guards see decides (`ops.publications` has it in words). A fault of the *data* holds the list: yesterday's stands, marked `stale`.
One of the *model* has the night scored again, by the champion that was verified last (`fallback`) or a linear one (`baseline`). What is
only *odd* is published and marked.

**Skipped** when nobody reigns over the night: train a first model. **When it fails.** *alerts*: the list is held, and the message says what
was seen, what was expected and what to do; mend it and clear `scores`, or have a second person start `<use case>_publish`. *RegistryError*:
nothing that was verified can score.
**Rerun?** Always safe; an old night is scored by the champion of that night, never by a later one.
"""

from __future__ import annotations

from airflow.sdk import DAG, PartitionedAssetTimetable
from nightshift_airflow import assets
from nightshift_airflow.defaults import night_dag
from nightshift_airflow.operators.score import AlertsOperator, GuardOperator, ParityOperator, ScoreOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase


def score(use_case: UseCase) -> None:
    with DAG(**night_dag(use_case, "score", __doc__), schedule=PartitionedAssetTimetable(assets=assets.features(use_case))):
        scores = ScoreOperator(task_id="scores", use_case=use_case.name)
        parity = ParityOperator(task_id="parity", use_case=use_case.name)
        guard = GuardOperator(task_id="guard", use_case=use_case.name, outlets=[assets.scores(use_case)])
        alerts = AlertsOperator(task_id="alerts", use_case=use_case.name, guard_task_id="guard")
        scores >> parity >> guard >> alerts


for registered in usecase.registered(settings.load()):
    score(registered)
