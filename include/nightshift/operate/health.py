"""Does it answer? One quick question to each process of an installation."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from http.client import HTTPException
from typing import Any

from include.nightshift.settings import Settings

_AIRFLOW = {
    "airflow-api-server": "metadatabase",
    "airflow-scheduler": "scheduler",
    "airflow-dag-processor": "dag_processor",
    "airflow-triggerer": "triggerer",
}
_SECONDS = 2.0
"""A process of this machine that takes longer is asked again later."""

# Never through a proxy: everything asked here is on loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answering(settings: Settings, started: Mapping[str, float]) -> set[str]:
    """Those of the programs in `started` (name -> epoch seconds of its start) that answer now.

    A listening port is enough for the lakehouse (it opens both last of all). Airflow vouches for its components by their last
    heartbeat, and goes on doing so for half a minute after their death: a heartbeat counts only from this process's own life.
    """
    up = set()
    if "lakehouse" in started and _listens(settings.ports.spark) and _listens(settings.ports.jdbc):
        up.add("lakehouse")
    if "mlflow" in started and _get(f"http://127.0.0.1:{settings.ports.mlflow}/health") is not None:
        up.add("mlflow")
    asked = started.keys() & _AIRFLOW.keys()
    if asked and (body := _get(f"{settings.airflow_url}/api/v2/monitor/health")) is not None:
        health: dict[str, Any] = json.loads(body)
        up |= {name for name in asked if _lives(health.get(_AIRFLOW[name]) or {}, _AIRFLOW[name], started[name])}
    return up


def _lives(part: Mapping[str, str | None], component: str, since: float) -> bool:
    if part.get("status") != "healthy":
        return False
    if component == "metadatabase":
        return True
    beat = part.get(f"latest_{component}_heartbeat")
    return beat is not None and datetime.fromisoformat(beat).timestamp() >= since


def _listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(_SECONDS)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _get(url: str) -> bytes | None:
    try:
        with _opener.open(url, timeout=_SECONDS) as response:
            body: bytes = response.read()
            return body
    except (OSError, urllib.error.URLError, HTTPException):
        # Not there yet, or not there any more: the answer is no.
        return None
