"""The runs that benches of training train."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench import runs
from include.nightshift.train import run as folders
from include.nightshift.train.recipes import Trees
from include.nightshift.train.run import TrainingRun, judged, read_rows

RECIPE = Trees(name="trees", rounds=20)


def test_a_made_run_is_read_as_a_pinned_one_is(tmp_path: Path) -> None:
    runs.make(tmp_path, RECIPE, rows=680, people=10)
    run = TrainingRun.load(tmp_path)
    assert run.recipe == RECIPE
    rows = read_rows(tmp_path / folders.TRAIN_ROWS, run, beside=tmp_path / folders.CONTEXT_ROWS)
    # Ten rows a night: 54 nights are learnt from, 7 are only looked at, 7 are held out.
    assert (int(rows.told.sum()), len(rows), int(judged(tmp_path, run, None).asked.sum())) == (540, 610, 70)
    assert np.diff(rows.seconds).min() > 0


def test_fraud_can_be_learnt_from_the_first_features_and_the_others_are_noise(tmp_path: Path) -> None:
    runs.make(tmp_path, RECIPE, rows=6_800, people=10, features=["a", "b", "c", "d", "e"])
    rows = read_rows(tmp_path / folders.TRAIN_ROWS, TrainingRun.load(tmp_path))
    known = np.nan_to_num(rows.matrix)
    follows = [abs(np.corrcoef(column, rows.target)[0, 1]) for column in (known[:, 0], known[:, 1] * known[:, 2], known[:, 3], known[:, 4])]
    assert min(follows[:2]) > 0.1
    assert max(follows[2:]) < 0.05


def test_the_same_is_made_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        runs.make(tmp_path / name, RECIPE, rows=680, people=10)
    one, two = (read_rows(tmp_path / name / folders.TRAIN_ROWS, TrainingRun.load(tmp_path / name)) for name in ("one", "two"))
    assert one.digest == two.digest
