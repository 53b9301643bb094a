"""Links from a task to what it made elsewhere."""

from __future__ import annotations

from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom


class MlflowRunLink(BaseOperatorLink):
    """From a training task to its run in MLflow."""

    name = "MLflow run"

    def get_link(self, operator, *, ti_key):  # type: ignore[no-untyped-def]
        """The run's page, empty until the task has pushed it."""
        return XCom.get_value(ti_key=ti_key, key="mlflow_run_url") or ""


class MachineLink(BaseOperatorLink):
    """From a training task to the first machine that it got, where the pool has a page about it."""

    name = "Machine"

    def get_link(self, operator, *, ti_key):  # type: ignore[no-untyped-def]
        """The machine's page, empty where there is none."""
        return XCom.get_value(ti_key=ti_key, key="machine_url") or ""


class DbtResultsLink(BaseOperatorLink):
    """From a task that builds features to what each model and test of dbt did."""

    name = "dbt results"

    def get_link(self, operator, *, ti_key):  # type: ignore[no-untyped-def]
        """The page of `nightshift_airflow.ui` about the task's run."""
        from airflow.sdk.configuration import conf

        base = conf.get("api", "base_url", fallback="/").rstrip("/")
        return f"{base}/nightshift/dbt/{quote(ti_key.dag_id, safe='')}/{quote(ti_key.run_id, safe='')}"


class ReportLink(BaseOperatorLink):
    """From the gate to the page of its report."""

    name = "gate report"

    def get_link(self, operator, *, ti_key):  # type: ignore[no-untyped-def]
        """The page of `nightshift_airflow.ui`, empty until the report is written."""
        report = XCom.get_value(ti_key=ti_key, key="report")
        return report_page(ti_key.dag_id, report["digest"]) if report else ""


def report_page(dag_id: str, digest: str) -> str:
    """Where a report is read, by whoever may see the DAG."""
    from airflow.sdk.configuration import conf

    return f"{conf.get('api', 'base_url', fallback='/').rstrip('/')}/nightshift/gates/{quote(dag_id, safe='')}/{digest}"
