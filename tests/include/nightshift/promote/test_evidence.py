"""Evidence: folds of a week each, by the published protocol, and the error that candidates share."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta

import numpy as np
import pytest

from include.nightshift.errors import NightError
from include.nightshift.promote import metrics
from include.nightshift.promote.evidence import HeldOut, level

FIRST = date(2026, 3, 1)


def held(nights: int, rows: int = 3000) -> HeldOut:
    dice = np.random.default_rng(nights)
    day = np.datetime64(FIRST) + np.sort(dice.integers(0, nights, rows))
    entity, target = dice.integers(0, 300, rows), (dice.random(rows) < 0.05).astype(np.int64)
    return HeldOut(
        nights=nights,
        day=day,
        entity=entity,
        target=target,
        known_fraud_day=np.concatenate([[np.datetime64(FIRST - timedelta(days=10))], day[target == 1]]),
        known_fraud_entity=np.concatenate([[7], entity[target == 1]]),
        first_test_day=FIRST,
        label_delay_days=7,
        list_size=20,
    )


@pytest.mark.parametrize(
    ("nights", "folds"), [(1, [1]), (5, [5]), (7, [7]), (10, [10]), (14, [7, 7]), (28, [7, 7, 7, 7]), (30, [7, 7, 7, 9])]
)
def test_a_fold_is_a_week_and_the_last_one_has_what_is_left(nights: int, folds: list[int]) -> None:
    rows = held(nights)
    assert [len(np.unique(fold.day)) for fold in rows.folds] == folds
    assert rows.last_test_day == FIRST + timedelta(days=nights - 1)
    kept = np.concatenate([fold.rows for fold in rows.folds])
    assert len(np.unique(kept)) == len(kept) <= len(rows.day)


def test_each_fold_is_the_published_one_of_its_own_first_day_and_the_whole_is_their_mean() -> None:
    rows = held(21)
    scores = np.random.default_rng(0).random(len(rows.day)) + rows.target / 2
    folds = []
    for week in range(3):
        first = FIRST + timedelta(days=7 * week)
        here = (rows.day >= np.datetime64(first)) & (rows.day < np.datetime64(first + timedelta(days=7)))
        known = {"known_fraud_day": rows.known_fraud_day, "known_fraud_entity": rows.known_fraud_entity}
        arguments = rows.day[here], rows.entity[here], rows.target[here], scores[here]
        folds.append(metrics.fold(*arguments, first_test_day=first, **known, label_delay_days=7, list_size=20))
    whole = rows.measure(scores)
    for name in ("average_precision", "roc_auc", "card_precision"):
        assert getattr(whole, name) == pytest.approx(np.mean([getattr(fold, name) for fold in folds]))
    assert (whole.rows, whole.frauds, whole.days) == tuple(
        sum(getattr(fold, name) for fold in folds) for name in ("rows", "frauds", "days")
    )


def test_a_row_from_before_the_first_night_is_refused() -> None:
    with pytest.raises(NightError, match="pin the run again"):
        _ = dataclasses.replace(held(7), first_test_day=FIRST + timedelta(days=1)).folds


def test_scores_that_are_not_one_for_each_row_are_refused() -> None:
    rows = held(7)
    with pytest.raises(ValueError, match="not aligned"):
        rows.measure(np.zeros(len(rows.day) - 1))


def test_the_first_candidate_gets_most_of_the_error_and_all_of_them_together_no_more_than_it() -> None:
    spent = [level(0.05, before) for before in range(10_000)]
    assert spent[0] == pytest.approx(0.0304, abs=1e-4)
    assert spent == sorted(spent, reverse=True)
    assert 0.0499 < sum(spent) < 0.05
