"""Whether a training that is killed at any moment ends with the model of an undisturbed one, byte for byte.

`make bench NAME=resume`. Trees that sample rows and columns, and the sequence model with dropout, are trained once in peace, then again
and again while the trainer is killed by SIGKILL at random moments until it has finished. Every kill is of a process that was stopped
before, so that what was looked at is what was killed: it counts as inside a checkpoint's write where a temporary file or a state without
its manifest stands that did not stand when the process began. To have enough of those, every second kill waits for a write to begin.

Then the same with a planted defect, a trainer that forgets where its dice stood: the same comparison must find it.

Trainers are forks of this process, which has their libraries loaded and no thread of theirs; each runs the training program's own
`main`, saves after every stretch, and is the only one of its run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import Figure, report, runs
from include.nightshift.train import models
from include.nightshift.train import run as folders
from include.nightshift.train.checkpoint import complete
from include.nightshift.train.recipes import Attention, Recipe, Trees

RECIPES: Mapping[str, Recipe] = {
    "trees": Trees(name="trees", rounds=200, rounds_per_chunk=2, max_depth=5, max_bin=64, subsample=0.7, colsample_bytree=0.6),
    "sequence": Attention(
        name="sequence", width=16, heads=2, bins=8, past_rows=8, window=16, batch=8, epochs=16, dropout=0.2, bfloat16=False
    ),
}
ROWS, PEOPLE = 4800, 80
LIVES = 6
"""A run is cut into about twice as many lives: each lasts up to this share of the undisturbed run."""
PLANTED_KILLS = 6
"""Of a trainer with a defect, at least: it is found as soon as one of them resumed."""
LOG = "log"


@dataclass
class Tally:
    """What was done to the runs of one recipe, and what became of them."""

    kills: int = 0
    inside: Counter[str] = field(default_factory=Counter)
    """Kills inside a checkpoint's write, by where in it."""
    runs: int = 0
    resumed: int = 0
    """Runs whose last process began at a checkpoint."""
    identical: int = 0
    unreadable: int = 0
    """Checkpoints that stood complete and were not what their hashes say."""

    def __str__(self) -> str:
        return (
            f"{self.kills:5} kills, {self.inside.total():4} inside a write; {self.runs:3} runs, {self.resumed:3} resumed, "
            f"{self.identical:3} byte for byte; {self.unreadable} unreadable checkpoints"
        )


@dataclass(frozen=True)
class Peace:
    """An undisturbed run of a recipe."""

    folder: Path
    sha256: str
    seconds: float
    save_seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.resume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=240, help="SIGKILLs over all recipes, at least")
    parser.add_argument("--inside", type=int, default=80, help="of them inside a checkpoint's write, at least")
    parser.add_argument("--seed", type=int, default=1, help="of when the trainers are killed")
    parser.add_argument("--recipes", default=",".join(RECIPES), metavar="R,R", help=f"of {', '.join(RECIPES)}")
    asked = parser.parse_args(arguments)
    names = asked.recipes.split(",")
    if asked.kills < 1 or asked.inside < 1 or not set(names) <= RECIPES.keys():
        parser.error(f"kills and inside are at least 1, and recipes are among {', '.join(RECIPES)}")
    _load(names)
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, seed {asked.seed}", flush=True)
    try:
        dice = random.Random(asked.seed)
        return _verdict(
            *_all(folder, names, -(-asked.kills // len(names)), -(-asked.inside // len(names)), dice), asked.kills, asked.inside
        )
    finally:
        shutil.rmtree(folder)


def _all(folder: Path, names: Sequence[str], kills: int, inside: int, dice: random.Random) -> tuple[list[Tally], list[str]]:
    """Each recipe's tally, and the recipes whose planted defect was not found."""
    sound, missed = [], []
    for name in names:
        began = time.monotonic()
        peace = _in_peace(folder / name, RECIPES[name])
        print(f"{name}: {ROWS:,} rows, {peace.seconds:.1f} s in peace, a save {1000 * peace.save_seconds:.1f} ms", flush=True)
        sound.append(under_fire(peace, kills, inside, dice))
        print(f"  {'as it is':16} {sound[-1]}")
        print(f"  {'':16} inside: {', '.join(f'{where} {count}' for where, count in sorted(sound[-1].inside.items()))}")
        planted = under_fire(peace, PLANTED_KILLS, 1, dice, PLANTED[name])
        print(f"  {'planted defect':16} {planted}, in all {time.monotonic() - began:.0f} s", flush=True)
        if planted.identical == planted.runs:
            missed.append(name)
    return sound, missed


def _verdict(sound: Sequence[Tally], missed: Sequence[str], kills: int, inside: int) -> int:
    figures = [
        Figure("killed runs that are not the undisturbed one", sum(tally.runs - tally.identical for tally in sound), 0, ""),
        Figure("checkpoints that stood complete and cannot be read", sum(tally.unreadable for tally in sound), 0, ""),
        Figure(f"planted defects that were not found {', '.join(missed)}".rstrip(), len(missed), 0, ""),
        Figure("recipes of which no killed run went on from a checkpoint", sum(not tally.resumed for tally in sound), 0, ""),
        Figure("SIGKILLs", sum(tally.kills for tally in sound), kills, "", at_least=True),
        Figure("of them inside a checkpoint's write", sum(tally.inside.total() for tally in sound), inside, "", at_least=True),
    ]
    return report("resume", figures)


def under_fire(peace: Peace, kills: int, inside: int, dice: random.Random, plant: Callable[[], None] | None = None) -> Tally:
    """Train new runs like the undisturbed one until so many trainers were killed, in all and inside a write; each run to its end."""
    tally = Tally()
    while tally.kills < kills or tally.inside.total() < inside:
        folder = peace.folder.with_name(f"{peace.folder.name}-killed")
        shutil.copytree(peace.folder, folder, ignore=lambda path, names: {folders.CHECKPOINTS, folders.RESULT, "model", LOG} & set(names))
        status, lives = None, 0
        while status is None:
            enough = tally.kills >= kills and tally.inside.total() >= inside
            # Longer and longer: on a machine that is busy now, no trainer might ever get as far as to save.
            life = float("inf") if enough else dice.uniform(0, peace.seconds / LIVES * 1.03**lives)
            delay = dice.uniform(0, peace.save_seconds) if dice.random() < 1 / 2 else None
            status = _live(folder, plant, life, delay, tally)
            tally.unreadable += sum(not reads(folder / folders.CHECKPOINTS, step) for step in complete(folder / folders.CHECKPOINTS))
            lives += 1
        log = (folder / LOG).read_text()
        # A trainer that finds one goes back to the one before, and says so.
        tally.unreadable += log.count("is damaged")
        tally.runs += 1
        if status:
            print(f"  a trainer ended with {status}: {log.splitlines()[-1]}")
        else:
            result = json.loads((folder / folders.RESULT).read_text())
            tally.resumed += result["resumed_from_step"] > 0
            tally.identical += models.sha256(folder / folders.MODEL_FOLDER) == peace.sha256
        shutil.rmtree(folder)
    return tally


def _live(folder: Path, plant: Callable[[], None] | None, life: float, delay: float | None, tally: Tally) -> int | None:
    """Start a trainer and kill it after `life` seconds; its exit status where it ended before, None where it was killed.

    `delay`: wait for the next write to begin, and for so many seconds then.
    """
    checkpoints = folder / folders.CHECKPOINTS
    before = litter(checkpoints).keys()
    trainer = _apart(lambda: _trainer(folder, plant))
    until = time.monotonic() + life
    while time.monotonic() < until and _runs(trainer):
        time.sleep(max(0.0, min(0.02, until - time.monotonic())))
    if delay is not None:
        while not litter(checkpoints).keys() - before and _runs(trainer):
            pass
        time.sleep(delay)
    os.kill(trainer, signal.SIGSTOP)
    _, ended = os.waitpid(trainer, os.WUNTRACED)
    if not os.WIFSTOPPED(ended):
        return os.waitstatus_to_exitcode(ended)
    seen = litter(checkpoints)
    os.kill(trainer, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(trainer, 0)[1]) == -signal.SIGKILL
    tally.kills += 1
    # What a process before this one left behind is not this one's write.
    if own := sorted(seen[found] for found in seen.keys() - before):
        tally.inside[own[0]] += 1
    return None


def litter(checkpoints: Path) -> dict[tuple[str, int, int], str]:
    """What stands in a folder of checkpoints only while one is written, each by name, inode and time; and where in a write that is."""
    found = {}
    names = set(os.listdir(checkpoints)) if checkpoints.is_dir() else set()
    steps = {name.removesuffix(".json") for name in names if not name.startswith(".")}
    for name in names:
        if re.fullmatch(r"\..*\.state\.tmp", name):
            where = "state half written"
        elif re.fullmatch(r"\..*\.tmp", name):
            where = "manifest half written"
        elif name.endswith(".state") and f"{name.removesuffix('.state')}.json" not in names:
            newer = any(step > name for step in steps if step.isdigit())
            where = "old state left to remove" if newer else "state without its manifest"
        else:
            continue
        try:
            stands = (checkpoints / name).stat()
        except FileNotFoundError:
            continue
        found[name, stands.st_ino, stands.st_mtime_ns] = where
    return found


def reads(checkpoints: Path, step: int) -> bool:
    """Whether a checkpoint that stands complete is what its hashes say: looked at anew, not by the code that wrote it."""
    try:
        manifest = json.loads((checkpoints / f"{step:08d}.json").read_bytes())
        body = json.dumps(manifest["body"], sort_keys=True).encode()
        state = (checkpoints / f"{step:08d}.state").read_bytes()
        return (
            manifest["body_sha256"] == hashlib.sha256(body).hexdigest()
            and manifest["body"]["state_sha256"] == hashlib.sha256(state).hexdigest()
            and manifest["body"]["step"] == step
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


# Trainers


def _load(names: Sequence[str]) -> None:
    """Load what the trainers need, so that a fork begins at once; no thread may have run by then."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    wanted = ["pyarrow.dataset", "pyarrow.parquet", "xgboost", "include.nightshift.monitor.drift", "include.nightshift.train.__main__"]
    if "sequence" in names:
        # The optimiser asks for torch._dynamo at its first step, for a second.
        wanted += ["safetensors.torch", "torch._dynamo", "include.nightshift.train.sequence"]
    for name in wanted:
        importlib.import_module(name)
    # Arrow's allocator has a thread that it makes anew in a fork. There is no such list but on Linux.
    running = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if others := [name for name in running[1:] if not name.startswith("jemalloc")]:
        raise SystemExit(f"resume: {', '.join(others)} run before the first fork, and a fork has none of them: look at what was imported")


def _apart(work: Callable[[], int]) -> int:
    """Do something in a fork; its process."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        # Results must not hang on the cores, and a second thread in a fork would.
        os.cpu_count = lambda: 1
        status = work()
    finally:
        os._exit(status)


def _runs(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _trainer(folder: Path, plant: Callable[[], None] | None = None) -> int:
    from include.nightshift.train import __main__ as program
    from include.nightshift.train import interruption

    said = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if plant:
        plant()
    interruption.leave_on_sigterm()
    return program.main(["--run", str(folder), "--at-risk-seconds", "0"])


def _in_peace(folder: Path, recipe: Recipe) -> Peace:
    """Make a run and train it undisturbed."""
    status = os.waitpid(_apart(lambda: _make(folder, recipe)), 0)[1]
    began = time.monotonic()
    status = status or os.waitpid(_apart(lambda: _trainer(folder)), 0)[1]
    took = time.monotonic() - began
    log = (folder / LOG).read_text() if (folder / LOG).exists() else "its rows could not be made"
    if status:
        raise SystemExit(f"resume: {recipe.name} did not train undisturbed: {log[-1500:]}")
    saves = [float(seconds) for seconds in re.findall(r"saved in ([0-9.]+) s", log)]
    return Peace(folder, models.sha256(folder / folders.MODEL_FOLDER), took, median(saves))


def _make(folder: Path, recipe: Recipe) -> int:
    runs.make(folder, recipe, ROWS, PEOPLE)
    return 0


# Defects to plant: each is sound while nobody disturbs it


def _chunks_counted_anew() -> None:
    """Trees whose samplers begin anew with every process, as XGBoost's own do."""
    from include.nightshift.train import trees

    seed, first = trees.chunk_seed, dict[int, int]()
    trees.chunk_seed = lambda of, chunk: seed(of, chunk - first.setdefault(of, chunk))  # type: ignore[assignment]


def _dice_as_at_the_start() -> None:
    """A network whose dropout begins anew with every process."""
    from include.nightshift.train.sequence import Training

    restore = Training.restore

    def forgetful(self: Any, step: int, state: bytes) -> None:
        dice = self._dice
        restore(self, step, state)
        self._dice = dice

    Training.restore = forgetful  # type: ignore[method-assign]


PLANTED: Mapping[str, Callable[[], None]] = {"trees": _chunks_counted_anew, "sequence": _dice_as_at_the_start}


if __name__ == "__main__":
    raise SystemExit(main())
