"""Train: claim the requests, pin what is read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include.nightshift import settings, usecase
from include.nightshift.errors import NotMaturedError
from nightshift_airflow.operators.night import NightOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

LAST_WHOLE_NIGHT = "last"
"""The default of `as_of`: the newest night that both feeds have brought."""


class ClaimOperator(BaseOperator):
    """Settles `as_of` and takes the open requests. A run that an asset event started and that finds none is skipped:
    events coalesce, so an earlier run has answered already.

    :param use_case: name of the use case.
    :param as_of: a night, or `last`; templated.
    """

    template_fields: Sequence[str] = ("as_of",)

    def __init__(self, *, use_case: str, as_of: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.as_of = as_of

    def execute(self, context: Context) -> Any:
        from include.nightshift import nights
        from include.nightshift.errors import NightError
        from include.nightshift.lakehouse import log, tables
        from include.nightshift.monitor import requests

        installed = settings.load()
        use_case = usecase.load(self.use_case, installed)
        if self.as_of == LAST_WHOLE_NIGHT:
            held = [log.extent(installed, tables.silver(feed)) for feed in use_case.feeds]
            if None in held:
                raise AirflowFailException(
                    f"{use_case.name}: silver holds no night of both feeds yet. Load some with {use_case.name}_backfill"
                )
            as_of = min(last for _, last in filter(None, held))
        else:
            try:
                as_of = nights.parse(self.as_of, what="as_of")
            except NightError as error:
                raise AirflowFailException(str(error)) from error
        claimed = requests.claim(installed, use_case, as_of)
        if not claimed and context["dag_run"].run_type == "asset_triggered":
            raise AirflowSkipException("no open request: an earlier run has answered the one that this event announced")
        self.log.info("as of night %s, requests: %s", as_of, ", ".join(claimed) or "none, somebody asked")
        return {"as_of": as_of.isoformat(), "request_ids": claimed}


class PinOperator(NightOperator):
    """Lays the training run's rows, at pinned table versions, in its folder; returns the folder.

    :param recipe: name of one of the use case's candidates.
    """

    def __init__(self, *, recipe: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe = recipe

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.train import pin

        recipe = next(recipe for recipe in use_case.trained if recipe.name == self.recipe)
        try:
            return str(pin.pin(connect(settings), settings, use_case, recipe, nights[-1]))
        except NotMaturedError as error:
            # Waiting a few seconds between retries matures nothing.
            raise AirflowFailException(str(error)) from error
