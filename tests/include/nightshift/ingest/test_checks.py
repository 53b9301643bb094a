"""Verdicts from counts: each rule lets ordinary nights pass, catches a planted defect, and owns up when it cannot know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from include.nightshift.ingest import checks
from include.nightshift.ingest.batches import Batch
from include.nightshift.ingest.checks import Counted, Past
from include.nightshift.lakehouse import records, tables
from include.nightshift.rules import BatchRule, Distribution, Freshness, Gaps, OwnDay, RowRule, Verdict, Volume
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import TRANSACTIONS

NIGHT = date(2026, 11, 20)  # a Friday
NOTHING = Past(frozenset(), {}, {})
WORDS: dict[str, Any] = {"name": "a_rule", "severity": "warn", "reason": "odd"}


def batch(rows: int = 1000, *, hours_after_midnight: float = 1.0, reordered: bool = False) -> Batch:
    landed = datetime(2026, 11, 21, tzinfo=UTC) + timedelta(hours=hours_after_midnight)
    return Batch(NIGHT, "transactions/2026-11-20.csv", "b" * 64, "1.0.0", reordered, landed, rows, "i" * 64)


def verdict(rule: BatchRule | RowRule | str, counted: Counted, past: Past = NOTHING, *, of: Batch | None = None, **more: Any) -> Verdict:
    """What is said of the night by a feed that has this rule alone, or by the rule of that name that every feed has."""
    own = {"rules": (), "batch_rules": ()}
    if isinstance(rule, RowRule):
        own = {"rules": (rule,), "batch_rules": ()}
    elif not isinstance(rule, str):
        own = {"rules": (), "batch_rules": (rule,)}
    feed = replace(TRANSACTIONS, **own)
    name = rule if isinstance(rule, str) else rule.name
    (said,) = (found for found in checks.judge(feed, of or batch(), counted, past, **more) if found.rule == name)
    assert (said.feed, said.night, said.batch) == ("transactions", NIGHT, "b" * 64)
    return said


def before(rows: Mapping[int, int], figures: Mapping[int, Any] | None = None) -> Past:
    """A past in which the night n nights ago had so many rows, and such figures of `a_rule`."""
    nights = {NIGHT - timedelta(days=ago): count for ago, count in rows.items()}
    known = {NIGHT - timedelta(days=ago): {"a_rule": value} for ago, value in (figures or {}).items()}
    return Past(frozenset(nights), nights, known)


def test_a_row_rule_says_how_many_rows_failed_and_which() -> None:
    rule = RowRule(**WORDS | {"severity": "reject"}, kind="range", breach="tx_amount < 0")
    broken = Counted(accepted=998, broken={"a_rule": 2}, samples={"a_rule": ("transactions/2026-11-20.csv:7",)})
    said = verdict(rule, broken)
    assert (said.outcome, said.failed_rows, said.rows, said.sample) == ("failed", 2, 1000, ("transactions/2026-11-20.csv:7",))
    assert str(said) == ("transactions 2026-11-20: a_rule [range, reject] failed, 2 of 1000 rows: odd (transactions/2026-11-20.csv:7)")
    assert not said.stops
    assert verdict(rule, Counted(accepted=1000)).outcome == "passed"


def test_a_row_rule_that_warns_rejects_nothing_and_one_that_stops_stops() -> None:
    warns = Counted(accepted=1000, broken={"warned:a_rule": 3})
    assert warns.rejected == 0
    assert verdict(RowRule(**WORDS, kind="range", breach="x"), warns).failed_rows == 3
    stops = RowRule(**WORDS | {"severity": "stop"}, kind="range", breach="x")
    assert verdict(stops, Counted(accepted=999, broken={"a_rule": 1})).stops
    assert verdict(stops, Counted(accepted=999, broken={"a_rule": 1}), accepted_rules={"a_rule"}).outcome == "accepted"


def test_columns_in_another_order_are_told_and_a_column_that_cannot_be_read_any_more_stops() -> None:
    assert verdict("same_order", Counted(accepted=1000), of=batch(reordered=True)).outcome == "failed"
    assert verdict("same_order", Counted(accepted=1000)).outcome == "passed"
    retyped = Counted(accepted=400, broken={"unreadable_tx_amount": 600})
    said = verdict("same_types", retyped)
    assert said.stops
    assert "tx_amount is no decimal(12,2) in 600 of 1000 rows" in said.reason
    assert verdict("same_types", Counted(accepted=600, broken={"unreadable_tx_amount": 400})).outcome == "passed"
    # Three rows are no evidence.
    assert verdict("same_types", Counted(broken={"unreadable_tx_amount": 3}), of=batch(3)).outcome == "passed"


def test_a_file_of_another_day_is_told_by_its_rows() -> None:
    rule = OwnDay(**WORDS, at_least=0.5)
    assert verdict(rule, Counted(accepted=1000, own_day=990)).outcome == "passed"
    assert verdict(rule, Counted(accepted=1000, own_day=10)).outcome == "failed"
    assert verdict(rule, Counted(accepted=0)).outcome == "unknown"


@pytest.mark.parametrize(("rows", "outcome"), [(1000, "passed"), (499, "failed"), (500, "passed"), (2000, "passed"), (2001, "failed")])
def test_volume_is_compared_with_the_same_weekday(rows: int, outcome: str) -> None:
    weekdays = {7: 1000, 14: 900, 21: 1100, 28: 1000}
    # Saturdays are ten times as busy; they do not count.
    past = before(weekdays | {6: 10_000, 13: 10_000})
    said = verdict(Volume(**WORDS), Counted(accepted=rows), past)
    assert said.outcome == outcome
    assert "expected 500 to 2000: the last 4 Fridays had 1000" in said.reason


def test_volume_is_unknown_with_one_weekday_or_few_rows_to_compare_with() -> None:
    assert verdict(Volume(**WORDS), Counted(accepted=1), before({7: 1000})).outcome == "unknown"
    assert verdict(Volume(**WORDS), Counted(accepted=1), before({7: 99, 14: 99})).outcome == "unknown"


def test_a_silent_stretch_of_the_day_and_a_missing_night_are_gaps() -> None:
    rule = Gaps(**WORDS, hours=4)
    assert verdict(rule, Counted(accepted=9, hours=tuple(range(24)))).outcome == "passed"
    assert verdict(rule, Counted(accepted=9, hours=(*range(10), *range(13, 24)))).outcome == "passed"
    silent = verdict(rule, Counted(accepted=9, hours=(*range(10), *range(14, 24))))
    assert (silent.outcome, silent.figures) == ("failed", {"hours": 4})
    assert verdict(rule, Counted(accepted=9, hours=tuple(range(20)))).outcome == "failed"
    missing = verdict(rule, Counted(accepted=9, hours=tuple(range(24))), before({2: 10}))
    assert (missing.outcome, "night 2026-11-19 is missing" in missing.reason) == ("failed", True)
    # The first night of all has nothing before it.
    assert verdict(rule, Counted(accepted=9, hours=tuple(range(24))), before({-1: 10})).outcome == "passed"
    assert verdict(rule, Counted(accepted=9, hours=tuple(range(24))), before({1: 0, 2: 10})).outcome == "passed"


def test_freshness_counts_from_the_midnight_that_ends_the_day_and_not_for_history() -> None:
    rule = Freshness(**WORDS, hours=6)
    late = verdict(rule, Counted(accepted=1), of=batch(hours_after_midnight=6.5))
    assert (late.outcome, late.reason) == ("failed", "it came 6.5 hours after the day ended, 6 are promised")
    assert verdict(rule, Counted(accepted=1), of=batch(hours_after_midnight=-2)).outcome == "passed"
    assert verdict(rule, Counted(accepted=1), of=batch(hours_after_midnight=24 * 30)).outcome == "unknown"


def values(spread: np.random.Generator, shift: float = 0.0) -> dict[str, Any]:
    return {"quantiles": list(np.quantile(spread.lognormal(3 + shift, 1, 2000), checks.GRID))}


def test_a_column_that_moves_is_told_and_one_that_stays_is_not() -> None:
    dice = np.random.default_rng(7)
    rule = Distribution(**WORDS, column="tx_amount", of="values")
    past = before({n: 2000 for n in range(1, 29)}, {n: values(dice) for n in range(1, 29)})
    still = verdict(rule, Counted(accepted=2000, columns={"a_rule": values(dice)}), past)
    moved = verdict(rule, Counted(accepted=2000, columns={"a_rule": values(dice, 0.5)}), past)
    assert (still.outcome, moved.outcome) == ("passed", "failed")
    assert moved.figures["quantiles"]  # kept, for the nights that come


def test_shares_and_nulls_that_move_are_told() -> None:
    shares = Distribution(**WORDS, column="tx_fraud", of="shares")
    usual = {n: {"shares": {"0": 0.99 + n % 3 * 0.001, "1": 0.01 - n % 3 * 0.001}} for n in range(1, 29)}
    past = before({n: 2000 for n in range(1, 29)}, usual)
    new = {"shares": {"0": 0.9, "1": 0.05, "7": 0.05}}
    assert verdict(shares, Counted(accepted=2000, columns={"a_rule": usual[1]}), past).outcome == "passed"
    assert verdict(shares, Counted(accepted=2000, columns={"a_rule": new}), past).outcome == "failed"
    nulls = Distribution(**WORDS, column="tx_amount", of="nulls")
    past = before({n: 2000 for n in range(1, 29)}, {n: {"null_share": 0.0} for n in range(1, 29)})
    assert verdict(nulls, Counted(accepted=2000, columns={"a_rule": {"null_share": 0.0}}), past).outcome == "passed"
    assert verdict(nulls, Counted(accepted=2000, columns={"a_rule": {"null_share": 0.2}}), past).outcome == "failed"


def test_a_distribution_is_unknown_before_there_are_nights_enough_and_remembers_all_the_same() -> None:
    dice = np.random.default_rng(7)
    rule = Distribution(**WORDS, column="tx_amount", of="values")
    past = before({n: 2000 for n in range(1, 14)}, {n: values(dice) for n in range(1, 14)})
    said = verdict(rule, Counted(accepted=2000, columns={"a_rule": values(dice, 5)}), past)
    assert (said.outcome, said.reason) == ("unknown", "13 nights to compare with, 14 are needed")
    assert said.figures["quantiles"]


def test_nights_that_are_alike_raise_false_alarms_no_more_often_than_the_bound_says() -> None:
    # K + 1 exchangeable nights: tonight is the furthest with a probability of 1 / (K + 1). With K = 14 and 3000 nights, three
    # standard deviations above that are 0.0804.
    dice = np.random.default_rng(11)
    rule = Distribution(**WORDS, column="tx_amount", of="values", nights=14, tolerance=1.0)
    alarms = 0
    for _ in range(3000):
        nights = [{"quantiles": list(np.quantile(dice.lognormal(3, 1, 200), checks.GRID))} for _ in range(15)]
        past = before(dict.fromkeys(range(1, 15), 200), dict(enumerate(nights[:-1], 1)))
        alarms += verdict(rule, Counted(accepted=200, columns={"a_rule": nights[-1]}), past).outcome == "failed"
    assert 0.04 < alarms / 3000 < 0.0804


def test_what_was_told_before_of_the_same_file_is_no_news(records_home: Settings) -> None:
    failed = verdict("same_order", Counted(accepted=1000), of=batch(reordered=True))
    said = [failed, verdict("same_types", Counted(accepted=1000))]
    assert checks.store(records_home, TRANSACTIONS, [NIGHT], said, ["schema"]) == [failed]
    assert checks.store(records_home, TRANSACTIONS, [NIGHT], said, ["schema"]) == []
    other = replace(failed, batch="c" * 64)
    assert checks.store(records_home, TRANSACTIONS, [NIGHT], [other], ["schema"]) == [other]
    (kept,) = records.read(records_home, tables.CONTRACT_RESULTS)
    assert (kept["verdict"], kept["rule"], kept["severity"], kept["batch"]) == ("failed", "same_order", "warn", "c" * 64)


def test_rules_of_one_kind_do_not_sweep_away_those_of_another(records_home: Settings) -> None:
    schema = verdict("same_types", Counted(accepted=1000))
    between = replace(schema, rule="counts_agree", kind="consistency")
    checks.store(records_home, TRANSACTIONS, [NIGHT], [schema], ["schema", "temporal"])
    checks.store(records_home, TRANSACTIONS, [NIGHT], [between], ["consistency"])
    checks.store(records_home, TRANSACTIONS, [NIGHT], [schema], ["schema", "temporal"])
    assert {record["rule"] for record in records.read(records_home, tables.CONTRACT_RESULTS)} == {"same_types", "counts_agree"}


def test_a_rule_stays_accepted_for_the_very_file_only(records_home: Settings) -> None:
    accepted = replace(verdict("same_types", Counted(broken={"unreadable_tx_amount": 900})), outcome="accepted")
    checks.store(records_home, TRANSACTIONS, [NIGHT], [accepted], ["schema"])
    assert checks.accepted_before(records_home, TRANSACTIONS, batch()) == {"same_types"}
    assert checks.accepted_before(records_home, TRANSACTIONS, replace(batch(), batch="c" * 64)) == set()
