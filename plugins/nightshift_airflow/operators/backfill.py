"""Backfill: where a range of nights begins its walk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.branch import BaseBranchOperator
from airflow.sdk.exceptions import AirflowFailException

from include.nightshift import nights
from include.nightshift.errors import NightError

if TYPE_CHECKING:
    from airflow.sdk import Context


class StartAtOperator(BaseBranchOperator):
    """Checks the range and goes to the first stage that `params.start_at` names; later stages follow it.

    :param use_case: name of the use case.
    :param nights: `FIRST..LAST`; templated.
    :param stages: the task ids of a stage whose tasks do not bear its name.
    """

    template_fields: Sequence[str] = ("nights",)

    def __init__(self, *, use_case: str, nights: str, stages: Mapping[str, list[str]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.nights = nights
        self.stages = stages

    def choose_branch(self, context: Context) -> str | list[str]:
        try:
            nights.parse_range(self.nights, what="first_night..last_night")
        except NightError as error:
            raise AirflowFailException(str(error)) from error
        stage = context["params"]["start_at"]
        return self.stages.get(stage, stage)
