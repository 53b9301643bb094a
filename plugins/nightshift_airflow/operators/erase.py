"""Erase: a person's data, by the token of their request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.nightshift import settings, usecase
from include.nightshift.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Context

TOKEN = "{{ params.token }}"  # noqa: S105 - a template


class EraseOperator(BaseOperator):
    """Erases the person of a request; returns the receipt, which tells of no id.

    :param use_case: name of the use case.
    :param token: names the request; templated.
    """

    template_fields: Sequence[str] = ("token",)

    def __init__(self, *, use_case: str, token: str = TOKEN, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.token = token

    def execute(self, context: Context) -> Any:
        from include.nightshift.erase import erase
        from include.nightshift.lakehouse.session import connect

        installed = settings.load()
        try:
            done = erase(connect(installed), installed, usecase.load(self.use_case, installed), self.token)
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from None
        for name in ("rows", "purged", "pins", "files", "reported", "models", "searched"):
            self.log.info("%s: %s", name, done[name])
        if done["retrain"]:
            self.log.warning("the model that reigns had the person among its rows: %s waits in ops.retrain_requests", done["retrain"])
        return {name: done[name] for name in ("request_id", "subject", "digest", "retrain")} | {"rows": json.loads(done["rows"])}
