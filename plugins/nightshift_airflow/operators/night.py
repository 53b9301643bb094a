"""The base of all operators that work on nights: checks the partition key, calls the stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.nightshift import nights, settings, usecase
from include.nightshift.errors import ConfigurationError, NightError
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

if TYPE_CHECKING:
    from airflow.sdk import Context

PARTITION = "{{ dag_run.partition_key }}"
"""The night of a partitioned run."""
RANGE = "{{ params.first_night }}..{{ params.last_night }}"
"""The nights of a `backfill`."""


class NightOperator(BaseOperator):
    """Works on one night or a range; a text that names none fails at once, with advice, and is not retried.

    :param use_case: name of the use case.
    :param nights: a night `YYYY-MM-DD` or `FIRST..LAST`; a template, by default the run's partition key.
    """

    template_fields: Sequence[str] = ("nights",)

    def __init__(self, *, use_case: str, nights: str = PARTITION, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.nights = nights

    def execute(self, context: Context) -> Any:
        try:
            first, last = nights.parse_range(self.nights)
            installed = settings.load()
            use_case = usecase.load(self.use_case, installed)
        except (NightError, ConfigurationError) as error:
            raise AirflowFailException(str(error)) from error
        return self.work(context, installed, use_case, list(nights.between(first, last)))

    @abstractmethod
    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        """Do the stage's work on the nights; the result goes to XCom."""


def by_night(counts: dict[date, int]) -> dict[str, int]:
    """Counts with their nights as text, for XCom."""
    return {night.isoformat(): count for night, count in sorted(counts.items())}
