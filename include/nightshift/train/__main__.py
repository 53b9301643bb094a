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

from include.nightshift.train import interruption, trees
from include.nightshift.train import run as folders
from include.nightshift.train.checkpoint import Checkpoint, Checkpoints, Progress, sole_writer, write_durably
from include.nightshift.train.interruption import Interrupted
from include.nightshift.train.run import Rows, TrainingRun, read_rows

log = logging.getLogger("nightshift.train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the run of a folder, from wherever it stands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.train", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="FOLDER", help="the run folder that the pin step made")
    folder: Path = parser.parse_args(arguments).run
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        train(folder)
    except Interrupted as reason:
        log.warning("interrupted: %s", reason)
        return interruption.INTERRUPTED
    except Exception as error:
        log.exception("training failed")
        log.error("%s: %s", type(error).__name__, " ".join(str(error).split()))
        return 1
    return 0


def train(folder: Path) -> None:
    """Bring a run to its end: resume, boost the chunks that are missing, publish the model, tell MLflow, write the result.

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
        resumed_from = trees.rounds_done(run.recipe, start.chunk) if start else 0
        log.info("run %s: %d rows, starting at round %d of %d", run.run_id, len(rows), resumed_from, run.recipe.rounds)
        end = _boost(folder, run, rows, checkpoints, start)
        _publish(folder, run, end, resumed_from, len(rows))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "linux" else 1024)
    log.info("finished; peak memory %.0f MB", kilobytes / 1024)


def fingerprint(run: TrainingRun, rows: Rows) -> dict[str, str]:
    """What a checkpoint must agree with to be resumed: the rows themselves, the recipe, and the code that grows the trees."""
    import xgboost

    recipe = json.dumps([asdict(run.recipe), run.features, run.target], sort_keys=True)
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (trees, folders))
    return {
        "data": rows.digest,
        "recipe": hashlib.sha256(recipe.encode()).hexdigest(),
        "code": f"{hashlib.sha256(code).hexdigest()} xgboost {xgboost.__version__}",
    }


def _boost(folder: Path, run: TrainingRun, rows: Rows, checkpoints: Checkpoints, start: Checkpoint | None) -> Checkpoint:
    threads = start.threads if start else os.cpu_count() or 1
    now = start or Checkpoint(chunk=0, model=b"", threads=threads, history=())
    _write_progress(folder, now.history)
    total = trees.chunks(run.recipe)
    if now.chunk == total:
        return now
    matrix = trees.quantise(rows, run.features, run.recipe, threads)
    while now.chunk < total:
        began = time.monotonic()
        model, loss = trees.boost(now.model or None, matrix, run.recipe, now.chunk, threads, _leave_if_time_is_short(folder))
        done = trees.rounds_done(run.recipe, now.chunk + 1)
        progress = Progress(done, round(time.monotonic() - began, 3), loss, datetime.now(UTC).isoformat())
        now = Checkpoint(chunk=now.chunk + 1, model=model, threads=threads, history=(*now.history, progress))
        checkpoints.save(now)
        _write_progress(folder, now.history)
        log.info("round %d of %d: log-loss %.6f, %.2f s", done, run.recipe.rounds, loss, progress.seconds)
        if interruption.seconds_left(folder) is not None:
            raise Interrupted(f"the machine goes; checkpoint {now.chunk} (round {done}) is saved")
    return now


def _leave_if_time_is_short(folder: Path) -> Callable[[int], None]:
    """After each round: under notice, go on only if this chunk can still be finished and saved, judging by its rounds so far."""
    began = time.monotonic()
    rounds = 0

    def after_round(rounds_left: int) -> None:
        nonlocal rounds
        rounds += 1
        left = interruption.seconds_left(folder)
        if left is not None and left < 1.5 * rounds_left * (time.monotonic() - began) / rounds:
            raise Interrupted(f"the machine goes in {left:.1f} s, too soon for {rounds_left} more rounds; the newest checkpoint stands")

    return after_round


def _write_progress(folder: Path, history: Sequence[Progress]) -> None:
    # Whole, from the checkpoint's history: a line can then neither be torn nor speak of a chunk that was lost.
    write_durably(folder / folders.PROGRESS, "".join(json.dumps(asdict(point)) + "\n" for point in history).encode())


def _publish(folder: Path, run: TrainingRun, end: Checkpoint, resumed_from: int, train_rows: int) -> None:
    import numpy as np

    from include.nightshift.monitor import drift
    from include.nightshift.train import tracking

    (folder / folders.MODEL).parent.mkdir(exist_ok=True)
    write_durably(folder / folders.MODEL, end.model)
    names = {name: getattr(run, name) for name in ("features", "key", "entity", "event_time", "target")}
    write_durably(folder / folders.FEATURES, json.dumps(names, indent=1).encode())
    held_out = folder / folders.HOLDOUT_ROWS
    # As doubles: later nights are compared as doubles, and a value must not change sides of a bin's edge by rounding.
    seen = read_rows(held_out if folders.has_rows(held_out) else folder / folders.TRAIN_ROWS, run, dtype="float64")
    booster = trees.load_booster(end.model)
    score = trees.predict(booster, seen.matrix, run.features, threads=os.cpu_count() or 1)
    columns = {name: seen.matrix[:, position] for position, name in enumerate(run.features)}
    write_durably(folder / folders.REFERENCE, json.dumps(drift.reference(columns | {"score": score})).encode())

    digest = hashlib.sha256(end.model).hexdigest()
    # A row of medians: an example is kept with the model for good, and must be nobody's.
    example = np.median(np.nan_to_num(seen.matrix), axis=0, keepdims=True)
    mlflow_run_id = tracking.track(run, folder, booster, end.history, example, {"nightshift.model_sha256": digest})
    result = {
        "model_sha256": digest,
        "rounds": run.recipe.rounds,
        "resumed_from_round": resumed_from,
        "mlflow_run_id": mlflow_run_id,
        "seconds": round(sum(point.seconds for point in end.history), 3),
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
