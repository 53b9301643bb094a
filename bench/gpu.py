"""How much faster the recipes train on a GPU, and whether the models that come out rank as well; where there is none, it says so.

`make bench NAME=gpu`, `ARGS="--rows 50000 --steps 2"` for less of it. Card fraud's trees and sequence model train on drawn rows by the
training program, each once on the CPU and once on one GPU: whole processes are timed, and in them the learning alone. Both models judge
the same held-out rows, on the CPU, as they would at night.

Whether a recipe trains on a GPU is asked of its learner, which asks its library; what a training stood on is read from its checkpoint. A
recipe that would train on the CPU both times is not trained. Whether a training that is killed there ends in the same model is
`bench/resume`'s question: it trains on what the machine has.

There is no target for the speed-up. What is asked of the GPU is that its model ranks as well: average precision lost, at most. Fewer than
200,000 rows or fewer steps than the recipes have cannot tell, and are not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from bench import runs
from include.nightshift.promote import metrics
from include.nightshift.settings import ROOT
from include.nightshift.train import learner, models
from include.nightshift.train import run as folders
from include.nightshift.train.checkpoint import complete
from include.nightshift.train.recipes import Attention, Trees
from include.nightshift.train.run import TrainingRun, judged, read_rows
from include.nightshift.train.trees import CPU
from include.usecases.card_fraud.usecase import USE_CASE

Compared = Trees | Attention
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""Told to a process, hides the GPUs from it."""
ROWS, TELLING = 500_000, 200_000
"""So many, and as many as it takes to tell a worse model from other dice."""
PER_PERSON = 100
"""Rows of a person, about three in two nights, as in the reference data."""
LOST = 0.005
"""Average precision that the GPU's model may lose: it rounds otherwise and throws other dice. Three seeds of the whole sequence model on
200,000 rows lay within 0.0016 on a CPU; of two passes over 50,000, within 0.0104."""


@dataclass(frozen=True)
class Sight:
    """What a recipe finds on this machine."""

    recipe: Compared
    library: str
    device: str
    """That it would train on."""

    @property
    def gpu(self) -> bool:
        """Whether there is something to compare."""
        return self.device != CPU

    def __str__(self) -> str:
        return f"  {self.recipe.name:10} {self.library} sees {self.device if self.gpu else 'no GPU'}"


@dataclass(frozen=True)
class Trained:
    """One training, and how its model ranks the held-out rows."""

    device: str
    rows: int
    """That it learnt from."""
    steps: int
    seconds: float
    """Of the whole process."""
    learning: float
    """Seconds of it in which it learnt."""
    average_precision: float

    def __str__(self) -> str:
        took = f"{self.seconds:8.1f} s, learning {self.learning:8.1f} s"
        return f"{self.rows:10,} rows {self.steps:6} steps {took}, AP {self.average_precision:.4f}  {self.device}"


@dataclass(frozen=True)
class Pair:
    """A recipe on both devices, in one run of this bench."""

    recipe: str
    cpu: Trained
    gpu: Trained

    @property
    def lost(self) -> float:
        """Average precision, by training on the GPU; below 0 it has won."""
        return self.cpu.average_precision - self.gpu.average_precision

    @property
    def faster(self) -> str:
        whole, learning = self.cpu.seconds / self.gpu.seconds, self.cpu.learning / self.gpu.learning
        return f"{self.recipe} {whole:.2f} times as fast on {self.gpu.device}, learning {learning:.2f} times"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="in all; four in five are learnt from, one in ten is held out")
    parser.add_argument("--steps", type=int, help="trees, and passes of the sequence model over the rows, at most; as the recipes say")
    asked = parser.parse_args(arguments)
    if asked.rows < 2_000 or (asked.steps is not None and asked.steps < 1):
        parser.error("at least 2000 rows, and 1 step")
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, {there or 'no'} GPUs among the devices", flush=True)
    # In a process that ends, for whoever asks holds a part of the GPU, and some are set to have one holder at a time.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        first_of_kind = {recipe.kind: recipe for recipe in reversed(USE_CASE.recipes) if isinstance(recipe, Compared)}
        sights = list(apart.map(sight, first_of_kind.values()))
    print("\n".join(map(str, sights)), flush=True)
    if not any(seen.gpu for seen in sights):
        print(f"gpu: {'no recipe trains on the GPU here' if there else 'no GPU here'}: nothing measured")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        wanted = [shrunk(seen.recipe, asked.steps) for seen in sights if seen.gpu]
        tells = asked.rows >= TELLING and all(recipe in USE_CASE.recipes for recipe in wanted)
        return verdict([compared(folder / recipe.name, recipe, asked.rows, {}) for recipe in wanted], tells)
    finally:
        shutil.rmtree(folder)


def sight(recipe: Compared) -> Sight:
    """Ask a recipe's learner."""
    library = "torch" if isinstance(recipe, Attention) else "xgboost"
    return Sight(recipe, f"{library} {version(library)}", str(learner.this_machine(recipe)["device"]))


def shrunk(recipe: Compared, steps: int | None) -> Compared:
    """The recipe with so many trees, or passes over the rows, at most."""
    match recipe:
        case Trees():
            rounds = min(recipe.rounds, steps or recipe.rounds)
            return replace(recipe, rounds=rounds, rounds_per_chunk=min(recipe.rounds_per_chunk, rounds))
        case Attention():
            return replace(recipe, epochs=min(recipe.epochs, steps or recipe.epochs))


def compared(folder: Path, recipe: Compared, rows: int, second: Mapping[str, str]) -> Pair:
    """Train a recipe where no GPU is seen, then with `second` in its environment instead; both on the same rows."""
    features = [feature.name for feature in USE_CASE.features]
    runs.make(folder / "cpu", recipe, rows, people=max(1, rows // PER_PERSON), features=features)
    shutil.copytree(folder / "cpu", folder / "gpu")
    pair = Pair(recipe.name, trained(folder / "cpu", NO_GPU), trained(folder / "gpu", second))
    print(f"{recipe.name}\n  {pair.cpu}\n  {pair.gpu}", flush=True)
    return pair


def trained(folder: Path, told: Mapping[str, str]) -> Trained:
    """Train a run by the training program in a process that is told so, and judge its model."""
    began = time.monotonic()
    line = [sys.executable, "-m", "include.nightshift.train", "--run", str(folder)]
    done = subprocess.run(line, cwd=ROOT, env=os.environ | told, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    result = folders.finished(folder)
    if done.returncode or result is None:
        raise SystemExit(f"gpu: the training of {folder} ended with {done.returncode}: {done.stderr[-1500:]}")
    run, model = TrainingRun.load(folder), models.load(folder / folders.MODEL_FOLDER)
    held = judged(folder, run, model.context)
    score = model.score(held.rows, held.asked, threads=os.cpu_count() or 1)
    target = read_rows(folder / folders.HOLDOUT_ROWS, run).target
    return Trained(device(folder), result["train_rows"], result["steps"], took, result["seconds"], metrics.average_precision(target, score))


def device(folder: Path) -> str:
    """What a finished training stood on, as its last checkpoint says."""
    checkpoints = folder / folders.CHECKPOINTS
    manifest = json.loads((checkpoints / f"{complete(checkpoints)[-1]:08d}.json").read_bytes())
    return str(manifest["body"]["machine"]["device"])


def verdict(pairs: Sequence[Pair], tells: bool) -> int:
    """Print the closing line; the exit code. `tells`: whether so much was trained that a loss is the GPU's."""
    if astray := [pair.recipe for pair in pairs if pair.cpu.device != CPU or pair.gpu.device == CPU]:
        print(f"gpu: {', '.join(astray)} did not train on the CPU and then on a GPU, so nothing was measured: short")
        return 1
    worst = max(pairs, key=lambda pair: pair.lost)
    said = f"average precision that {worst.recipe} loses on the GPU; {'; '.join(pair.faster for pair in pairs)}"
    outcome = f"target {LOST:g} {'ok' if worst.lost <= LOST else 'short'}" if tells else "too little trained to judge that"
    print(f"gpu: {worst.lost:.4f} ({said}) {outcome}")
    return int(tells and worst.lost > LOST)


if __name__ == "__main__":
    raise SystemExit(main())
