"""Ingest: landing → bronze → silver, and the events that say a night is there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from include.nightshift import ingest, notify
from include.nightshift.errors import ContractError
from nightshift_airflow import connections
from nightshift_airflow.operators.night import NightOperator, by_night

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pyspark.sql import SparkSession

    from include.nightshift.rules import Verdict
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed, UseCase

ACCEPTED = "{{ params.accept }}"
"""Rules that somebody lets through, separated by commas: what the form of the run says."""


class PullOperator(NightOperator):
    """Lands the nights' files of a feed that is pulled, in their order; a night that has its file is left as it is.

    :param feed: name of the feed.
    :param again: `True`: replace files that were pulled by what the source holds of their nights now; templated.
    """

    template_fields: Sequence[str] = (*NightOperator.template_fields, "again")

    def __init__(self, *, feed: str, again: str = "False", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feed = feed
        self.again = again

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.ingest import pull

        feed = next(feed for feed in use_case.feeds if feed.name == self.feed)
        if feed.pull is None:
            raise AirflowFailException(f"feed {feed.name} of {use_case.name} is not pulled: Feed.pull is None")
        uri = connections.postgresql(feed.pull.connection)
        rows, late = {}, {}
        for night in nights:
            pulled = pull.pull(settings, feed, night, uri, again=str(self.again) == "True")
            if pulled is None:
                self.log.info("%s %s: no drop is owed", feed.name, night)
                continue
            counts = f"{pulled.late} of them late, {pulled.left_out} brought before, {pulled.seconds:.1f} s" if pulled.read else "as it was"
            self.log.info("%s %s: %s rows at %s, %s", feed.name, night, pulled.rows, pulled.path, counts)
            rows[night.isoformat()], late[night.isoformat()] = pulled.rows, pulled.late
        return {"rows": rows, "late": late}


class IngestOperator(NightOperator):
    """Brings one feed's drops of the nights to bronze and silver, says what the contract made of them, and tells what is new of it.

    :param feed: name of the feed.
    :param accept: rules that would stop a batch and may not this time, separated by commas; templated.
    """

    template_fields: Sequence[str] = (*NightOperator.template_fields, "accept")

    def __init__(self, *, feed: str, accept: str = ACCEPTED, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feed = feed
        self.accept = accept

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse.session import connect

        feed = next(feed for feed in use_case.feeds if feed.name == self.feed)
        accept = [rule for rule in self.accept.split(",") if rule]
        try:
            done = self._bring(connect(settings), settings, feed, nights, accept)
        except ContractError as error:
            _say(self.log, settings, error.verdicts, error.news)
            raise
        for night, landed in done.landed.items():
            counts = f"{landed} landed, {done.accepted[night]} accepted, {done.rejected[night]} to quarantine"
            if night in done.erased:
                counts += f", {done.erased[night]} more left out, because their person was erased"
            self.log.info("%s %s: %s%s", feed.name, night, counts, ", as it was" if night in done.unchanged else "")
        _say(self.log, settings, done.verdicts, done.news)
        self._record(settings, use_case, done)
        return {"landed": by_night(done.landed), "accepted": by_night(done.accepted), "version": done.version, "seconds": done.seconds}

    def _bring(self, session: SparkSession, settings: Settings, feed: Feed, nights: list[date], accept: list[str]) -> ingest.Ingested:
        return ingest.ingest(session, settings, feed, nights, accept=accept)

    def _record(self, settings: Settings, use_case: UseCase, done: ingest.Ingested) -> None:
        from include.nightshift.lakehouse import ledger

        entries = []
        for night, landed in done.landed.items():
            seconds, state = done.seconds / len(done.landed), "done" if landed else "empty"
            entries.append(ledger.Entry(night, f"bronze.{done.feed}", landed, landed, 0, seconds, state))
            silver = ledger.Entry(night, f"silver.{done.feed}", landed, done.accepted[night], done.rejected[night], seconds, state)
            entries.append(silver)
        ledger.record(settings, use_case, entries)


class ReleaseOperator(IngestOperator):
    """Judges one feed's rows of the nights again, from bronze, by the contract as it is now."""

    def _bring(self, session: SparkSession, settings: Settings, feed: Feed, nights: list[date], accept: list[str]) -> ingest.Ingested:
        done = ingest.release(session, settings, feed, nights, accept=accept)
        self.log.info("%s: %s rows left quarantine for silver", feed.name, done.released)
        return done

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        """Keep who did it, before it is done: they will not answer for a model that learns from these rows."""
        from include.nightshift.promote import acts

        run, detail = context["dag_run"], {"feed": self.feed, "first_night": str(nights[0]), "last_night": str(nights[-1])}
        acts.record(
            settings,
            use_case,
            acts.RELEASE,
            act_id=f"{run.dag_id} {run.run_id} {self.feed}",
            by=run.triggering_user_name or "nobody known",
            why=f"{self.feed} of nights {nights[0]} to {nights[-1]} is judged again",
            detail=detail,
        )
        return super().work(context, settings, use_case, nights)


class ConsistencyOperator(NightOperator):
    """Judges what must hold between the feeds of the nights."""

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.ingest import consistency
        from include.nightshift.lakehouse.session import connect

        try:
            verdicts, news = consistency.judge(connect(settings), settings, use_case, nights)
        except ContractError as error:
            _say(self.log, settings, error.verdicts, error.news)
            raise
        _say(self.log, settings, verdicts, news)
        return None


class PublishOperator(ConsistencyOperator):
    """Publishes the silver assets of all feeds at once, each with its table's version: consumers wait for every feed. Then describes them
    all anew in the source catalogue.

    Feeds that contradict each other, by a rule that stops, are not published.

    :param task_ids: the ingest task of each outlet, in the outlets' order.
    """

    def __init__(self, *, task_ids: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.task_ids = task_ids

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        super().work(context, settings, use_case, nights)
        for outlet, task_id in zip(self.outlets, self.task_ids, strict=True):
            done = context["ti"].xcom_pull(task_ids=task_id)
            context["outlet_events"][outlet].extra = {"version": done["version"], "rows": sum(done["accepted"].values())}
        self.describe(settings)

    def describe(self, settings: Settings) -> None:
        """Write the source catalogue; the night is published without it too."""
        from include.nightshift.operate import sources

        try:
            self.log.info("source catalogue: %s", sources.write(settings))
        except Exception:
            self.log.exception("the source catalogue could not be written, the one before stands; `make sources` tries again")


def _say(log: logging.Logger, settings: Settings, verdicts: Sequence[Verdict], news: Sequence[Verdict]) -> None:
    """Verdicts to the task's log, failures each, and what is new to whoever is named."""
    for verdict in verdicts:
        if not verdict.passed:
            log.warning("%s", verdict)
    if verdicts:
        outcomes = [verdict.outcome for verdict in verdicts]
        log.info("contract: %s", ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes))))
    notify.tell(settings, news)
