"""The only file under plugins/ that Airflow executes; the package beside it is imported, never executed (.airflowignore)."""

from airflow.plugins_manager import AirflowPlugin
from nightshift_airflow import listeners, ui
from nightshift_airflow.links import DbtResultsLink, MachineLink, MlflowRunLink, ReportLink


class NightshiftPlugin(AirflowPlugin):
    """Registers what Airflow cannot find by itself."""

    name = "nightshift"
    operator_extra_links = [MlflowRunLink(), MachineLink(), DbtResultsLink(), ReportLink()]  # noqa: RUF012 - Airflow's own attribute
    listeners = [listeners]  # noqa: RUF012
    fastapi_apps = [{"app": ui.serve, "url_prefix": "/nightshift", "name": "Nightshift"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "dbt results",
            "href": "/nightshift/dbt/{DAG_ID}/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "dbt-results",
        }
    ]
