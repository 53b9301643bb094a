"""The only file under plugins/ that Airflow executes; the package beside it is imported, never executed (.airflowignore)."""

from airflow.plugins_manager import AirflowPlugin
from nightshift_airflow.links import MlflowRunLink


class NightshiftPlugin(AirflowPlugin):
    """Registers what Airflow cannot find by itself."""

    name = "nightshift"
    operator_extra_links = [MlflowRunLink()]  # noqa: RUF012 - Airflow's own attribute
