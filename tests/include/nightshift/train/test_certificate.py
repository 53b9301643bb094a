"""The resume certificate: complete for a run that was interrupted, and each planted defect is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from include.nightshift.spot.attempts import Attempt
from include.nightshift.train import __main__ as trainer
from include.nightshift.train import trees
from include.nightshift.train.certificate import certificate
from include.nightshift.train.run import TrainingRun


@pytest.fixture
def resumed(make_run: Callable[..., Path]) -> Path:
    """A finished run whose first machine died in its third chunk."""
    folder, boost = make_run(), trees.boost

    def mortal(margins: Any, matrix: Any, recipe: Any, chunk: int, *rest: Any) -> Any:
        if chunk == 2:
            raise KeyboardInterrupt
        return boost(margins, matrix, recipe, chunk, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "boost", mortal)
        with pytest.raises(KeyboardInterrupt):
            train(folder)
    assert train(folder) == 0
    return folder


def train(folder: Path) -> int:
    return trainer.main(["--run", str(folder), "--at-risk-seconds", "0"])


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_an_interrupted_run_has_a_complete_one_which_names_the_state_it_went_on_from(resumed: Path) -> None:
    proven = certificate(resumed, [])
    assert proven.reasons == ()
    assert [start["step"] for start in proven.starts] == [0, 8]
    assert proven.starts[0]["state_sha256"] is None
    assert len(proven.starts[1]["state_sha256"]) == 64
    assert set(proven.fingerprint) == {"data", "recipe", "code"}
    assert (proven.steps, proven.stretches) == (24, 6)
    assert "complete" in proven.text().splitlines()[0]


def test_without_checkpoints_which_a_finished_run_may_lose_it_stays_complete(resumed: Path) -> None:
    for path in (resumed / "checkpoints").glob("0*"):
        path.unlink()
    assert certificate(resumed, []).complete


def other_checkpoint(folder: Path) -> None:
    path = folder / "checkpoints/00000024.json"
    told = json.loads(path.read_text())
    told["body"]["fingerprint"]["data"] = "other"
    path.write_text(json.dumps(told))


def other_rows(folder: Path) -> None:
    path = next((folder / "data/train").rglob("*.parquet"))
    rows = parquet.ParquetFile(path).read()
    name = TrainingRun.load(folder).features[0]
    changed = pc.add(rows[name], pa.array([1.0] + [0.0] * (len(rows) - 1)))
    parquet.write_table(rows.set_column(rows.column_names.index(name), name, changed), path)


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        (lambda folder: rewrite(folder / "progress.jsonl", lambda lines: lines.pop(3)), "no stretch ends with step 16"),
        (lambda folder: rewrite(folder / "progress.jsonl", lambda lines: lines.insert(3, lines[2])), "it was done or told twice"),
        (lambda folder: rewrite(folder / "resumes.jsonl", lambda lines: lines[1].update(step=9)), "went on from step 9"),
        (lambda folder: rewrite(folder / "resumes.jsonl", lambda lines: lines[1]["fingerprint"].update(code="x")), "with other code"),
        (
            lambda folder: rewrite(folder / "resumes.jsonl", lambda lines: [line["fingerprint"].update(code="x") for line in lines]),
            "the code that its last start ran is not the code that stands here",
        ),
        (lambda folder: rewrite(folder / "resumes.jsonl", lambda lines: lines.pop(0)), "not from nothing"),
        (lambda folder: rewrite(folder / "resumes.jsonl", lambda lines: lines[1].update(state_sha256=None)), "at step 8 lacks its state"),
        (lambda folder: (folder / "resumes.jsonl").unlink(), "what this run went on from is not known"),
        (lambda folder: (folder / "model/model.ubj").write_bytes(b"another"), "result.json names"),
        (other_checkpoint, "is of another fingerprint than the run"),
        (other_rows, "are not those that the last start read"),
        (lambda folder: shutil.rmtree(folder / "data/train"), "that it learnt from cannot be read"),
    ],
)  # fmt: skip
def test_a_planted_defect_is_named(resumed: Path, defect: Callable[[Path], object], reason: str) -> None:
    defect(resumed)
    proven = certificate(resumed, [])
    assert not proven.told()["complete"]
    assert any(reason in said for said in proven.reasons), proven.reasons


def test_each_start_is_one_of_the_runs_machines_and_one_that_nobody_accounts_for_is_named(resumed: Path) -> None:
    at = [datetime.fromisoformat(json.loads(line)["at"]) for line in (resumed / "resumes.jsonl").read_text().splitlines()]
    machine = Attempt(
        run_id="r", attempt=1, pool="ec2", machine="i-1", kind="m7i.large", zone="a", on_demand=False, outcome="preempted",
        started_at=at[0], ended_at=at[0], seconds=0, lost_seconds=0, cost=0, on_demand_cost=0,
    )  # fmt: skip
    second = replace(machine, attempt=2, started_at=at[1], ended_at=at[1])
    proven = certificate(resumed, [machine, second])
    assert proven.complete
    assert [start["attempt"] for start in proven.starts] == [1, 2]
    late = replace(second, started_at=at[1] + timedelta(hours=1), ended_at=at[1] + timedelta(hours=2))
    early = replace(machine, started_at=at[0] - timedelta(hours=2), ended_at=at[0] - timedelta(hours=1))
    assert "none of the run's machines was at work" in certificate(resumed, [early, late]).reasons[0]
