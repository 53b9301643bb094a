"""What every process of an installation is told: where things lie and listen, and its secrets, from the settings alone."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from include.nightshift.settings import ROOT, Settings

USERS = {"admin": "admin", "operator": "op", "analyst": "viewer"}
"""Airflow's users and their roles. The operator approves models; the analyst looks."""


def environment(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every process of this installation, and of whoever wants to act as one (tests, the demo).

    Where things lie and listen follows the settings, whatever `environ` (default: this process's) says; what is a matter of taste or
    scale (database, executor, parallelism, log shipping, any other `AIRFLOW__…`) is a default that `environ` may override.
    """
    given = dict(os.environ if environ is None else environ)
    # Bytecode is what makes a task start quickly; some shells and images switch it off.
    given.pop("PYTHONDONTWRITEBYTECODE", None)
    # Programs of this environment (`dbt`, `airflow`) before the machine's.
    programs = str(Path(sys.executable).parent)
    path = [programs, *(part for part in given.get("PATH", os.defpath).split(os.pathsep) if part != programs)]
    ours = {"PATH": os.pathsep.join(path), **_ours(settings), **nightshift_variables(settings)}
    return _defaults(settings) | given | ours


def nightshift_variables(settings: Settings) -> dict[str, str]:
    """The settings as the `NIGHTSHIFT_…` variables that `settings.load` reads them back from."""
    variables = {
        "NIGHTSHIFT_HOME": str(settings.home),
        "NIGHTSHIFT_LANDING": settings.landing_location,
        "NIGHTSHIFT_LAKEHOUSE": settings.lakehouse_location,
        "NIGHTSHIFT_USECASES": ",".join(settings.usecases),
        "NIGHTSHIFT_FEED_SPANS": ",".join(f"{feed}={first or ''}..{last or ''}" for feed, (first, last) in settings.feed_spans.items()),
        "NIGHTSHIFT_CLOCK": "on" if settings.clock else "off",
        "NIGHTSHIFT_SPARK_REMOTE": settings.spark_url,
        "NIGHTSHIFT_SPARK_TOKEN_FILE": str(settings.spark_token_file or ""),
        "NIGHTSHIFT_MLFLOW_URI": settings.mlflow_url,
        "NIGHTSHIFT_MLFLOW_TOKEN_FILE": str(settings.mlflow_token_file or ""),
        "NIGHTSHIFT_TLS_IN_FRONT": "on" if settings.tls_in_front else "off",
        "NIGHTSHIFT_LAKEHOUSE_MEMORY": settings.lakehouse_memory,
        "NIGHTSHIFT_LOCAL_PREEMPTIONS": str(settings.local_preemptions),
        "NIGHTSHIFT_POOL": settings.pool,
        "NIGHTSHIFT_EC2": str(settings.ec2 or ""),
        "NIGHTSHIFT_APPROVER": settings.approver,
        "NIGHTSHIFT_APPROVERS": ",".join(settings.approvers),
        "NIGHTSHIFT_NOTIFY": " ".join(settings.notify),
    }
    variables |= {f"NIGHTSHIFT_PORT_{name.upper()}": str(port) for name, port in vars(settings.ports).items()}
    return variables | {f"NIGHTSHIFT_BIND_{name.upper()}": address for name, address in vars(settings.binds).items()}


def prepare_home(settings: Settings) -> dict[str, str]:
    """Make the home's folders, Airflow's passwords and its secrets, each written once and readable by its owner only.

    Returns:
        The passwords by user when they were made now, nothing when they were there.
    """
    for name in ("airflow", "logs", "mlflow", "metastore"):
        (settings.home / name).mkdir(parents=True, exist_ok=True)
    # Its database holds the runs, and beside it lie the passwords.
    (settings.home / "airflow").chmod(0o700)
    settings.landing_folder.mkdir(parents=True, exist_ok=True)
    _write_secrets(settings.home / "airflow" / "airflow.cfg")
    if settings.passwords_file.exists():
        return {}
    passwords = {user: secrets.token_urlsafe(24) for user in USERS}
    _write_private(settings.passwords_file, json.dumps(passwords, indent=2) + "\n")
    return passwords


def loopback() -> str:
    """The name by which Airflow's processes call their machine: nothing listens on any other address."""
    return "127.0.0.1"


def _defaults(settings: Settings) -> dict[str, str]:
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{settings.home / 'airflow' / 'airflow.db'}",
        "AIRFLOW__CORE__EXECUTOR": "nightshift_airflow.executors.WarmLocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "false",
        # A forked task starts in a tenth of the time of a new interpreter.
        "AIRFLOW__CORE__EXECUTE_TASKS_NEW_PYTHON_INTERPRETER": "false",
        "AIRFLOW__API__EXPOSE_CONFIG": "false",
        # Halves what a chain of tasks costs (0.5 s a task instead of 1.2).
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        # A new DAG file, or a changed one, shows within this, not within five minutes.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "20",
        # The others are read anew this often only: every half minute cost a sixth of a core, all day.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    }


def _ours(settings: Settings) -> dict[str, str]:
    home, url = settings.home, settings.airflow_url
    return {
        "PYTHONPATH": str(ROOT),
        "SPARK_REMOTE": settings.spark_url,
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": f"{__name__}.loopback",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(settings.passwords_file),
        "AIRFLOW__API__HOST": loopback(),
        "AIRFLOW__API__PORT": str(settings.ports.airflow),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "airflow" / "logs"),
        # Nobody is told that you run this.
        "DO_NOT_TRACK": "true",
        "SCARF_ANALYTICS": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Airflow's processes rename themselves, which on Linux would overwrite the environment that `down` knows them by.
        "SPT_NOENV": "1",
    }


def _write_secrets(path: Path) -> None:
    """Airflow's keys, in the one place that no child process inherits. Everything else comes from the environment."""
    if path.exists():
        return
    keys = {
        "core": ("fernet_key", base64.urlsafe_b64encode(os.urandom(32)).decode()),
        "api": ("secret_key", secrets.token_urlsafe(32)),
        "api_auth": ("jwt_secret", secrets.token_urlsafe(64)),
    }
    text = [f"[{section}]\n{name} = {value}\n" for section, (name, value) in keys.items()]
    _write_private(path, "# Secrets only, made for this home; all other settings come from the environment.\n" + "\n".join(text))


def _write_private(path: Path, text: str) -> None:
    """Write a whole file that nobody else may read, never showing half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)
