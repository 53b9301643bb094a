"""What it costs to be able to resume: a large state saved durably, and a training that can lose a minute at most.

`make bench NAME=checkpoint`. First, 600 MB of weights and moments: `Checkpoints.save` beside writing the same pieces and fsyncing them,
which no durable save can beat, and beside `torch.save` with fsync, SHA-256 and rename. Rounds alternate; medians.

Then the trees, by the training program's own loop, with 60 seconds at risk: what the saves took, and what beginning each chunk with
another start costs beside its other rounds, as a share of all. Targets (`targets.md` A): twice the bare write, and 1 %.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bench import Figure, report, tell
from include.nightshift import durable
from include.nightshift.train import learner
from include.nightshift.train.__main__ import learn
from include.nightshift.train.checkpoint import Checkpoint, Checkpoints
from include.nightshift.train.pace import AT_RISK_SECONDS, Pace
from include.nightshift.train.recipes import Trees
from include.nightshift.train.rows import Rows
from include.nightshift.train.trees import Boosting

PARAMETERS, LAYERS, ROUNDS = 50_000_000, 50, 7
"""Of the state, in so many tensors, with two moments each: 600 MB."""
CHUNKS, CHUNK_SECONDS = 5, 40.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=800_000, help="that the trees learn from")
    rows = parser.parse_args().rows
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    try:
        return report("checkpoint", [_state(folder), _training(folder, rows)])
    finally:
        shutil.rmtree(folder)


def _state(folder: Path) -> Figure:
    pieces = [np.random.default_rng(seed).random(PARAMETERS // LAYERS, dtype="float32").data for seed in range(3 * LAYERS)]
    step = iter(range(1, 1_000))

    def bare() -> None:
        with (folder / "bare").open("wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
            os.fsync(file.fileno())

    def ours() -> None:
        Checkpoints(folder / "ours", {}).save(Checkpoint(step=next(step), machine={}, history=()), pieces)

    def by_torch() -> None:
        with durable.placed(folder / "torch") as temporary:
            torch.save([torch.from_numpy(np.asarray(piece)) for piece in pieces], temporary)
            hashlib.sha256(temporary.read_bytes()).hexdigest()

    (folder / "ours").mkdir()
    ways = {"bare write and fsync": bare, "ours": ours, "torch.save, hashed": by_torch}
    taken = {name: list[float]() for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            # What the round before left to the disk is not this one's.
            os.sync()
            taken[name].append(_seconds(way))
            for path in [folder / "bare", folder / "torch"]:
                path.unlink(missing_ok=True)
    tell(taken)
    best, seen = (statistics.median(taken[name]) for name in ("bare write and fsync", "ours"))
    return Figure("a state of 600 MB, times the bare write", seen / best, 2, "")


def _seconds(way: Callable[[], None]) -> float:
    began = time.monotonic()
    way()
    return time.monotonic() - began


class Clocked(Boosting):
    """Trees that note how long each round took, chunk by chunk."""

    def __init__(self, rows: Rows, recipe: Trees) -> None:
        super().__init__(rows, [f"f{number}" for number in range(rows.matrix.shape[1])], recipe, os.cpu_count() or 1)
        self.chunks: list[np.ndarray] = []

    def advance(self, after_step: Callable[[int], None]) -> float:
        stamps = []

        def stamped(left: int) -> None:
            stamps.append(time.monotonic())
            after_step(left)

        self.quantise()
        began = time.monotonic()
        loss = super().advance(stamped)
        # Putting the model into bytes belongs to the chunk too.
        self.chunks.append(np.diff([began, *stamps, time.monotonic()]))
        return loss


def _training(folder: Path, count: int) -> Figure:
    random = np.random.default_rng(1)
    matrix = random.normal(size=(count, 20)).astype("float32")
    odds = matrix[:, 0] * matrix[:, 1] + matrix[:, 2] + random.normal(size=count)
    rows = Rows(matrix, (odds > 3.5).astype("float32"), np.arange(count), np.arange(count, dtype="float64"))
    recipe = Trees(name="trees", rounds=10, rounds_per_chunk=10, max_depth=5, subsample=0.7, colsample_bytree=0.5, max_bin=4096)
    tried = Clocked(rows, recipe)
    tried.advance(lambda left: None)
    per_chunk = max(1, round(CHUNK_SECONDS / float(np.median(tried.chunks[0]))))
    long = Trees(**vars(recipe) | {"rounds": CHUNKS * per_chunk, "rounds_per_chunk": per_chunk})
    learning, checkpoints = Clocked(rows, long), _Timed(folder / "run" / "checkpoints")
    began = time.monotonic()
    learn(folder / "run", learning, Checkpoint(step=0, machine=learner.this_machine(long), history=()), checkpoints, Pace(AT_RISK_SECONDS))
    took = time.monotonic() - began
    # The first chunk begins a training in any case.
    begun = sum(float(chunk[0] - np.median(chunk[1:-1]) + chunk[-1]) for chunk in learning.chunks[1:])
    print(
        f"{count:,} rows, {long.rounds} rounds in {CHUNKS} chunks: {took:.0f} s, of it {begun:.2f} s beginning and ending chunks and "
        f"{sum(checkpoints.seconds):.2f} s in {len(checkpoints.seconds)} saves"
    )
    return Figure("a training with 60 s at risk, share of it", 100 * (begun + sum(checkpoints.seconds)) / took, 1, "%")


class _Timed(Checkpoints):
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        super().__init__(folder, {})
        self.seconds: list[float] = []

    def save(self, checkpoint: Checkpoint, state: Sequence[bytes]) -> None:  # type: ignore[override]
        self.seconds.append(_seconds(lambda: super(_Timed, self).save(checkpoint, state)))


if __name__ == "__main__":
    raise SystemExit(main())
