from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from include.nightshift.errors import ConfigurationError
from include.nightshift.monitor import drift

NUMBERS = st.one_of(
    st.floats(width=64),
    st.floats(-5, 5).map(lambda x: round(x, 1)),
    st.integers(0, 1).map(float),
)
COLUMN = npst.arrays(np.float64, st.integers(1, 200), elements=NUMBERS)


@settings(max_examples=200, deadline=None)
@given(COLUMN, COLUMN, st.integers(2, 12))
def test_index_is_never_negative_and_finite(before: np.ndarray, now: np.ndarray, bins: int) -> None:
    value = drift.population_stability_index(drift.reference({"x": before}, bins)["x"], now)
    assert np.isfinite(value)
    assert value >= 0


@settings(max_examples=200, deadline=None)
@given(COLUMN, st.integers(2, 12), st.randoms(use_true_random=False))
def test_index_is_zero_on_the_same_rows_in_any_order(column: np.ndarray, bins: int, random: Random) -> None:
    shuffled = column[random.sample(range(len(column)), len(column))]
    assert drift.population_stability_index(drift.reference({"x": column}, bins)["x"], shuffled) == 0.0


@settings(max_examples=100, deadline=None)
@given(COLUMN, COLUMN, st.randoms(use_true_random=False))
def test_index_does_not_depend_on_row_order(before: np.ndarray, now: np.ndarray, random: Random) -> None:
    known = drift.reference({"x": before})["x"]
    order = random.sample(range(len(now)), len(now))
    assert drift.population_stability_index(known, now[order]) == drift.population_stability_index(known, now)


@settings(max_examples=100, deadline=None)
@given(COLUMN, st.integers(2, 12))
def test_reference_survives_strict_json_and_counts_every_row(column: np.ndarray, bins: int) -> None:
    known = drift.reference({"x": column}, bins)
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    assert known["x"]["n"] == len(column)
    assert len(known["x"]["shares"]) == 2 * len(known["x"]["edges"]) + 2
    assert sum(known["x"]["shares"]) == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_planted_shift_of_one_sd_is_seen_and_a_fresh_draw_is_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    known = drift.reference({"x": random.normal(size=5000)})
    assert drift.judge(known, {"x": random.normal(size=5000)}, 0.2)[0].verdict == "stable"
    assert drift.judge(known, {"x": random.normal(1, 1, size=5000)}, 0.2)[0].verdict == "drifted"


def test_index_of_two_flags_is_the_formula_by_hand() -> None:
    known = drift.reference({"flag": np.array([0.0] * 70 + [1.0] * 30)})["flag"]
    now = np.array([1.0] * 60 + [0.0] * 40)
    p0, p1, q0, q1 = 71 / 102, 31 / 102, 41 / 102, 61 / 102
    assert drift.population_stability_index(known, now) == pytest.approx((q0 - p0) * np.log(q0 / p0) + (q1 - p1) * np.log(q1 / p1))


def test_bins_of_a_wide_column_are_its_deciles() -> None:
    known = drift.reference({"x": np.arange(1, 101)})["x"]
    assert known["edges"] == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert known["points"] == [False] * 9
    assert known["shares"][::2] == pytest.approx([0.1] * 10)
    assert set(known["shares"][1::2]) == {0.0}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        pytest.param(np.r_[np.zeros(9950), np.ones(50)], np.r_[np.zeros(5000), np.ones(5000)], id="a rare flag turns common"),
        pytest.param(np.r_[np.ones(9950), np.zeros(50)], np.r_[np.ones(5000), np.zeros(5000)], id="a common flag turns rare"),
        pytest.param(
            np.r_[np.zeros(9000), np.ones(500), np.full(500, 2)],
            np.r_[np.zeros(9000), np.full(1000, 2)],
            id="one rare value replaces another",
        ),
        pytest.param(np.full(1000, 3.5), np.full(1000, 3.4), id="a constant steps down"),
        pytest.param(np.full(1000, 3.5), np.full(1000, 3.6), id="a constant steps up"),
        pytest.param(
            np.r_[np.linspace(0, 0.9, 100), np.ones(9900)], np.linspace(0, 0.9, 5000), id="the value nearly all rows have is gone"
        ),
        pytest.param(np.linspace(0, 1, 5000), np.full(5000, np.nan), id="all values go missing"),
        pytest.param(np.linspace(0, 1, 5000), np.full(5000, np.inf), id="all values overflow"),
        pytest.param(np.full(5000, np.nan), np.linspace(0, 1, 5000), id="a column comes to life"),
    ],
)
def test_planted_break_is_drift_and_the_column_itself_is_not(before: np.ndarray, now: np.ndarray) -> None:
    known = drift.reference({"x": before})
    assert drift.judge(known, {"x": before}, 0.1)[0].verdict == "stable"
    verdict = drift.judge(known, {"x": now}, 0.1)[0]
    assert verdict.verdict == "drifted"
    assert verdict.value is not None
    assert verdict.value > 0.1


def test_column_without_rows_or_without_a_counterpart_is_unknown() -> None:
    known = drift.reference({"gone": np.ones(5), "empty": np.ones(5), "never": np.array([]), "kept": np.ones(5)})
    judged = drift.judge(known, {"empty": np.array([]), "never": np.ones(3), "kept": np.ones(3), "new": np.ones(3)}, 0.2)
    assert [(column.column, column.verdict, column.value) for column in judged] == [
        ("gone", "unknown", None),
        ("empty", "unknown", None),
        ("never", "unknown", None),
        ("kept", "stable", 0.0),
        ("new", "unknown", None),
    ]
    assert {(column.measure, column.threshold) for column in judged} == {("psi", 0.2)}


def test_value_at_the_threshold_is_stable() -> None:
    known = drift.reference({"x": np.zeros(100)})
    now = np.r_[np.zeros(90), np.ones(10)]
    value = drift.population_stability_index(known["x"], now)
    assert drift.judge(known, {"x": now}, value)[0].verdict == "stable"
    assert drift.judge(known, {"x": now}, np.nextafter(value, 0))[0].verdict == "drifted"


def test_columns_of_any_numeric_kind_are_read() -> None:
    known = drift.reference({"int": np.arange(50), "bool": np.array([True, False]), "object": np.array([None, 1.5, 2], dtype=object)})
    assert known["object"]["shares"][-1] == pytest.approx(1 / 3)
    assert {
        column.verdict
        for column in drift.judge(known, {"int": np.arange(50.0), "bool": np.array([1, 0]), "object": np.array([np.nan, 1.5, 2])}, 0.01)
    } == {"stable"}


def test_index_without_rows_and_a_reference_of_one_bin_are_refused() -> None:
    with pytest.raises(ValueError, match="0 rows against a reference of 3"):
        drift.population_stability_index(drift.reference({"x": np.ones(3)})["x"], np.array([]))
    with pytest.raises(ConfigurationError, match="bins=1"):
        drift.reference({"x": np.ones(3)}, bins=1)
