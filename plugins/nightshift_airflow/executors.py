"""Where tasks run: Airflow's LocalExecutor, with the heavy libraries in memory before a task is forked."""

from __future__ import annotations

import importlib

from airflow.executors.local_executor import LocalExecutor

WARM = ("pyspark.sql.connect.session", "dbt.cli.main", "dbt.adapters.spark", "mlflow", "xgboost", "evidently.presets")
"""What tasks import: third parties only, so that an edit of the platform's own code reaches the very next task."""


class WarmLocalExecutor(LocalExecutor):
    """Imports once what each task would import anew: a night's tasks otherwise spend a third of their time on it.

    Import only: nothing here may start a thread or open a connection, which would not survive the fork.
    """

    def start(self) -> None:
        for name in WARM:
            importlib.import_module(name)
        super().start()
