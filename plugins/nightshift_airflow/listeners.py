"""Listeners: what Airflow's own processes do when a run ends. Tasks cannot write its database; these can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

AUDIT = "audit"
"""The XCom in which a task leaves what the audit log is to keep, by event."""


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Have the audit log keep what the run's tasks left for it."""
    _keep(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """The same: what a task left stands, whatever failed beside it."""
    _keep(dag_run)


def _keep(dag_run: DagRun) -> None:
    """Write it in the transaction in which the run ends: with it or not at all.

    In that session, because the scheduler holds its database, and a second one would wait for it. A task has read what is to be kept,
    because the scheduler forks tasks, and delta-rs's threads do not survive a fork.
    """
    import json

    from airflow import settings
    from airflow.models.log import Log
    from airflow.models.xcom import XComModel
    from sqlalchemy.orm import object_session

    # The thread's own where the run was read in one that is closed by now, as by `airflow dags test`.
    session = object_session(dag_run) or settings.Session()
    for left in session.scalars(XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, key=AUDIT)):
        names = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id, "task_id": left.task_id}
        for event, said in XComModel.deserialize_value(left).items():
            session.add(Log(event, owner="nightshift", extra=json.dumps(said, sort_keys=True), **names))
