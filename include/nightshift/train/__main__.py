"""The command a spot machine runs: `python -m include.nightshift.train --run <folder>`; the same one after every restart.

Exit status: 0 the run is finished (also when it was before), 75 interrupted and worth starting again, 76 the machine has too little
memory, 77 ended because it no longer got on, 1 failed with the reason as the last line.

A machine with several GPUs trains a sequence model with all of them: `torchrun --nproc-per-node N -m -- include.nightshift.train --run
...`, of which the processes above the first follow that one (`train.ranks`); without the dashes torchrun takes `--run` for an option of
its own. Any other recipe is the first one's alone. torchrun itself ends with 1 whenever one of them did not end with 0; the status that
it hides is in the run's file `status`.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from include.nightshift.errors import TrainingOutOfMemoryError
from include.nightshift.train import certificate, environment, interruption, learner, memory, models, probe, search, system
from include.nightshift.train import run as folders
from include.nightshift.train.checkpoint import Checkpoint, Checkpoints, Progress, sole_writer, write_durably
from include.nightshift.train.interruption import Interrupted
from include.nightshift.train.learner import Learner
from include.nightshift.train.pace import AT_RISK_SECONDS, Pace
from include.nightshift.train.ranks import Ranks, alone
from include.nightshift.train.rows import Rows, as_matrix
from include.nightshift.train.run import TrainingRun, learnt_rows
from include.nightshift.train.validation import Validation
from include.nightshift.train.watchdog import STALLED_SECONDS, Watchdog

log = logging.getLogger("nightshift.train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the run of a folder, from wherever it stands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.train", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="FOLDER", help="the run folder that the pin step made")
    parser.add_argument(
        "--at-risk-seconds", type=float, default=AT_RISK_SECONDS, help="work that may have to be done again; 0 saves as often as possible"
    )
    parser.add_argument(
        "--stalled-minutes", type=float, default=STALLED_SECONDS / 60, help="end the program when a step, or the reading, takes longer"
    )
    parser.add_argument(
        "--price-per-hour", type=float, default=0.0, metavar="MONEY", help="what this machine costs; a search may have a budget of it"
    )
    parser.add_argument("--attempt", type=int, help="which machine of the run this is, from 1; what is written of how it fares says so")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        with Watchdog(60 * asked.stalled_minutes, lambda status: os._exit(interruption.leave_status(asked.run, status))) as watchdog:
            train(asked.run, asked.at_risk_seconds, watchdog.alive, asked.price_per_hour, asked.attempt)
    except Interrupted as reason:
        log.warning("interrupted: %s", reason)
        return interruption.leave_status(asked.run, interruption.INTERRUPTED)
    except Exception as error:
        log.exception("training failed")
        log.error("%s: %s", type(error).__name__, " ".join(str(error).split()))
        return interruption.leave_status(asked.run, interruption.OUT_OF_MEMORY if isinstance(error, TrainingOutOfMemoryError) else 1)
    return 0


def train(
    folder: Path,
    at_risk_seconds: float = AT_RISK_SECONDS,
    alive: Callable[[str], None] = lambda at: None,
    price_per_hour: float = 0.0,
    attempt: int | None = None,
) -> None:
    """Bring a run to its end: resume, search where its recipe asks for it, do the stretches that are missing, publish the model, write
    the result.

    `alive` is told whenever something was done, and what; `attempt` is the number of this machine.

    Raises:
        ConfigurationError: run.json is not usable.
        CheckpointError: the checkpoints belong to another run, or another process holds this one.
        NotMaturedError: there are too few training nights for the search.
        TrainingFailedError: the rows cannot be learnt from, or the loss diverged.
        TrainingOutOfMemoryError: the machine has too little memory.
        Interrupted: the machine goes; the same call resumes.
    """
    run = TrainingRun.load(folder)
    if Ranks.here().follows:
        while run.recipe.search and not (folder / folders.SEARCH).exists():
            # Trials are the first one's alone: one that fails half-way would leave the others waiting for its orders.
            alive("the beginning of the search")
            time.sleep(1)
        run = search.found(folder, run)
        with memory.told(run.recipe, f"the rows of run {run.run_id}"):
            learner.follow(run, learnt_rows(folder, run), lambda steps_left: alive("a step"))
        return
    with sole_writer(folder / folders.CHECKPOINTS), memory.told(run.recipe, f"the rows of run {run.run_id}"):
        if folders.finished(folder):
            log.info("run %s is finished already", run.run_id)
            return

        machine = _machine(folder, run, attempt)

        def trials(trial_of: TrainingRun) -> search.Measure:
            return _trials(folder, trial_of, machine, at_risk_seconds, alive)

        with system.sampled(folder, attempt):
            with alone():
                run = search.settled(folder, run, learner.code(run.recipe), trials, price_per_hour)
            rows = learnt_rows(folder, run)
            alive("the reading of rows")
            learning, stands, history = _learnt(folder, folder, run, rows, machine, at_risk_seconds, alive)
            _publish(folder, run, learning, history, stands.step, int(rows.told.sum()))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "linux" else 1024)
    log.info("finished; peak memory %.0f MB", kilobytes / 1024)


def _trials(
    folder: Path, trial_of: TrainingRun, machine: Mapping[str, str | int], at_risk_seconds: float, alive: Callable[[str], None]
) -> search.Measure:
    """How a search of this run measures its trials, which are variants of `trial_of`; all of them learn from the same rows."""
    rows, judges = learnt_rows(folder, trial_of, trial_of.train_last), Validation.read(folder, trial_of)
    alive("the reading of rows")

    def measure(place: Path, trial: TrainingRun) -> float:
        learning, _, _ = _learnt(place, folder, trial, rows, machine, at_risk_seconds, alive)
        return judges.average_precision(models.loads(learning.model(), trial.told()), threads=os.cpu_count() or 1)

    return measure


def _learnt(
    folder: Path,
    home: Path,
    run: TrainingRun,
    rows: Rows,
    machine: Mapping[str, str | int],
    at_risk_seconds: float,
    alive: Callable[[str], None],
) -> tuple[Learner, Checkpoint, tuple[Progress, ...]]:
    """Learn to the last step, from wherever the folder's checkpoints stand: the learner, where it stood, and all stretches.

    `home`: the folder of the whole run, where notices come. `machine`: what its arithmetic depends on.
    """
    agreed = fingerprint(run, rows)
    checkpoints = Checkpoints(folder / folders.CHECKPOINTS, agreed)
    checkpoints.folder.mkdir(parents=True, exist_ok=True)
    start = checkpoints.newest()
    stands = start[0] if start else Checkpoint(step=0, machine=learner.this_machine(run.recipe) | dict(machine), history=())
    learning = learner.begin(run, rows, stands.machine)
    if start:
        learning.restore(stands.step, start[1])
    certificate.started(folder, stands.step, start[1] if start else None, agreed)
    log.info("run %s: %d rows, starting at step %d of %d", run.run_id, int(rows.told.sum()), stands.step, learning.steps)
    history = learn(folder, learning, stands, checkpoints, Pace(at_risk_seconds), alive, home)
    return learning, stands, history


def _machine(folder: Path, run: TrainingRun, attempt: int | None) -> dict[str, str | int]:
    """What the arithmetic of all trainings of a run depends on: of this machine, or of the one that began it."""
    kept = folder / folders.BEGAN
    if not kept.exists() or not folders.begun(folder):
        write_durably(kept, json.dumps({"attempt": attempt} | learner.this_machine(run.recipe), indent=1).encode())
    # Trials are one process's, whoever helps with the last training.
    return {name: value for name, value in json.loads(kept.read_text()).items() if name not in ("attempt", "processes")}


def fingerprint(run: TrainingRun, rows: Rows) -> dict[str, str]:
    """What a checkpoint must agree with to be resumed: the rows themselves, the recipe, and the code that makes the model."""
    return {"data": rows.digest, "recipe": certificate.recipe_digest(run), "code": learner.code(run.recipe)}


def learn(
    folder: Path,
    learning: Learner,
    stands: Checkpoint,
    checkpoints: Checkpoints,
    pace: Pace,
    alive: Callable[[str], None] = lambda at: None,
    home: Path | None = None,
) -> tuple[Progress, ...]:
    """Advance to the last step, saving at the pace; returns the history of all stretches.

    `home`: the folder of the whole run, where notices come; None: this one.
    """
    home = home or folder
    history = stands.history
    _write_progress(folder, history, learning.steps)
    while learning.step < learning.steps:
        loss = learning.advance(_leave_if_time_is_short(home, alive))
        took = pace.stretched()
        history = (*history, Progress(learning.step, round(took, 3), loss, datetime.now(UTC).isoformat()))
        log.info("step %d of %d: log-loss %.6f, %.2f s", learning.step, learning.steps, loss, took)
        going = interruption.seconds_left(home) is not None
        if going or pace.due or interruption.is_at_risk(home) or learning.step == learning.steps:
            checkpoints.save(Checkpoint(step=learning.step, machine=stands.machine, history=history), learning.state())
            _write_progress(folder, history, learning.steps)
            log.info("saved in %.3f s", pace.saved())
        alive(f"step {learning.step}")
        if going:
            raise Interrupted(f"the machine goes; the checkpoint of step {learning.step} is saved")
    return history


def _leave_if_time_is_short(folder: Path, alive: Callable[[str], None]) -> Callable[[int], None]:
    """After each step: under notice, go on only if this stretch can still be finished and saved, judging by its steps so far."""
    began = time.monotonic()
    steps = 0

    def after_step(steps_left: int) -> None:
        nonlocal steps
        steps += 1
        alive(f"step {steps} of a stretch")
        left = interruption.seconds_left(folder)
        if left is not None and left < 1.5 * steps_left * (time.monotonic() - began) / steps:
            raise Interrupted(f"the machine goes in {left:.1f} s, too soon for {steps_left} more steps; the newest checkpoint stands")

    return after_step


def _write_progress(folder: Path, history: Sequence[Progress], steps: int) -> None:
    # Whole, from the checkpoint's history: a line can then neither be torn nor speak of a stretch that was lost.
    write_durably(folder / folders.PROGRESS, "".join(json.dumps(asdict(point) | {"of": steps}) + "\n" for point in history).encode())


def _publish(folder: Path, run: TrainingRun, learning: Learner, history: Sequence[Progress], resumed_from: int, train_rows: int) -> None:
    import numpy as np

    from include.nightshift.monitor import drift

    content = learning.model()
    names = run.told()
    (folder / folders.MODEL_FOLDER).mkdir(exist_ok=True)
    write_durably(folder / folders.FEATURES, json.dumps(names, indent=1).encode())
    write_durably(models.file(folder / folders.MODEL_FOLDER), content)
    model = models.loads(content, names)
    # As doubles: later nights are compared as doubles, and a value must not change sides of a bin's edge by rounding.
    seen = folders.judged(folder, run, model.context)
    score = model.score(seen.rows, seen.asked, threads=os.cpu_count() or 1)
    matrix = as_matrix(seen.rows, run.features)[seen.asked]
    probe.leave(folder / folders.MODEL_FOLDER, matrix, names)
    columns = {name: matrix[:, position] for position, name in enumerate(run.features)}
    write_durably(folder / folders.REFERENCE, json.dumps(drift.reference(columns | {"score": score})).encode())

    # A row of medians: an example is kept with the model for good, and must be nobody's.
    example = np.median(np.nan_to_num(matrix), axis=0)
    write_durably(folder / folders.EXAMPLE, json.dumps(dict(zip(run.features, example.tolist(), strict=True)), indent=1).encode())
    write_durably(folder / folders.ENVIRONMENT, json.dumps(environment.here(run.recipe), indent=1).encode())
    result: dict[str, Any] = {
        "model_sha256": hashlib.sha256(content).hexdigest(),
        "steps": learning.steps,
        "resumed_from_step": resumed_from,
        "seconds": sum(point.seconds for point in history),
        "train_rows": train_rows,
    }
    if (folder / folders.SEARCH).exists():
        result["search"] = json.loads((folder / folders.SEARCH).read_text())
        result["seconds"] += result["search"]["seconds"]
    result["seconds"] = round(result["seconds"], 3)
    write_durably(folder / folders.RESULT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    faulthandler.enable()
    # Read when XGBoost is loaded. Threads that spin while they wait for each other fight over shared cores: with two busy neighbours
    # on two cores, 120 rounds on 700,000 rows took 113 s spinning and 32 s sleeping.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    interruption.leave_on_sigterm()
    sys.exit(main())
