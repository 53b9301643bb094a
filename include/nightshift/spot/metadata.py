"""Metadata: what EC2 tells a machine of its own end, over IMDSv2. A herald (`agent.Herald`) that asks every five seconds, as AWS advises.

`spot/instance-action` says when the machine goes, two minutes ahead, as a best effort. A rebalance recommendation says that it may go
sooner than others: it stays, and saves after every stretch from then on (`interruption.AT_RISK`). Leaving already would give up a
machine that often lives for hours more.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import time
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from include.nightshift.train import interruption

log = logging.getLogger("nightshift.metadata")

ASK_SECONDS = 5.0
URL = "http://169.254.169.254"

_TOKEN_SECONDS = 6 * 3600
_PATIENCE = 2.0
_ACTION = "/latest/meta-data/spot/instance-action"
_REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


class Metadata:
    """Asks in a thread of its own: a service that is slow or gone must not keep the agent from its work."""

    def __init__(self, folder: Path, url: str = "") -> None:
        """`url`: where the service answers, if neither the usual place nor the one that AWS's own variable names."""
        url = url or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or URL
        self._folder, self._address = folder, urlsplit(url).netloc
        self._token, self._renew_at = "", 0.0
        self._goes_at: datetime | None = None
        self._at_risk = False
        threading.Thread(target=self._ask_on, name="metadata", daemon=True).start()

    def goes_at(self) -> datetime | None:
        return self._goes_at

    def _ask_on(self) -> None:
        while self._goes_at is None:
            try:
                self._ask()
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                log.warning("the metadata service did not say whether this machine goes (%s); asking again", error)
            time.sleep(ASK_SECONDS)

    def _ask(self) -> None:
        if action := self._read(_ACTION):
            self._goes_at = datetime.fromisoformat(json.loads(action)["time"])
        if not self._at_risk and self._read(_REBALANCE):
            self._at_risk = True
            interruption.mark_at_risk(self._folder)
            log.warning("this machine may go soon: every stretch is saved from now on")

    def _read(self, path: str) -> str | None:
        """What stands there; None where nothing does."""
        if time.monotonic() >= self._renew_at:
            self._renew()
        status, content = self._answer("GET", path, {"X-aws-ec2-metadata-token": self._token})
        if status == 401:
            self._renew()
            status, content = self._answer("GET", path, {"X-aws-ec2-metadata-token": self._token})
        if status not in (200, 404):
            raise OSError(f"{path} answered {status}")
        return content if status == 200 else None

    def _renew(self) -> None:
        status, token = self._answer("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)})
        if status != 200:
            raise OSError(f"no token: {status}")
        self._token, self._renew_at = token, time.monotonic() + _TOKEN_SECONDS / 2

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        # The machine's own address: no proxy comes between, whatever the environment says.
        connection = http.client.HTTPConnection(self._address, timeout=_PATIENCE)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()
