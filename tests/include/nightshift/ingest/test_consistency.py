"""Feeds that must agree: a verdict without its transaction, too few verdicts, and nothing to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import ContractError
from include.nightshift.ingest import consistency, ingest
from include.nightshift.lakehouse.session import rows
from include.nightshift.settings import Settings
from include.nightshift.usecase import Feed, UseCase

Land = Callable[[Feed, date, Iterable[Sequence[object]]], Path]
SOLD, JUDGED = date(2011, 3, 1), date(2011, 3, 8)
KEYS = range(11_000_000, 11_000_100)


@pytest.fixture
def both(session: SparkSession, installation: Settings, use_case: UseCase, land: Land) -> UseCase:
    """A hundred transactions; seven nights later 90 verdicts on them and one on a transaction that never came."""
    land(use_case.events, SOLD, [(key, f"{SOLD} 08:00:00", 11, 21, "9.50") for key in KEYS])
    land(use_case.labels, JUDGED, [(key, 0, f"{JUDGED} 08:00:00") for key in [*KEYS[:90], 11_999_999]])
    ingest(session, installation, use_case.events, [SOLD])
    ingest(session, installation, use_case.labels, [JUDGED])
    return use_case


@pytest.mark.lakehouse
def test_feeds_are_judged_against_each_other_and_what_is_new_is_told_once(
    session: SparkSession, installation: Settings, both: UseCase
) -> None:
    verdicts, news = consistency.judge(session, installation, both, [JUDGED])
    said = {verdict.rule: verdict for verdict in verdicts}
    assert {rule: (verdict.outcome, verdict.failed_rows) for rule, verdict in said.items()} == {
        "known_transactions": ("failed", 1),
        "every_transaction_judged": ("passed", 0),
    }
    assert said["known_transactions"].reason.startswith("1 of 91 have no row in silver.transactions of 2011-01-22..2011-03-08")
    assert said["every_transaction_judged"].reason == "91 rows, expected 90 to 110: transactions 2011-03-01 has 100"
    assert [verdict.rule for verdict in news] == ["known_transactions"]
    assert consistency.judge(session, installation, both, [JUDGED]) == (verdicts, [])
    stored = rows(session, "select rule, verdict from ops.contract_results where day = :night and kind = 'consistency'", night=JUDGED)
    assert {row["rule"]: row["verdict"] for row in stored} == {rule: verdict.outcome for rule, verdict in said.items()}


@pytest.mark.lakehouse
def test_a_contradiction_that_stops_keeps_the_night_from_being_published(
    session: SparkSession, installation: Settings, both: UseCase
) -> None:
    strict = replace(both, labels=replace(both.labels, feed_rules=tuple(replace(r, severity="stop") for r in both.labels.feed_rules)))
    with pytest.raises(ContractError, match=r"night 2011-03-08: the feeds contradict each other, the night is not published\. .*1 of 91"):
        consistency.judge(session, installation, strict, [JUDGED])


@pytest.mark.lakehouse
def test_nights_with_nothing_to_compare_are_unknown(session: SparkSession, installation: Settings, both: UseCase) -> None:
    verdicts, news = consistency.judge(session, installation, both, [JUDGED + timedelta(days=200)])
    assert {verdict.outcome for verdict in verdicts} == {"unknown"}
    assert news == []
