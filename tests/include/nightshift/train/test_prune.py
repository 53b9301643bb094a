"""Prune: a finished run gives up its checkpoints and nothing else; an unfinished one gives up nothing."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from include.nightshift.errors import CheckpointError
from include.nightshift.settings import Settings
from include.nightshift.train.checkpoint import Checkpoint, Checkpoints, complete, sole_writer
from include.nightshift.train.prune import Pruned, prune
from include.nightshift.train.run import CHECKPOINTS, HOLDOUT_ROWS, MODEL_FOLDER, RESULT, RUN, TRAIN_ROWS, finished
from include.usecases.card_fraud.usecase import USE_CASE

MODEL_BYTES = b"a model"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def with_checkpoints(folder: Path) -> Path:
    """Two checkpoints, as a trainer leaves them."""
    with sole_writer(folder / CHECKPOINTS):
        for step in (1, 2):
            Checkpoints(folder / CHECKPOINTS, {}).save(Checkpoint(step=step, machine={}, history=()), [MODEL_BYTES])
    return folder


def finish(folder: Path, *, digest: str = hashlib.sha256(MODEL_BYTES).hexdigest()) -> Path:
    (folder / MODEL_FOLDER).mkdir()
    (folder / MODEL_FOLDER / "model.ubj").write_bytes(MODEL_BYTES)
    (folder / RESULT).write_text(json.dumps({"model_sha256": digest}))
    return folder


def test_a_finished_run_keeps_model_rows_and_run_json_and_a_second_time_there_is_nothing_to_do(
    settings: Settings, make_run: Callable[..., Path]
) -> None:
    folder = finish(with_checkpoints(make_run("runs/done")))
    others = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent.name != CHECKPOINTS}
    size = sum(path.stat().st_size for path in (folder / CHECKPOINTS).glob("0*"))
    assert prune(settings, USE_CASE) == Pruned(("done",), 4, size)
    assert [path.name for path in (folder / CHECKPOINTS).iterdir()] == ["lock"]
    assert {path: path.read_bytes() for path in others} == others
    assert {folder / name for name in (RUN, f"{MODEL_FOLDER}/model.ubj", RESULT)} <= set(others)
    assert all(any((folder / rows).iterdir()) for rows in (TRAIN_ROWS, HOLDOUT_ROWS))
    assert finished(folder) is not None
    assert prune(settings, USE_CASE) == Pruned((), 0, 0)


def test_a_run_without_a_whole_result_keeps_everything(settings: Settings, make_run: Callable[..., Path]) -> None:
    interrupted = with_checkpoints(make_run("runs/interrupted"))
    torn = finish(with_checkpoints(make_run("runs/torn")), digest="of another model")
    half_pinned = with_checkpoints(finish(make_run("runs/half-pinned")))
    (half_pinned / RUN).unlink()
    assert prune(settings, USE_CASE).runs == ()
    assert [complete(folder / CHECKPOINTS) for folder in (interrupted, torn, half_pinned)] == [[1, 2]] * 3


def test_runs_of_another_use_case_and_no_runs_at_all_are_left_alone(settings: Settings, make_run: Callable[..., Path]) -> None:
    assert prune(settings, USE_CASE) == Pruned((), 0, 0)
    finish(with_checkpoints(make_run("runs/done")))
    assert prune(settings, replace(USE_CASE, name="churn")).runs == ()
    assert prune(settings, USE_CASE).runs == ("done",)


def test_a_run_that_a_process_holds_is_said_and_keeps_its_checkpoints(settings: Settings, make_run: Callable[..., Path]) -> None:
    folder = finish(with_checkpoints(make_run("runs/done")))
    with sole_writer(folder / CHECKPOINTS), pytest.raises(CheckpointError, match="is being written by process"):
        prune(settings, USE_CASE)
    assert complete(folder / CHECKPOINTS) == [1, 2]
