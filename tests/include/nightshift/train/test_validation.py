"""Validation: what judges a trial lies after all that it has learnt from, by as many nights as verdicts take."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.nightshift.errors import NotMaturedError, TrainingFailedError
from include.nightshift.promote import metrics
from include.nightshift.train import __main__ as trainer
from include.nightshift.train import models, trees
from include.nightshift.train import run as folders
from include.nightshift.train.recipes import Trees
from include.nightshift.train.rows import Context
from include.nightshift.train.run import TrainingRun, learnt_rows
from include.nightshift.train.validation import Validation, held_back, label_delay_days, split

FIRST = date(2018, 6, 1)
"""The conftest's run trains on 54 nights from here on, with verdicts that take seven."""


def night(of: date) -> int:
    return (of - FIRST).days


@given(nights=st.integers(1, 80), delay=st.integers(0, 20), judge=st.integers(1, 30))
def test_no_verdict_of_a_night_learnt_from_was_unknown_when_the_judging_nights_begin(nights: int, delay: int, judge: int) -> None:
    last = FIRST + timedelta(days=nights - 1)
    if nights < judge + delay + 1:
        with pytest.raises(NotMaturedError, match=rf"{judge} judge its trials, and verdicts take {delay} more. Lower validation_nights"):
            split(FIRST, last, delay, judge)
        return
    learnt, judges = split(FIRST, last, delay, judge)
    assert learnt >= FIRST
    assert learnt + timedelta(days=delay) < judges <= last
    assert (last - judges).days + 1 == judge


def test_a_trial_stands_to_its_judges_as_the_run_to_its_held_out_nights(make_run: Callable[..., Path]) -> None:
    run = TrainingRun.load(make_run())
    trial = held_back(run, 7)
    assert (trial.holdout_first, trial.holdout_last) == (date(2018, 7, 18), run.train_last)
    assert (trial.train_first, trial.train_last) == (FIRST, date(2018, 7, 10))
    assert label_delay_days(run) == label_delay_days(trial) == 7
    assert trial.as_of == date(2018, 7, 31)
    alone = replace(run, holdout_first=None, holdout_last=None, as_of=run.train_last + timedelta(days=7))
    assert held_back(alone, 7) == replace(trial, recipe=alone.recipe)


def unpredictable(nights: int = 54, a_night: int = 20, customers: int = 10_000) -> pa.Table:
    """Rows whose target is thrown with an honest coin: all that can be learnt of it is the row itself, by its amount."""
    count, random = nights * a_night, np.random.default_rng(7)
    keys = np.arange(count)
    features = {name: np.zeros(count) for name in ("is_night", "terminal_risk_7d", "customer_mean_7d")}
    return pa.table(
        {
            "day": np.datetime64(FIRST) + keys // a_night,
            "transaction_id": keys,
            "customer_id": keys % customers,
            "tx_datetime": pa.array(keys * 600_000_000, pa.timestamp("us", "UTC")),
            "tx_amount": random.permutation(count).astype("float64"),
            **features,
            "tx_fraud": random.integers(0, 2, count).astype("int32"),
        }
    )


def by_heart(folder: Path) -> float:
    """What a trial reaches that learns its rows by heart."""
    run = TrainingRun.load(folder)
    trial = replace(
        held_back(run, 7), recipe=Trees(name="by_heart", rounds=30, max_depth=30, min_child_weight=0, reg_lambda=0, max_bin=4096)
    )
    measure = trainer._trials(folder, trial, {}, 60.0, lambda at: None)
    return measure(folder / "trials/0", trial)


def test_rows_that_judge_are_not_among_those_learnt_from(make_run: Callable[..., Path]) -> None:
    assert by_heart(make_run(train=unpredictable())) < 0.65


def test_rows_whose_verdicts_were_unknown_are_not_among_those_learnt_from(make_run: Callable[..., Path]) -> None:
    """Of the nights in between each row stands in for one that judges: the same amount, the same end."""
    rows = unpredictable()
    between, judging = (rows.column("day").to_numpy() >= np.datetime64(day) for day in ("2018-07-11", "2018-07-18"))
    known = {name: rows.column(name).to_numpy().copy() for name in ("tx_amount", "tx_fraud")}
    for values in known.values():
        values[between & ~judging] = values[judging]
    for name, values in known.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))
    assert by_heart(make_run(train=rows)) < 0.65


def test_the_figure_is_that_of_the_gates_protocol(make_run: Callable[..., Path]) -> None:
    rows = unpredictable(customers=60)
    folder = make_run(train=rows)
    trial = held_back(TrainingRun.load(folder), 7)
    judges = Validation.read(folder, trial)
    matrix = trees.quantise(learnt_rows(folder, trial), trial.features, trial.recipe, 1)
    model = models.loads(trees.joined([trees.boost(None, matrix, trial.recipe, 0, 1)[0]]), {})
    day, entity, target = (rows.column(name).to_numpy() for name in ("day", "customer_id", "tx_fraud"))
    last, positive = day >= np.datetime64(trial.holdout_first), target == 1
    wanted = metrics.fold(
        day[last],
        entity[last],
        target[last],
        model.score(rows)[last],
        first_test_day=trial.holdout_first,
        known_fraud_day=day[positive],
        known_fraud_entity=entity[positive],
        label_delay_days=7,
        list_size=100,
    )
    assert 0 < wanted.rows < last.sum()
    assert judges.average_precision(model, 1) == wanted.average_precision


def test_a_model_that_looks_back_sees_the_nights_before_and_those_beside_but_none_after(make_run: Callable[..., Path]) -> None:
    folder = make_run(train=unpredictable())
    trial = held_back(TrainingRun.load(folder), 7)
    seen = folders.judged(folder, trial, Context(rows=9, days=5), held_in=folders.TRAIN_ROWS)
    nights = seen.rows.column("transaction_id").to_numpy() // 20
    assert sorted(set(nights[seen.asked])) == list(range(night(trial.holdout_first), night(trial.holdout_last) + 1))
    # The conftest's rows without a verdict are of a later night.
    assert sorted(set(nights[~seen.asked])) == list(range(night(trial.holdout_first) - 5, night(trial.holdout_first)))


def test_nights_that_cannot_tell_good_from_bad_are_refused_before_anything_is_trained(make_run: Callable[..., Path]) -> None:
    rows = unpredictable()
    late = rows.column("day").to_numpy() >= np.datetime64("2018-07-18")
    none = pa.array(np.where(late, 0, rows.column("tx_fraud").to_numpy()).astype("int32"))
    folder = make_run(train=rows.set_column(rows.schema.get_field_index("tx_fraud"), "tx_fraud", none))
    with pytest.raises(
        TrainingFailedError, match=r"2018-07-18 to 2018-07-24, which judge .*, have 0 positive of 140 rows.*raise validation"
    ):
        Validation.read(folder, held_back(TrainingRun.load(folder), 7))
