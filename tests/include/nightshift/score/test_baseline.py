"""The linear model that stands in: fitted on the run's own rows, the same bytes each time, and only as its report says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from bench import runs
from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import records, tables
from include.nightshift.promote import metrics
from include.nightshift.score import baseline
from include.nightshift.settings import Settings
from include.nightshift.train import models
from include.nightshift.train import run as folders
from include.nightshift.train.recipes import Trees
from include.nightshift.train.run import TrainingRun
from include.usecases.card_fraud.usecase import USE_CASE

VERSION = "4"


@pytest.fixture
def folder(records_home: Settings) -> Path:
    """A run of trees, and the local copy of its model."""
    folder = records_home.home / "runs" / "bench"
    runs.make(folder, Trees(name="trees"), rows=6_800, people=50)
    (records_home.home / "models" / USE_CASE.name / VERSION).mkdir(parents=True)
    return folder


def report(settings: Settings, sha256: str | None) -> None:
    told = {"report_digest": "d4", "use_case": USE_CASE.name, "run_id": "bench", "model_version": VERSION, "baseline_sha256": sha256}
    records.replace(settings, tables.GATE_REPORTS, [told | {"judged_at": datetime.now(UTC)}], {"report_digest": ["d4"]})


def test_it_is_fitted_on_the_runs_rows_whatever_the_runs_own_recipe_and_ranks_rows_it_has_not_seen(folder: Path) -> None:
    run = TrainingRun.load(folder)
    place = baseline.fit(folder, run, USE_CASE)
    assert place == folder / "baseline"
    model = models.load(place)
    assert model.features == run.features
    assert models.described(place)["kind"] == "linear"
    held = parquet.read_table(folder / folders.HOLDOUT_ROWS)
    target = held.column(run.target).to_numpy()
    assert metrics.average_precision(target, model.score(held)) > 1.5 * target.mean()
    reference = json.loads((place / "reference.json").read_text())
    assert reference["score"]["n"] == len(target)


def test_the_same_rows_give_the_same_bytes_and_one_that_is_there_is_kept(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun.load(folder)
    place = baseline.fit(folder, run, USE_CASE)
    other = tmp_path / "other"
    runs.make(other, Trees(name="trees"), rows=6_800, people=50)
    assert models.sha256(baseline.fit(other, run, USE_CASE)) == models.sha256(place)
    kept = models.file(place)
    kept.write_bytes(b"changed")
    assert baseline.fit(folder, run, USE_CASE) == place
    assert kept.read_bytes() == b"changed"
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_it_is_brought_beside_its_model_once_and_scores_there(folder: Path, records_home: Settings) -> None:
    made = baseline.fit(folder, TrainingRun.load(folder), USE_CASE)
    report(records_home, models.sha256(made))
    place = baseline.copy(records_home, USE_CASE, VERSION)
    assert place == records_home.home / "models" / USE_CASE.name / VERSION / "baseline"
    rows = parquet.read_table(folder / folders.HOLDOUT_ROWS)
    np.testing.assert_array_equal(models.load(place).score(rows), models.load(made).score(rows))
    made.rename(made.with_name("gone"))
    assert baseline.copy(records_home, USE_CASE, VERSION) == place


def test_one_that_is_not_what_was_judged_is_refused(folder: Path, records_home: Settings) -> None:
    made = baseline.fit(folder, TrainingRun.load(folder), USE_CASE)
    report(records_home, models.sha256(made))
    changed = models.file(baseline.copy(records_home, USE_CASE, VERSION))
    changed.write_bytes(changed.read_bytes().replace(b'"intercept": -', b'"intercept": '))
    with pytest.raises(RegistryError, match="remove the folder"):
        baseline.copy(records_home, USE_CASE, VERSION)


@pytest.mark.parametrize(("judged", "said"), [(False, "holds no report"), (True, "no baseline to fall back to")])
def test_a_version_without_one_says_so(folder: Path, records_home: Settings, judged: bool, said: str) -> None:
    if judged:
        report(records_home, "0" * 64)
    with pytest.raises(RegistryError, match=said):
        baseline.copy(records_home, USE_CASE, VERSION)
