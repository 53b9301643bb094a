"""Ingest: landing → bronze → silver, and the events that say a night is there."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from include.nightshift import ingest
from nightshift_airflow.operators.night import NightOperator, by_night

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


class IngestOperator(NightOperator):
    """Brings one feed's drops of the nights to bronze and silver.

    :param feed: name of the feed.
    """

    def __init__(self, *, feed: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feed = feed

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse.session import connect

        feed = next(feed for feed in use_case.feeds if feed.name == self.feed)
        done = ingest.ingest(connect(settings), settings, feed, nights)
        for night, landed in done.landed.items():
            self.log.info(
                "%s %s: %s landed, %s accepted, %s to quarantine", feed.name, night, landed, done.accepted[night], done.rejected[night]
            )
        self._record(settings, use_case, done)
        return {"landed": by_night(done.landed), "accepted": by_night(done.accepted), "version": done.version, "seconds": done.seconds}

    def _record(self, settings: Settings, use_case: UseCase, done: ingest.Ingested) -> None:
        from include.nightshift.lakehouse import ledger

        seconds = done.seconds / len(done.landed)
        entries = [
            ledger.Entry(
                night, f"silver.{done.feed}", landed, done.accepted[night], done.rejected[night], seconds, "done" if landed else "empty"
            )
            for night, landed in done.landed.items()
        ]
        ledger.record(settings, use_case, entries)


class PublishOperator(BaseOperator):
    """Publishes the silver assets of all feeds at once, each with its table's version: consumers wait for every feed.

    :param task_ids: the ingest task of each outlet, in the outlets' order.
    """

    def __init__(self, *, task_ids: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.task_ids = task_ids

    def execute(self, context: Context) -> None:
        for outlet, task_id in zip(self.outlets, self.task_ids, strict=True):
            done = context["ti"].xcom_pull(task_ids=task_id)
            context["outlet_events"][outlet].extra = {"version": done["version"], "rows": sum(done["accepted"].values())}
