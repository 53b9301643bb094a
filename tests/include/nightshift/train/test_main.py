"""The training command, in this process and with MLflow left out: what it writes, what it resumes, what it refuses."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.nightshift.monitor import drift
from include.nightshift.train import __main__ as trainer
from include.nightshift.train import interruption, trees
from include.nightshift.train.checkpoint import complete, sole_writer
from include.nightshift.train.recipes import Trees
from include.nightshift.train.run import TrainingRun, read_rows


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other's few microseconds of work are slower than one."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def train(folder: Path) -> int:
    return trainer.main(["--run", str(folder), "--at-risk-seconds", "0"])


def model(folder: Path) -> bytes:
    return (folder / "model/model.ubj").read_bytes()


def stop_after(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    """The machine dies as chunk number `chunks` (from 0) begins."""
    boost = trees.boost

    def mortal(previous: bytes | None, matrix: object, recipe: Trees, chunk: int, *rest: object) -> object:
        if chunk == chunks:
            raise KeyboardInterrupt
        return boost(previous, matrix, recipe, chunk, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trees, "boost", mortal)


def interrupted(folder: Path, chunks: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, chunks)
        with pytest.raises(KeyboardInterrupt):
            train(folder)
    return folder


def test_a_run_leaves_model_reference_features_progress_and_result(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    assert train(folder) == 0
    result = json.loads((folder / "result.json").read_text())
    assert result == {
        "model_sha256": hashlib.sha256(model(folder)).hexdigest(),
        "steps": 24,
        "resumed_from_step": 0,
        "seconds": result["seconds"],
        "train_rows": 3000,
    }
    progress = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in progress] == [4, 8, 12, 16, 20, 24]
    losses = [line["loss"] for line in progress]
    assert losses == sorted(losses, reverse=True)
    assert json.loads((folder / "model/features.json").read_text())["features"] == list(TrainingRun.load(folder).features)
    example = json.loads((folder / "model/example.json").read_text())
    assert list(example) == list(TrainingRun.load(folder).features)


def test_the_reference_is_of_the_held_out_rows_and_their_scores(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    assert train(folder) == 0
    run = TrainingRun.load(folder)
    held_out = read_rows(folder / "data/holdout", run, dtype="float64")
    score = trees.predict(trees.load_booster(model(folder)), held_out.matrix, run.features)
    wanted = drift.reference({**{name: held_out.matrix[:, n] for n, name in enumerate(run.features)}, "score": score})
    assert json.loads((folder / "model/reference.json").read_text()) == json.loads(json.dumps(wanted))
    assert wanted["score"]["n"] == 800


def test_without_held_out_rows_the_reference_is_of_the_training_rows(make_run: Callable[..., Path]) -> None:
    folder = make_run(holdout_first=None, holdout_last=None)
    for path in (folder / "data/holdout").iterdir():
        path.unlink()
    assert train(folder) == 0
    assert json.loads((folder / "model/reference.json").read_text())["score"]["n"] == 3000


def test_a_finished_run_is_left_as_it_is(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    assert train(folder) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert train(folder) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_finished_run_whose_model_was_damaged_is_made_whole_from_its_checkpoint(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    assert train(folder) == 0
    before = model(folder)
    (folder / "model/model.ubj").write_bytes(before[:-1])
    assert train(folder) == 0
    assert model(folder) == before


@pytest.mark.parametrize("chunks", [0, 1, 4])
def test_a_resumed_model_is_the_undisturbed_model_byte_for_byte(make_run: Callable[..., Path], chunks: int) -> None:
    undisturbed, resumed = make_run("undisturbed"), interrupted(make_run("resumed"), chunks)
    assert not (resumed / "result.json").exists()
    assert train(undisturbed) == train(resumed) == 0
    assert model(resumed) == model(undisturbed)
    assert json.loads((resumed / "result.json").read_text())["resumed_from_step"] == chunks * 4


def test_a_damaged_newest_checkpoint_costs_one_chunk_and_nothing_else(
    make_run: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed, resumed = make_run("undisturbed"), interrupted(make_run("resumed"), 3)
    newest = resumed / "checkpoints/00000012.state"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert train(undisturbed) == train(resumed) == 0
    assert "the checkpoint of step 12 is damaged" in caplog.text
    assert model(resumed) == model(undisturbed)
    assert json.loads((resumed / "result.json").read_text())["resumed_from_step"] == 8
    assert len((resumed / "progress.jsonl").read_text().splitlines()) == 6


def test_the_number_of_threads_is_the_first_machines(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(make_run(), 2)
    threads = json.loads((folder / "checkpoints/00000008.json").read_text())["body"]["machine"]["threads"]
    monkeypatch.setattr(os, "cpu_count", lambda: threads + 5)
    assert train(folder) == 0
    assert json.loads((folder / "checkpoints/00000024.json").read_text())["body"]["machine"]["threads"] == threads


def test_other_data_is_refused(make_run: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = interrupted(make_run(), 2)
    path = folder / "data/train/part-00000.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("tx_amount")
    pq.write_table(table.set_column(column, "tx_amount", pa.array(table.column(column).to_numpy() + 1)), path)
    assert train(folder) == 1
    assert caplog.records[-1].getMessage().startswith("CheckpointError: the checkpoint of step 8 in ")
    assert "other data: resuming would mix two models" in caplog.text
    assert complete(folder / "checkpoints") == [4, 8]


def test_another_recipe_is_refused(make_run: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = interrupted(make_run(), 2)
    raw = json.loads((folder / "run.json").read_text())
    raw["recipe"]["max_depth"] = 5
    (folder / "run.json").write_text(json.dumps(raw))
    assert train(folder) == 1
    assert "made with other recipe" in caplog.text


def test_other_code_is_refused(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    folder = interrupted(make_run(), 2)
    monkeypatch.setattr("xgboost.__version__", "9.9.9")
    assert train(folder) == 1
    assert "made with other code" in caplog.text


def test_a_second_trainer_is_refused(make_run: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = make_run()
    with sole_writer(folder / "checkpoints"):
        assert train(folder) == 1
    assert "CheckpointError" in caplog.records[-1].getMessage()
    assert train(folder) == 0


def test_under_notice_the_chunk_is_finished_and_saved(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    interruption.give_notice(folder, datetime.now(UTC) + timedelta(seconds=60))
    assert train(folder) == 75
    assert complete(folder / "checkpoints") == [4]
    interruption.withdraw_notice(folder)
    assert train(folder) == 0


def test_under_a_notice_too_short_the_chunk_is_given_up_and_nothing_half_is_saved(make_run: Callable[..., Path]) -> None:
    undisturbed, folder = make_run("undisturbed"), interrupted(make_run(), 2)
    interruption.give_notice(folder, datetime.now(UTC))
    assert train(folder) == 75
    assert complete(folder / "checkpoints") == [4, 8]
    interruption.withdraw_notice(folder)
    assert train(folder) == train(undisturbed) == 0
    assert model(folder) == model(undisturbed)


def test_a_loss_that_is_no_number_fails_with_that_reason(make_run: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = make_run(recipe=Trees(name="wild", rounds=8, rounds_per_chunk=4, learning_rate=float("nan")))
    assert train(folder) == 1
    assert caplog.records[-1].getMessage().startswith("TrainingFailedError: the training loss is nan after round 1")
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)
    assert complete(folder / "checkpoints") == []


def test_rows_of_one_class_are_refused(make_run: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = make_run()
    for path in (folder / "data/train").iterdir():
        table = pq.read_table(path)
        column = table.schema.get_field_index("tx_fraud")
        pq.write_table(table.set_column(column, "tx_fraud", pa.array(np.zeros(len(table), "int32"))), path)
    assert train(folder) == 1
    assert "all 3000 training rows have the same tx_fraud" in caplog.text


def test_a_folder_that_is_no_run_fails_with_advice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train(tmp_path / "nowhere") == 1
    assert "ConfigurationError" in caplog.records[-1].getMessage()
    assert not (tmp_path / "nowhere").exists()
