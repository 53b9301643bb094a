"""Consistency: what must hold between feeds, judged once all of a night's feeds are in silver."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import ContractError
from include.nightshift.ingest import checks, silver
from include.nightshift.lakehouse import log, records, tables
from include.nightshift.lakehouse.session import where
from include.nightshift.rules import Counts, Reference, Verdict, outcome

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed, UseCase

KINDS = ("consistency",)


def judge(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> tuple[list[Verdict], list[Verdict]]:
    """The verdicts on the nights' feeds together, stored; and those failures among them that were not known before.

    Raises:
        ContractError: a rule that stops is broken: the nights are in silver, and must not be published.
    """
    feeds = {feed.name: feed for feed in use_case.feeds}
    verdicts: list[Verdict] = []
    news: list[Verdict] = []
    for feed in use_case.feeds:
        said = [verdict for rule in feed.feed_rules for verdict in _judged(session, settings, feed, feeds[rule.feed], rule, nights)]
        verdicts += said
        news += checks.store(settings, feed, nights, said, KINDS) if feed.feed_rules else []
    if stopped := [verdict for verdict in verdicts if verdict.stops]:
        error = ContractError(
            f"silver, night {stopped[0].night}: the feeds contradict each other, the night is not published. "
            + "; ".join(map(str, stopped))
            + ". Have the wrong one landed again, then run the night again",
            stopped,
        )
        error.news = tuple(news)
        raise error
    return verdicts, news


def _judged(
    session: SparkSession, settings: Settings, feed: Feed, other: Feed, rule: Reference | Counts, nights: Sequence[date]
) -> list[Verdict]:
    match rule:
        case Reference():
            return _reference(session, settings, feed, other, rule, nights)
        case Counts():
            return _counts(settings, feed, other, rule, nights)


def _reference(
    session: SparkSession, settings: Settings, feed: Feed, other: Feed, rule: Reference, nights: Sequence[date]
) -> list[Verdict]:
    held = log.rows_by_night(settings, tables.silver(feed), {"day": nights})
    window = [night for night in log.rows_by_night(settings, tables.silver(other)) if night <= max(nights)]
    window = [night for night in window if night >= min(nights) - timedelta(days=rule.within_days)]
    mine = session.table(str(tables.silver(feed))).where(where({"day": nights})).select("day", feed.key)
    found = silver.holding(settings, other, window, mine)
    theirs = session.table(str(tables.silver(other))).where(where({"day": found}) if found else "false").select(feed.key)
    counted = mine.join(theirs, feed.key, "left_anti").groupBy("day").count().toArrow().to_pylist()
    lacking = {row["day"]: row["count"] for row in counted}
    verdicts = []
    for night in nights:
        rows, failed = held.get(night, 0), lacking.get(night, 0)
        since = night - timedelta(days=rule.within_days)
        known = rows and any(since <= other_night <= night for other_night in window)
        share = failed / rows if rows else 0.0
        reason = f"{failed} of {rows} have no row in silver.{other.name} of {since}..{night}, {rule.at_most:.2%} may lack theirs"
        passed = share <= rule.at_most if known else None
        reason = reason if known else f"no rows, or none of silver.{other.name}, to compare"
        verdicts.append(_verdict(feed, night, rule, passed, reason, rows=rows, failed_rows=failed if known else 0))
    return verdicts


def _counts(settings: Settings, feed: Feed, other: Feed, rule: Counts, nights: Sequence[date]) -> list[Verdict]:
    before = [night - timedelta(days=rule.lag_days) for night in nights]
    mine = {r["day"]: r["accepted"] for r in records.read(settings, tables.BATCHES, day=list(nights), feed=feed.name) if r["source"]}
    theirs = {r["day"]: r["accepted"] for r in records.read(settings, tables.BATCHES, day=before, feed=other.name) if r["source"]}
    verdicts = []
    for night, earlier in zip(nights, before, strict=True):
        rows, expected = mine.get(night), theirs.get(earlier)
        if rows is None or not expected:
            reason, passed = f"no rows, or none of {other.name} {earlier}, to compare", None
        else:
            low, high = rule.at_least * expected, rule.at_most * expected
            reason = f"{rows} rows, expected {low:.0f} to {high:.0f}: {other.name} {earlier} has {expected}"
            passed = low <= rows <= high
        verdicts.append(_verdict(feed, night, rule, passed, reason, rows=rows or 0))
    return verdicts


def _verdict(feed: Feed, night: date, rule: Reference | Counts, passed: bool | None, reason: str, **more: Any) -> Verdict:
    words: dict[str, Any] = {"rule": rule.name, "kind": rule.kind, "severity": rule.severity, "reason": reason}
    return Verdict(feed=feed.name, night=night, outcome=outcome(passed), **words, **more)
