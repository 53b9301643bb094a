"""The command a spot machine runs: `python -m include.nightshift.train --run <folder>`; the same one after every restart.

Exit status: 0 the run is finished (also when it was before), 75 interrupted and worth starting again, 1 failed with the reason as
the last line.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from include.nightshift.train import interruption, learner, trees
from include.nightshift.train import run as folders
from include.nightshift.train.checkpoint import Checkpoint, Checkpoints, Progress, sole_writer, write_durably
from include.nightshift.train.interruption import Interrupted
from include.nightshift.train.learner import Learner
from include.nightshift.train.pace import AT_RISK_SECONDS, Pace
from include.nightshift.train.run import Rows, TrainingRun, read_rows

log = logging.getLogger("nightshift.train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the run of a folder, from wherever it stands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.train", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="FOLDER", help="the run folder that the pin step made")
    parser.add_argument(
        "--at-risk-seconds", type=float, default=AT_RISK_SECONDS, help="work that may have to be done again; 0 saves as often as possible"
    )
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        train(asked.run, asked.at_risk_seconds)
    except Interrupted as reason:
        log.warning("interrupted: %s", reason)
        return interruption.INTERRUPTED
    except Exception as error:
        log.exception("training failed")
        log.error("%s: %s", type(error).__name__, " ".join(str(error).split()))
        return 1
    return 0


def train(folder: Path, at_risk_seconds: float = AT_RISK_SECONDS) -> None:
    """Bring a run to its end: resume, do the stretches that are missing, publish the model, tell MLflow, write the result.

    Raises:
        ConfigurationError: run.json is not usable.
        CheckpointError: the checkpoints belong to another run, or another process holds this one.
        TrainingFailedError: the rows cannot be learnt from, or the loss diverged.
        Interrupted: the machine goes; the same call resumes.
    """
    run = TrainingRun.load(folder)
    with sole_writer(folder / folders.CHECKPOINTS):
        if folders.finished(folder):
            log.info("run %s is finished already", run.run_id)
            return
        rows = read_rows(folder / folders.TRAIN_ROWS, run)
        if not 0 < rows.target.sum() < len(rows):
            raise folders.TrainingFailedError(f"all {len(rows)} training rows have the same {run.target}: look at the nights in run.json")
        checkpoints = Checkpoints(folder / folders.CHECKPOINTS, fingerprint(run, rows))
        start = checkpoints.newest()
        stands = start[0] if start else Checkpoint(step=0, machine=learner.this_machine(), history=())
        learning = learner.begin(run, rows, stands.machine)
        if start:
            learning.restore(stands.step, start[1])
        log.info("run %s: %d rows, starting at step %d of %d", run.run_id, len(rows), stands.step, learning.steps)
        history = learn(folder, learning, stands, checkpoints, Pace(at_risk_seconds))
        _publish(folder, run, learning, history, stands.step, len(rows))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "linux" else 1024)
    log.info("finished; peak memory %.0f MB", kilobytes / 1024)


def fingerprint(run: TrainingRun, rows: Rows) -> dict[str, str]:
    """What a checkpoint must agree with to be resumed: the rows themselves, the recipe, and the code that makes the model."""
    recipe = json.dumps([run.recipe.told(), run.features, run.target], sort_keys=True)
    return {"data": rows.digest, "recipe": hashlib.sha256(recipe.encode()).hexdigest(), "code": learner.code(run.recipe)}


def learn(folder: Path, learning: Learner, stands: Checkpoint, checkpoints: Checkpoints, pace: Pace) -> tuple[Progress, ...]:
    """Advance to the last step, saving at the pace; returns the history of all stretches."""
    history = stands.history
    _write_progress(folder, history)
    while learning.step < learning.steps:
        loss = learning.advance(_leave_if_time_is_short(folder))
        took = pace.stretched()
        history = (*history, Progress(learning.step, round(took, 3), loss, datetime.now(UTC).isoformat()))
        log.info("step %d of %d: log-loss %.6f, %.2f s", learning.step, learning.steps, loss, took)
        going = interruption.seconds_left(folder) is not None
        if going or pace.due or learning.step == learning.steps:
            checkpoints.save(Checkpoint(step=learning.step, machine=stands.machine, history=history), learning.state())
            _write_progress(folder, history)
            log.info("saved in %.3f s", pace.saved())
        if going:
            raise Interrupted(f"the machine goes; the checkpoint of step {learning.step} is saved")
    return history


def _leave_if_time_is_short(folder: Path) -> Callable[[int], None]:
    """After each step: under notice, go on only if this stretch can still be finished and saved, judging by its steps so far."""
    began = time.monotonic()
    steps = 0

    def after_step(steps_left: int) -> None:
        nonlocal steps
        steps += 1
        left = interruption.seconds_left(folder)
        if left is not None and left < 1.5 * steps_left * (time.monotonic() - began) / steps:
            raise Interrupted(f"the machine goes in {left:.1f} s, too soon for {steps_left} more steps; the newest checkpoint stands")

    return after_step


def _write_progress(folder: Path, history: Sequence[Progress]) -> None:
    # Whole, from the checkpoint's history: a line can then neither be torn nor speak of a stretch that was lost.
    write_durably(folder / folders.PROGRESS, "".join(json.dumps(asdict(point)) + "\n" for point in history).encode())


def _publish(folder: Path, run: TrainingRun, learning: Learner, history: Sequence[Progress], resumed_from: int, train_rows: int) -> None:
    import numpy as np

    from include.nightshift.monitor import drift
    from include.nightshift.train import tracking

    model = learning.model()
    (folder / folders.MODEL).parent.mkdir(exist_ok=True)
    write_durably(folder / folders.MODEL, model)
    names = {name: getattr(run, name) for name in ("features", "key", "entity", "event_time", "target")}
    write_durably(folder / folders.FEATURES, json.dumps(names, indent=1).encode())
    held_out = folder / folders.HOLDOUT_ROWS
    # As doubles: later nights are compared as doubles, and a value must not change sides of a bin's edge by rounding.
    seen = read_rows(held_out if folders.has_rows(held_out) else folder / folders.TRAIN_ROWS, run, dtype="float64")
    booster = trees.load_booster(model)
    score = trees.predict(booster, seen.matrix, run.features, threads=os.cpu_count() or 1)
    columns = {name: seen.matrix[:, position] for position, name in enumerate(run.features)}
    write_durably(folder / folders.REFERENCE, json.dumps(drift.reference(columns | {"score": score})).encode())

    digest = hashlib.sha256(model).hexdigest()
    # A row of medians: an example is kept with the model for good, and must be nobody's.
    example = np.median(np.nan_to_num(seen.matrix), axis=0, keepdims=True)
    mlflow_run_id = tracking.track(run, folder, booster, history, example, {"nightshift.model_sha256": digest})
    result = {
        "model_sha256": digest,
        "steps": learning.steps,
        "resumed_from_step": resumed_from,
        "mlflow_run_id": mlflow_run_id,
        "seconds": round(sum(point.seconds for point in history), 3),
        "train_rows": train_rows,
    }
    write_durably(folder / folders.RESULT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    faulthandler.enable()
    # Read when XGBoost is loaded. Threads that spin while they wait for each other fight over shared cores: with two busy neighbours
    # on two cores, 120 rounds on 700,000 rows took 113 s spinning and 32 s sleeping.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    interruption.leave_on_sigterm()
    sys.exit(main())
