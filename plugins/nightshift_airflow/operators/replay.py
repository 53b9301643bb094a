"""Replay: past nights made again and compared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from include.nightshift.errors import ReplayError
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase
from nightshift_airflow.operators.night import NightOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReplayOperator(NightOperator):
    """Replays nights; returns the outcome of each. Fails, without trying again, where one differs and nothing explains it, or is lost.

    :param cores: of the machine, for the rebuild; a template, empty for all of them.
    """

    template_fields: Sequence[str] = ("nights", "cores")

    def __init__(self, *, cores: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cores = cores

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> dict[str, str]:
        from include.nightshift.replay import replay

        try:
            found = replay(settings, use_case, nights, cores=int(self.cores) if self.cores else None)
        except ReplayError as error:
            raise AirflowFailException(str(error)) from error
        for night in found:
            self.log.info("night %s, revision %s: %s", night.night, night.revision, "\n  ".join((night.outcome, *night.reasons)))
        if wrong := [night for night in found if night.outcome in ("differs", "lost")]:
            told = [f"night {night.night} ({night.outcome}): {'; '.join(night.reasons)}" for night in wrong]
            raise AirflowFailException(f"{len(wrong)} of {len(found)} nights are not what was published.\n" + "\n".join(told))
        return {night.night.isoformat(): night.outcome for night in found}
