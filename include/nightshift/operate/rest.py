"""Airflow over its REST API, as any program would use it: log in, start a run for a night, wait, answer an approval."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import requests

from include.nightshift.errors import NightshiftError
from include.nightshift.settings import Settings

ENDED = ("success", "failed")


class AirflowError(NightshiftError):
    """Airflow refused a request, or a run failed."""


class Airflow:
    """A logged-in client.

    >>> airflow = Airflow(settings.load(), "operator")
    >>> airflow.run("card_fraud_ingest", partition_key="2026-05-01")
    """

    def __init__(self, settings: Settings, user: str) -> None:
        """Log in with the password from the installation's password file.

        Raises:
            AirflowError: no such user, or Airflow does not let it in.
        """
        passwords = json.loads(settings.passwords_file.read_text())
        if user not in passwords:
            raise AirflowError(f"no Airflow user {user!r} in {settings.passwords_file}: it knows {', '.join(passwords)}")
        self.base = settings.airflow_url
        self.http = requests.Session()
        token = self._send("POST", "/auth/token", json={"username": user, "password": passwords[user]})["access_token"]
        self.http.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One call below /api/v2; its JSON.

        Raises:
            AirflowError: Airflow answered with an error; the message holds its words.
        """
        return self._send(method, f"/api/v2{path}", **arguments)

    def _send(self, method: str, path: str, **arguments: Any) -> Any:
        response = self.http.request(method, self.base + path, timeout=60, **arguments)
        if response.status_code >= 400:
            raise AirflowError(f"{method} {path}: {response.status_code} {response.text[:500]}")
        return response.json() if response.content else None

    def wait_for_dags(self, dag_ids: list[str], *, seconds: float = 120) -> None:
        """Wait until the DAGs are known and active.

        Raises:
            AirflowError: they are not, in that time; with the import errors that Airflow reports.
        """
        for _ in ticks(seconds):
            known = {dag["dag_id"] for dag in self.call("GET", "/dags?limit=1000")["dags"]}
            if known.issuperset(dag_ids):
                return
        errors = [f"{e['filename']}: {e['stack_trace'][-500:]}" for e in self.call("GET", "/importErrors")["import_errors"]]
        raise AirflowError(f"Airflow knows no {sorted(set(dag_ids) - known)} after {seconds:g} s. Import errors: {errors or 'none'}")

    def trigger(self, dag_id: str, *, partition_key: str | None = None, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run; returns its id."""
        body: dict[str, Any] = {"logical_date": None, "conf": dict(conf or {})}
        if partition_key:
            body["partition_key"] = partition_key
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def runs(self, dag_id: str, partition_key: str | None = None) -> list[dict[str, Any]]:
        """The DAG's runs, newest first; with a key only those of that night."""
        found = self.call("GET", f"/dags/{dag_id}/dagRuns?limit=100&order_by=-run_after")["dag_runs"]
        return [run for run in found if partition_key is None or run.get("partition_key") == partition_key]

    def wait(self, dag_id: str, run_id: str, *, seconds: float = 1800) -> dict[str, Any]:
        """Wait until a run has ended well; returns it.

        Raises:
            AirflowError: it failed (with the failed tasks' last log lines), or did not end in time.
        """
        for _ in ticks(seconds):
            run = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
            if run["state"] in ENDED:
                if run["state"] == "failed":
                    raise AirflowError(f"{dag_id} {run_id} failed. {self._failures(dag_id, run_id)}")
                return dict(run)
        raise AirflowError(
            f"{dag_id} {run_id} is still {run['state']} after {seconds:g} s: look at {self.base}/dags/{dag_id}/runs/{run_id}"
        )

    def run(self, dag_id: str, **arguments: Any) -> str:
        """Start a run and wait for its end; returns its id."""
        run_id = self.trigger(dag_id, **arguments)
        self.wait(dag_id, run_id)
        return run_id

    def wait_for_run(self, dag_id: str, *, not_among: set[str], partition_key: str | None = None, seconds: float = 120) -> str:
        """Wait for a run, of the night if a key is given, that is not among those known; returns its id.

        Raises:
            AirflowError: none began in time.
        """
        for _ in ticks(seconds):
            new = [run["dag_run_id"] for run in self.runs(dag_id, partition_key) if run["dag_run_id"] not in not_among]
            if new:
                return str(new[0])
        raise AirflowError(f"no new run of {dag_id} began within {seconds:g} s")

    def settled(self, dag_id: str, run_id: str, task_id: str, *, seconds: float = 1800) -> str:
        """Wait until a task has ended; returns its state, success or skipped.

        Raises:
            AirflowError: it failed, or did not end in time.
        """
        for _ in ticks(seconds):
            state = self.tasks(dag_id, run_id).get(task_id, {}).get("state")
            if state in ("success", "skipped"):
                return str(state)
            if state in ("failed", "upstream_failed", "removed"):
                raise AirflowError(f"{dag_id} {run_id}: {task_id} is {state}. {self._failures(dag_id, run_id)}")
        raise AirflowError(f"{dag_id} {run_id}: {task_id} has not ended after {seconds:g} s")

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """Task instances of a run by task id."""
        found = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100")["task_instances"]
        return {task["task_id"]: task for task in found}

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task returned; None where it returned nothing."""
        with suppress(AirflowError):
            value = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true")["value"]
            return json.loads(value) if isinstance(value, str) and value[:1] in '[{"' else value
        return None

    def events(self, event: str) -> list[dict[str, Any]]:
        """What the audit log holds of an event, oldest first."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", f"/eventLogs?event={event}&order_by=event_log_id&limit=100&offset={len(found)}")["event_logs"]
            if not page:
                return found
            found += page

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str, *, seconds: float = 900) -> None:
        """Answer the run's approval as this user, once it asks, and again should Airflow ask again.

        Raises:
            AirflowError: the run ended before it asked, or did not end the approval in time.
        """
        for _ in ticks(seconds, every=2.5):
            task = self.tasks(dag_id, run_id)[task_id]
            if task["state"] == "success":
                return
            if task["state"] in ("failed", "upstream_failed", "skipped", "removed"):
                raise AirflowError(f"{dag_id} {run_id}: {task_id} is {task['state']}, nothing was asked. {self._failures(dag_id, run_id)}")
            if task["state"] == "awaiting_input":
                with suppress(AirflowError):  # answered already: the next look tells
                    self.call(
                        "PATCH",
                        f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails",
                        json={"chosen_options": [option], "params_input": {}},
                    )
        raise AirflowError(f"{dag_id} {run_id}: {task_id} was not answered within {seconds:g} s")

    def _failures(self, dag_id: str, run_id: str) -> str:
        told = []
        for task_id, task in self.tasks(dag_id, run_id).items():
            if task["state"] == "failed":
                log = self.call(
                    "GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{task['try_number']}?full_content=true"
                )
                lines = [line for line in map(_told, log.get("content", [])) if line]
                told.append(f"{task_id}: " + " | ".join(lines[-6:]))
        return "; ".join(told)


def ticks(seconds: float, *, every: float = 0.5) -> Iterator[None]:
    """Tick until the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(every)


def _told(line: Any) -> str:
    """A log line that carries an error, in words."""
    if not isinstance(line, dict) or line.get("level") not in ("error", "critical", "warning"):
        return ""
    details = [f"{e.get('exc_type')}: {e.get('exc_value')}" for e in line.get("error_detail") or []]
    return " ".join([str(line.get("event", "")), *details])
