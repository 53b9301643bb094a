"""Links from a task to what it made elsewhere."""

from __future__ import annotations

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom


class MlflowRunLink(BaseOperatorLink):
    """From a training task to its run in MLflow."""

    name = "MLflow run"

    def get_link(self, operator, *, ti_key):  # type: ignore[no-untyped-def]
        """The run's page, empty until the task has pushed it."""
        return XCom.get_value(ti_key=ti_key, key="mlflow_run_url") or ""
