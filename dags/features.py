"""Build and test a night's features with dbt.

**Fires** when both silver assets of the night are there. **Reads** `silver.<feed>`. **Writes**
`gold.<use case>_features`, `ops.dbt_nodes` (also of a build that failed), `ops.nights`; publishes the features asset.

**When it fails.** *A dbt test or model*: the message names the node; the night's features stay as they were. *Rows missing
against silver*: a join loses or doubles rows; do not score this night before it is mended.
**Rerun?** Always safe: the night is replaced in one commit, and equal content commits nothing.
"""

from __future__ import annotations

from airflow.sdk import DAG, PartitionedAssetTimetable
from nightshift_airflow import assets
from nightshift_airflow.defaults import night_dag
from nightshift_airflow.operators.features import FeaturesOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase


def features(use_case: UseCase) -> None:
    both = assets.silver(use_case, use_case.events) & assets.silver(use_case, use_case.labels)
    with DAG(**night_dag(use_case, "features", __doc__), schedule=PartitionedAssetTimetable(assets=both)):
        FeaturesOperator(task_id="features", use_case=use_case.name, outlets=[assets.features(use_case)])


for registered in usecase.registered(settings.load()):
    features(registered)
