"""run.json and the rows: what is refused, and that the layout of files cannot reach the model."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.nightshift.errors import ConfigurationError, TrainingFailedError
from include.nightshift.train.run import TrainingRun, finished, has_rows, read_rows


def test_what_is_saved_is_loaded(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    run = TrainingRun.load(folder)
    run.save(folder / "copy")
    assert TrainingRun.load(folder / "copy") == run
    assert run.holdout_first == date(2018, 8, 1)
    assert run.features[0] == "tx_amount"


def test_a_run_that_was_pinned_before_it_was_asked_for_changes_of_the_checkout_is_still_a_run(make_run: Callable[..., Path]) -> None:
    folder = make_run(git_dirty=True)
    assert TrainingRun.load(folder).git_dirty is True
    raw = json.loads((folder / "run.json").read_text())
    del raw["git_dirty"]
    (folder / "run.json").write_text(json.dumps(raw))
    assert TrainingRun.load(folder).git_dirty is None


def test_a_run_may_hold_nothing_out(make_run: Callable[..., Path]) -> None:
    run = TrainingRun.load(make_run(holdout_first=None, holdout_last=None))
    assert run.holdout_first is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"surprise": 1}, "unknown \\['surprise'\\]"),
        ({"key": ...}, "lacks \\['key'\\]"),
        ({"as_of": "14 August"}, "as_of '14 August' is no night"),
        ({"holdout_first": "2018-07-24"}, "train_last < holdout_first"),
        ({"as_of": "2018-08-06"}, "holdout_last <= as_of"),
        ({"holdout_last": None}, "both nights or both null"),
        ({"recipe": {"name": "trees", "subsample": 2}}, "subsample lies in"),
        ({"recipe": {"name": "trees", "booster": "dart"}}, "the recipe .* unknown \\['booster'\\]"),
        ({"recipe": {"name": "trees", "rounds": "many"}}, "Pin the run again"),
        ({"features": ["a", "a"]}, "stand twice"),
        ({"run_id": "a'b"}, "run_id"),
    ],
)
def test_an_impossible_run_is_refused_with_advice(make_run: Callable[..., Path], change: dict, says: str) -> None:
    folder = make_run()
    raw = json.loads((folder / "run.json").read_text()) | change
    (folder / "run.json").write_text(json.dumps({name: value for name, value in raw.items() if value is not ...}))
    with pytest.raises(ConfigurationError, match=says):
        TrainingRun.load(folder)


def test_a_folder_without_run_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pin step"):
        TrainingRun.load(tmp_path)


def test_neither_order_nor_number_of_part_files_reaches_the_rows(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    run = TrainingRun.load(folder)
    before = read_rows(folder / "data/train", run)
    table = pq.read_table(folder / "data/train")
    for path in (folder / "data/train").iterdir():
        path.unlink()
    pq.write_table(table.take(np.random.default_rng(3).permutation(len(table))), folder / "data/train/other.parquet")
    after = read_rows(folder / "data/train", run)
    assert after.digest == before.digest
    np.testing.assert_array_equal(after.matrix, before.matrix)
    assert before.matrix.dtype == np.float32


def test_one_other_value_is_another_digest(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    run = TrainingRun.load(folder)
    before = read_rows(folder / "data/train", run).digest
    _change(folder, "tx_amount", lambda values: np.where(np.arange(len(values)) == 5, 1.5, values))
    assert read_rows(folder / "data/train", run).digest != before


def test_null_features_are_missing_and_doubles_stay_doubles_when_asked(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    path = folder / "data/train/part-00000.parquet"
    table = pq.read_table(path)
    amounts = pa.array([None, 0.1, *table.column("tx_amount").to_pylist()[2:]])
    pq.write_table(table.set_column(table.schema.get_field_index("tx_amount"), "tx_amount", amounts), path)
    column = read_rows(folder / "data/train", TrainingRun.load(folder), dtype="float64").matrix[:, 0]
    assert np.isnan(column).sum() == 1
    assert 0.1 in column


@pytest.mark.parametrize(
    ("column", "change", "says"),
    [
        ("transaction_id", lambda values: values // 2, "transaction_id is null or stands twice"),
        ("customer_mean_7d", lambda values: np.where(values > 2, np.inf, values), "customer_mean_7d is infinite"),
        ("customer_mean_7d", lambda values: np.where(values > 2, 1e300, values), "customer_mean_7d is infinite \\(as a 32-bit"),
        ("tx_fraud", lambda values: values * 2, "neither 0 nor 1"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused(make_run: Callable[..., Path], column: str, change: Callable, says: str) -> None:
    folder = make_run()
    _change(folder, column, change)
    with pytest.raises(TrainingFailedError, match=says):
        read_rows(folder / "data/train", TrainingRun.load(folder))


def test_a_missing_folder_or_column_and_no_rows_are_named(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    run = TrainingRun.load(folder)
    with pytest.raises(TrainingFailedError, match="is missing"):
        read_rows(folder / "data/nowhere", run)
    (folder / "data/empty").mkdir()
    pq.write_table(pq.read_table(folder / "data/train").slice(0, 0), folder / "data/empty/part.parquet")
    assert not has_rows(folder / "data/empty")
    assert not has_rows(folder / "data/nowhere")
    with pytest.raises(TrainingFailedError, match="holds no rows"):
        read_rows(folder / "data/empty", run)
    pq.write_table(pq.read_table(folder / "data/train").drop(["tx_amount"]), folder / "data/empty/part.parquet")
    with pytest.raises(TrainingFailedError, match="cannot be read"):
        read_rows(folder / "data/empty", run)


def test_a_result_counts_only_beside_the_model_it_names(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.ubj").write_bytes(b"model")
    assert finished(tmp_path) is None
    (tmp_path / "result.json").write_text('{"model_sha256": "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"}')
    assert finished(tmp_path) is not None
    (tmp_path / "model/model.ubj").write_bytes(b"another")
    assert finished(tmp_path) is None


def _change(folder: Path, column: str, change: Callable) -> None:
    path = folder / "data/train/part-00000.parquet"
    table = pq.read_table(path)
    values = change(table.column(column).to_numpy())
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(values)), path)
