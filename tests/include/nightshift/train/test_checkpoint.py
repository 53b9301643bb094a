"""The contract of a checkpoint, clause by clause."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.errors import CheckpointError
from include.nightshift.train import checkpoint as checkpoints
from include.nightshift.train.checkpoint import (
    Checkpoint,
    Checkpoints,
    Progress,
    complete,
    last_saved_at,
    sole_writer,
    write_durably,
    writer,
)

WHO = {"data": "d", "recipe": "r", "code": "c"}


def chunk(number: int) -> tuple[Checkpoint, bytes]:
    history = tuple(Progress(n + 1, 0.5, 0.1, "2026-11-20T00:00:00+00:00") for n in range(number))
    return Checkpoint(step=number, machine={"threads": 2}, history=history), b"state %d" % number


def save(store: Checkpoints, number: int) -> None:
    checkpoint, state = chunk(number)
    # In pieces, one of them empty: how a learner cuts its state leaves no trace.
    store.save(checkpoint, [state[:3], b"", memoryview(state)[3:]])


def test_the_newest_is_found_as_it_was_saved(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, WHO)
    assert store.newest() is None
    assert last_saved_at(tmp_path) is None
    for number in (1, 2, 3):
        save(store, number)
    assert Checkpoints(tmp_path, WHO).newest() == chunk(3)
    assert last_saved_at(tmp_path) is not None


def test_two_are_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, WHO)
    for number in (1, 2, 3, 4):
        save(store, number)
    assert complete(tmp_path) == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003.json", "00000003.state", "00000004.json", "00000004.state"]


@pytest.mark.parametrize("damaged", ["model", "model cut", "model gone", "manifest", "manifest cut", "history"])
def test_a_damaged_newest_yields_to_the_one_before_and_does_not_crowd_it_out(tmp_path: Path, damaged: str) -> None:
    store = Checkpoints(tmp_path, WHO)
    save(store, 1)
    save(store, 2)
    model, manifest = tmp_path / "00000002.state", tmp_path / "00000002.json"
    if damaged == "model":
        model.write_bytes(b"sTate 2")
    elif damaged == "model cut":
        model.write_bytes(b"sta")
    elif damaged == "model gone":
        model.unlink()
    elif damaged == "manifest":
        manifest.write_text("[]")
    elif damaged == "manifest cut":
        manifest.write_text(manifest.read_text()[:50])
    else:
        manifest.write_text(manifest.read_text().replace("0.5", "0.7"))
    assert store.newest() == chunk(1)
    save(store, 2)
    assert complete(tmp_path) == [1, 2]
    assert store.newest() == chunk(2)


def test_with_every_checkpoint_damaged_training_starts_from_nothing(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, WHO)
    save(store, 1)
    (tmp_path / "00000001.state").write_bytes(b"")
    assert store.newest() is None


@pytest.mark.parametrize("what", ["data", "recipe", "code"])
def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path: Path, what: str) -> None:
    save(Checkpoints(tmp_path, WHO), 1)
    with pytest.raises(CheckpointError, match=f"other {what}:.*pin a new run"):
        Checkpoints(tmp_path, WHO | {what: "another"}).newest()


@pytest.mark.parametrize("survived", range(9))
def test_a_crash_at_any_step_of_saving_leaves_a_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int) -> None:
    """Saving is fsync (twice), rename, fsync for the state, the same with one for the manifest, then two deletions: the power goes
    before each."""
    store = Checkpoints(tmp_path, WHO)
    save(store, 1)
    save(store, 2)
    steps = iter(range(100))

    def counted(step: Callable) -> Callable:
        def run(*arguments: Any, **keywords: Any) -> Any:
            if next(steps) >= survived:
                raise KeyboardInterrupt
            return step(*arguments, **keywords)

        return run

    with monkeypatch.context() as crash:
        crash.setattr(os, "fsync", counted(os.fsync))
        crash.setattr(os, "replace", counted(os.replace))
        crash.setattr(Path, "unlink", counted(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            save(store, 3)
    newest = store.newest()
    assert newest in (chunk(2), chunk(3))
    assert newest == chunk(3 if survived >= 6 else 2)


def test_content_is_synced_before_its_name_stands_and_the_manifest_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (story.append("sync"), fsync(number))[1])
    monkeypatch.setattr(os, "replace", lambda source, target: (story.append(Path(target).suffix), replace(source, target))[1])
    save(Checkpoints(tmp_path, WHO), 1)
    assert story == ["sync", "sync", ".state", "sync", "sync", ".json", "sync"]


def test_a_second_writer_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    assert writer(tmp_path) is None
    with sole_writer(tmp_path):
        assert writer(tmp_path) == os.getpid()
        with pytest.raises(CheckpointError, match=f"process {os.getpid()}"), sole_writer(tmp_path):
            pass
    assert writer(tmp_path) is None


@pytest.mark.processes
def test_a_killed_writer_lets_go_and_its_litter_is_cleared(tmp_path: Path) -> None:
    code = "import sys, time, pathlib; from include.nightshift.train.checkpoint import sole_writer\n"
    code += "with sole_writer(pathlib.Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert writer(tmp_path) == process.pid
        (tmp_path / ".00000001.state.tmp").write_bytes(b"half")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with sole_writer(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", b"one")
    write_durably(tmp_path / "file", b"two")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"two"]


def test_the_module_needs_nothing_but_the_standard_library() -> None:
    """The launching side reads manifests inside Airflow's processes, where numpy and xgboost have no place."""
    code = (
        "import sys, json; from include.nightshift.spot import attempts; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert not {"numpy", "xgboost", "pyarrow", "mlflow", "pandas", "airflow", "pyspark"} & set(json.loads(output))
    assert checkpoints.KEPT == 2
