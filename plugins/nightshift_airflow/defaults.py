"""What all DAGs share: owner, retries, timeouts, tags; one place, because a forgotten timeout holds a slot for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronPartitionTimetable, CronTriggerTimetable, Param, PartitionedAtRuntime

from include.nightshift import settings
from include.nightshift.usecase import UseCase

NIGHT = r"^\d{4}-\d{2}-\d{2}$"
TRAINING_POOL = "training"
"""Airflow's pool that counts trainings, also while they are deferred."""
LONG_AGO = datetime(2018, 1, 1, tzinfo=UTC)


def night_dag(use_case: UseCase, stem: str, doc: str | None) -> dict[str, Any]:
    """Arguments of a DAG named `<use case>_<file stem>`."""
    return {
        "dag_id": f"{use_case.name}_{stem}",
        "dag_display_name": f"{use_case.title}: {stem}",
        "doc_md": doc,
        "start_date": LONG_AGO,
        "catchup": False,
        "max_active_runs": 4,
        "tags": ["nightshift", use_case.name, stem],
        "default_args": {
            "owner": use_case.owner,
            "retries": 2,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(minutes=5),
            "execution_timeout": timedelta(hours=2),
        },
    }


def clock() -> CronPartitionTimetable | PartitionedAtRuntime:
    """Half past midnight UTC for the day that is over; with NIGHTSHIFT_CLOCK=off only when somebody asks.

    Pausing the DAG instead would leave REST runs queued.
    """
    if settings.load().clock:
        return CronPartitionTimetable("30 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d")
    return PartitionedAtRuntime()


def night_range() -> dict[str, Param]:
    """The parameters of a run over a range of nights; `operators.night.RANGE` reads them."""
    ends = {"first_night": "First", "last_night": "Last"}
    return {name: Param(type="string", pattern=NIGHT, description=f"{word} night, YYYY-MM-DD.") for name, word in ends.items()}


def accept() -> Param:
    """The parameter that lets a batch through though a rule would stop it."""
    words = "Contract rules that may not stop a batch this time, separated by commas. Remembered for these very files."
    return Param("", type="string", pattern=r"^([a-z][a-z0-9_]*(,[a-z][a-z0-9_]*)*)?$", description=words)


def reason() -> Param:
    """The parameter in which a person says why: something, in words."""
    return Param(type="string", pattern=r"\S", description="Why, in words that last: it is kept.")


def weekly() -> CronTriggerTimetable | None:
    """Sundays at half past four UTC, when the night's runs are long over; with NIGHTSHIFT_CLOCK=off only when somebody asks."""
    return CronTriggerTimetable("30 4 * * 0", timezone="UTC") if settings.load().clock else None
