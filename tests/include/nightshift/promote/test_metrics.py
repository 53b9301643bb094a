from __future__ import annotations

from collections import defaultdict
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from include.nightshift.errors import NightError, NotMaturedError
from include.nightshift.promote import metrics

FIRST = date(2026, 3, 15)


def days(*offsets: int) -> np.ndarray:
    return np.datetime64(FIRST) + np.array(offsets, dtype="timedelta64[D]")


def slow_fold(rows: list[tuple[int, int, int, float]], frauds: list[tuple[int, int]], delay: int, size: int) -> dict[str, Any]:
    """The protocol, word by word, on lists. Rows are (day, entity, target, score); day 0 is F."""
    left = []
    for day, entity, target, score in rows:
        known = any(who == entity and -2 * delay <= when <= day - (delay + 1) for when, who in frauds)
        if not known:
            left.append((day, entity, target, score))
    positives = [score for _, _, target, score in left if target]
    negatives = [score for _, _, target, score in left if not target]
    auc = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives) / (len(positives) * len(negatives))
    precision_steps, before = 0.0, 0.0
    for threshold in sorted({row[3] for row in left}, reverse=True):
        above = [target for _, _, target, score in left if score >= threshold]
        recall = sum(above) / len(positives)
        precision_steps += (recall - before) * sum(above) / len(above)
        before = recall
    detected: set[int] = set()
    precisions = []
    for day in sorted({row[0] for row in left}):
        best: dict[int, float] = {}
        fraudulent: dict[int, bool] = defaultdict(bool)
        for when, entity, target, score in left:
            if when == day and entity not in detected:
                best[entity] = max(score, best.get(entity, score))
                fraudulent[entity] |= bool(target)
        listed = sorted(best, key=lambda entity: (-best[entity], entity))[:size]
        hits = [entity for entity in listed if fraudulent[entity]]
        precisions.append(len(hits) / size)
        detected |= set(hits)
    return {
        "average_precision": precision_steps,
        "roc_auc": auc,
        "card_precision": sum(precisions) / len(precisions),
        "rows": len(left),
        "frauds": len(positives),
        "days": len({row[0] for row in left}),
    }


ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 8), st.integers(0, 1), st.integers(0, 4).map(lambda n: n / 4)), min_size=2, max_size=60
)


@settings(max_examples=400, deadline=None)
@given(
    rows=ROWS,
    earlier=st.lists(st.tuples(st.integers(-12, -1), st.integers(1, 8)), max_size=6),
    delay=st.integers(1, 4),
    size=st.integers(1, 5),
)
def test_fold_agrees_with_the_protocol_word_by_word(
    rows: list[tuple[int, int, int, float]], earlier: list[tuple[int, int]], delay: int, size: int
) -> None:
    frauds = earlier + [(day, entity) for day, entity, target, _ in rows if target]
    try:
        wanted = slow_fold(rows, frauds, delay, size)
    except ZeroDivisionError:
        assume(False)
    day, entity, target, score = (np.array(column) for column in zip(*rows, strict=True))
    seen = metrics.fold(
        days(*day),
        entity,
        target,
        score,
        first_test_day=FIRST,
        known_fraud_day=days(*(when for when, _ in frauds)),
        known_fraud_entity=np.array([who for _, who in frauds]),
        label_delay_days=delay,
        list_size=size,
    )
    for name, value in wanted.items():
        assert getattr(seen, name) == pytest.approx(value, abs=1e-12), name


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, size=st.integers(1, 5), random=st.randoms(use_true_random=False))
def test_card_precision_does_not_depend_on_row_order(rows: list[tuple[int, int, int, float]], size: int, random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    both = []
    for version in (rows, shuffled):
        day, entity, target, score = (np.array(column) for column in zip(*version, strict=True))
        both.append(metrics.card_precision(days(*day), entity, target, score, size))
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("fraud", "test_day", "kept"),
    [
        pytest.param(-15, 0, True, id="a fraud before F-14 is forgotten"),
        pytest.param(-14, 0, False, id="F-14 counts"),
        pytest.param(-8, 0, False, id="d-8 counts"),
        pytest.param(-7, 0, True, id="d-7 is not reported yet"),
        pytest.param(-7, 1, False, id="d-8 moves with the test day"),
        pytest.param(-1, 6, True, id="F-1 is never known within the week"),
        pytest.param(0, 7, True, id="a fraud of the fold itself, seven days later"),
        pytest.param(0, 8, False, id="a fraud of the fold itself, eight days later"),
    ],
)
def test_known_entities_are_dropped_from_d_minus_8_back_to_f_minus_14(fraud: int, test_day: int, kept: bool) -> None:
    seen = metrics.undisclosed(days(test_day, test_day), np.array([5, 6]), days(fraud), np.array([5]), FIRST, 7)
    assert seen.tolist() == [kept, True]
    as_numpy = metrics.undisclosed(days(test_day, test_day), np.array([5, 6]), days(fraud), np.array([5]), np.datetime64(FIRST), 7)
    assert as_numpy.tolist() == [kept, True]


def test_fold_by_hand() -> None:
    # Cards 1..5; card 9 is known (fraud ten days before) and would be a perfect hit. The list has two places.
    rows = [
        (0, 9, 1, 1.00),  # dropped: known
        (0, 1, 1, 0.90),  # listed, found: open no more
        (0, 2, 0, 0.80),  # listed, wrong
        (0, 3, 1, 0.70),  # third: not listed
        (1, 1, 1, 0.95),  # found yesterday: not on the list, but in AP and AUC
        (1, 4, 0, 0.60),  # listed by its better row below
        (1, 4, 1, 0.65),  # listed, right
        (1, 5, 0, 0.10),  # card 5 and card 3 tie at 0.10: the smaller number is listed
        (1, 3, 1, 0.10),
    ]
    day, entity, target, score = (np.array(column) for column in zip(*rows, strict=True))
    seen = metrics.fold(
        days(*day),
        entity,
        target,
        score,
        first_test_day=FIRST,
        known_fraud_day=days(-10),
        known_fraud_entity=np.array([9]),
        label_delay_days=7,
        list_size=2,
    )
    # Rows by score: .95+ .90+ .80- .70+ .65+ .60- .10± ; five positives, three negatives.
    by_hand = (1 / 1 + 2 / 2 + 3 / 4 + 4 / 5 + 5 / 8) / 5
    assert seen.average_precision == pytest.approx(by_hand)
    assert seen.roc_auc == pytest.approx((3 + 3 + 2 + 2 + 0.5) / 15)
    assert seen.card_precision == (1 / 2 + 2 / 2) / 2
    assert (seen.rows, seen.frauds, seen.days) == (8, 5, 2)


def test_list_longer_than_the_day_keeps_its_divisor() -> None:
    assert metrics.card_precision(days(0, 0), np.array([1, 2]), np.array([1, 0]), np.array([0.9, 0.1]), 100) == 0.01


def test_day_whose_cards_were_all_found_counts_as_nothing() -> None:
    assert metrics.card_precision(days(0, 1), np.array([1, 1]), np.array([1, 1]), np.array([0.9, 0.9]), 1) == 0.5


def test_card_listed_in_vain_stays_open() -> None:
    assert metrics.card_precision(days(0, 1), np.array([1, 1]), np.array([0, 1]), np.array([0.9, 0.9]), 1) == 0.5


@pytest.mark.parametrize("metric", [metrics.average_precision, metrics.roc_auc])
@pytest.mark.parametrize("target", [[0, 0, 0], [1, 1, 1], []])
def test_missing_class_is_not_matured_rather_than_a_number(metric: Any, target: list[int]) -> None:
    with pytest.raises(NotMaturedError, match=rf"needs both classes and sees {sum(target)} positive of {len(target)} rows"):
        metric(np.array(target), np.linspace(0, 1, len(target)))


def test_no_rows_are_not_matured() -> None:
    nothing = np.array([])
    with pytest.raises(NotMaturedError, match="no rows"):
        metrics.card_precision(nothing.astype("datetime64[D]"), nothing, nothing, nothing, 3)


def test_no_known_frauds_keep_every_row() -> None:
    nothing = np.array([])
    assert metrics.undisclosed(days(0, 1), np.array([1, 2]), nothing, nothing, FIRST, 7).all()


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"score": np.array([0.5, np.nan, 0.1])}, "1 of 3 scores"),
        ({"score": np.array([0.5, np.inf, 0.1])}, "1 of 3 scores"),
        ({"score": np.array([0.5, 0.1])}, "not aligned"),
        ({"entity": np.array([1, 2])}, "not aligned"),
        ({"target": np.array([0, 2, 1])}, "neither 0 nor 1"),
        ({"target": np.array([0.0, np.nan, 1.0])}, "neither 0 nor 1"),
        ({"known_fraud_entity": np.array([1, 2])}, "one of each"),
        ({"list_size": 0}, "at least one place"),
    ],
)
def test_unsound_input_is_refused_with_advice(change: dict[str, Any], advice: str) -> None:
    sound: dict[str, Any] = {
        "day": days(0, 0, 1),
        "entity": np.array([1, 2, 3]),
        "target": np.array([0, 1, 1]),
        "score": np.array([0.2, 0.4, 0.3]),
        "first_test_day": FIRST,
        "known_fraud_day": days(-1),
        "known_fraud_entity": np.array([2]),
        "label_delay_days": 7,
        "list_size": 2,
    }
    assert metrics.fold(**sound).rows == 3
    with pytest.raises(ValueError, match=advice):
        metrics.fold(**(sound | change))


def test_row_before_the_first_test_day_is_refused() -> None:
    with pytest.raises(NightError, match="holds a row of 2026-03-14"):
        metrics.undisclosed(days(-1, 0), np.array([1, 2]), days(-1), np.array([2]), FIRST, 7)


def test_a_fold_of_the_published_size_has_a_figure() -> None:
    random = np.random.default_rng(7)
    rows = 70_000
    target = (random.random(rows) < 0.008).astype(np.int64)
    day, entity = days(*range(7))[random.integers(0, 7, rows)], random.integers(0, 5000, rows)
    seen = metrics.fold(
        day,
        entity,
        target,
        random.random(rows) * 0.5 + target * 0.3,
        first_test_day=FIRST,
        known_fraud_day=days(*random.integers(-14, 7, 1200)),
        known_fraud_entity=random.integers(0, 5000, 1200),
        label_delay_days=7,
        list_size=100,
    )
    assert seen.days == 7
    assert 0 < seen.card_precision < 1
