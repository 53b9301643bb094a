"""Certificate: what a finished run's folder proves of its resuming, worked out from what was left there and never taken on trust.

The trainer writes a line to `resumes.jsonl` at each start; the history of stretches comes with the checkpoints. Both must fit each other,
the run's recipe, its result and the machines that it had. Needs nothing of a machine that could train it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import TrainingFailedError
from include.nightshift.train import learner, models, search
from include.nightshift.train import run as folders
from include.nightshift.train.checkpoint import write_durably
from include.nightshift.train.recipes import Attention, Recipe, Trees
from include.nightshift.train.run import TrainingRun

if TYPE_CHECKING:
    from include.nightshift.spot.attempts import Attempt

CONSTRUCTION = (
    "A state is hashed when it is read and refused where its manifest names another hash; a manifest is written after its state.",
    "A checkpoint of other data, another recipe or other code is refused.",
    "A stretch is a function of the state before it, the rows, the recipe, the code and the first machine's way of adding up.",
)
"""What the code sees to, whatever happens."""

BENCH = (
    "That a resumed model is the undisturbed one byte for byte, wherever the trainer is killed: bench/resume.py.",
    "What saving costs, and that the work at risk stays within its limit: bench/checkpoint.py.",
)
"""What is measured, and holds for the machines that it was measured on."""

_CLOCKS_APART = timedelta(seconds=60)
"""By so much the clocks of a machine and of the launching side may differ."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is proven of one run; `reasons` says what is not."""

    run_id: str
    fingerprint: Mapping[str, str]
    """Digests of data, recipe and code, as every start found them."""
    model_sha256: str
    steps: int
    stretches: int
    """Each stands exactly once in the history, where the certificate is complete."""
    starts: tuple[Mapping[str, Any], ...]
    """Each start of the trainer: the attempt that it was part of, its step, and the SHA-256 of the state that it went on from."""
    reasons: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.reasons

    def told(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "complete": self.complete,
            "reasons": list(self.reasons),
            "run_id": self.run_id,
            "fingerprint": dict(self.fingerprint),
            "model_sha256": self.model_sha256,
            "steps": self.steps,
            "stretches": self.stretches,
            "starts": [dict(start) for start in self.starts],
            "proven_by_construction": list(CONSTRUCTION),
            "shown_by_bench": list(BENCH),
        }

    def text(self) -> str:
        """For people."""
        verdict = "complete" if self.complete else "NOT complete"
        lines = [f"# Resume certificate of {self.run_id}: {verdict}", "", *(f"- {reason}" for reason in self.reasons)]
        lines += [f"Model {self.model_sha256}, {self.steps} steps in {self.stretches} stretches.", ""]
        for start in self.starts:
            whence = f"went on from step {start['step']}, state {start['state_sha256']}" if start["step"] else "began from nothing"
            lines.append(f"- attempt {start['attempt'] or '(by hand)'}, {start['at']}: {whence}")
        parts = [("Proven by construction:", CONSTRUCTION), ("Shown by tests and bench, not by this run:", BENCH)]
        for title, said in parts:
            lines += ["", title, *(f"- {line}" for line in said)]
        return "\n".join(lines) + "\n"


def started(folder: Path, step: int, state: bytes | None, fingerprint: Mapping[str, str]) -> None:
    """Leave word that the trainer starts here, durably, before it does the first step."""
    line = {
        "at": datetime.now(UTC).isoformat(),
        "step": step,
        "state_sha256": None if state is None else hashlib.sha256(state).hexdigest(),
        "fingerprint": dict(fingerprint),
    }
    path = folder / folders.RESUMES
    held = path.read_bytes() if path.exists() else b""
    write_durably(path, held + json.dumps(line).encode() + b"\n")


def recipe_digest(run: TrainingRun) -> str:
    """Names all that a run asks of its learner."""
    return hashlib.sha256(json.dumps([run.recipe.told(), run.features, run.target], sort_keys=True).encode()).hexdigest()


def certificate(folder: Path, attempts: Sequence[Attempt]) -> Certificate:
    """Work out what a finished run's folder proves; what does not fit becomes a reason.

    Raises:
        ConfigurationError: run.json is not usable.
        TrainingFailedError: its search has not ended.
    """
    run = search.found(folder, TrainingRun.load(folder))
    result = _object(folder / folders.RESULT)
    history, starts = _lines(folder / folders.PROGRESS), _lines(folder / folders.RESUMES)
    steps = int(history[-1]["of"]) if history else 0
    whose = [_attempt(datetime.fromisoformat(start["at"]), attempts) for start in starts]
    reasons = [
        *_of_history([line["step"] for line in history], boundaries(run.recipe, steps)),
        *_of_starts(run, starts, {line["step"] for line in history}),
        *(
            f"the trainer started at {start['at']}, when none of the run's machines was at work"
            for start, attempt in zip(starts, whose, strict=True)
            if attempts and attempt is None
        ),
        *_of_rows(folder, run, starts),
        *_of_code(run, starts),
        *_of_checkpoints(folder, starts, history),
        *_of_result(folder, result, steps, starts),
    ]
    return Certificate(
        run_id=run.run_id,
        fingerprint=starts[-1]["fingerprint"] if starts else {},
        model_sha256=str(result.get("model_sha256", "")),
        steps=steps,
        stretches=len(history),
        starts=tuple(
            {"attempt": attempt, "at": start["at"], "step": start["step"], "state_sha256": start["state_sha256"]}
            for start, attempt in zip(starts, whose, strict=True)
        ),
        reasons=tuple(reasons),
    )


def boundaries(recipe: Recipe, steps: int) -> list[int]:
    """The steps at which the stretches of a recipe end."""
    match recipe:
        case Trees():
            length = recipe.rounds_per_chunk
        case Attention():
            from include.nightshift.train import sequence

            length = -(-steps // sequence.STRETCHES)
        case _:
            length = 1
    return [*range(length, steps, length), steps] if steps else []


def _of_history(found: Sequence[int], wanted: Sequence[int]) -> Iterator[str]:
    if not found:
        yield f"{folders.PROGRESS} holds no stretch"
    for before, after in zip([0, *found], found, strict=False):
        if after <= before:
            yield f"the stretch that ends with step {after} stands behind one that ends with {before}: it was done or told twice"
    if missing := sorted(set(wanted) - set(found)):
        yield f"no stretch ends with step {', '.join(map(str, missing))}: the history has a gap"
    if other := sorted(set(found) - set(wanted)):
        yield f"a stretch ends with step {', '.join(map(str, other))}, where this recipe's stretches do not"


def _of_starts(run: TrainingRun, starts: Sequence[Mapping[str, Any]], ends: set[int]) -> Iterator[str]:
    if not starts:
        yield f"{folders.RESUMES} holds no start: what this run went on from is not known"
        return
    if starts[0]["step"]:
        yield f"the first start that is told of was at step {starts[0]['step']}, not from nothing"
    states: dict[int, str] = {}
    for start in starts:
        step, state = start["step"], start["state_sha256"]
        if other := sorted(name for name, value in start["fingerprint"].items() if starts[0]["fingerprint"].get(name) != value):
            yield f"the start at step {step} was with other {' and '.join(other)} than the first"
        if step and step not in ends:
            yield f"a start went on from step {step}, with which no stretch of the history ends"
        if (step == 0) != (state is None):
            yield f"the start at step {step} {'has a' if state else 'lacks its'} state"
        elif step and states.setdefault(step, state) != state:
            yield f"two starts went on from step {step}, from different states"
    if starts[-1]["fingerprint"].get("recipe") != recipe_digest(run):
        yield "the last start was with another recipe than the run's"


def _of_rows(folder: Path, run: TrainingRun, starts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Read as the trainer reads them: what it learnt from is what stands in the folder now."""
    try:
        found = folders.learnt_rows(folder, run).digest
    except TrainingFailedError as error:
        yield f"the rows that it learnt from cannot be read: {error}"
        return
    if starts and starts[-1]["fingerprint"].get("data") != found:
        yield "the rows in its folder are not those that the last start read: they were changed since"


def _of_code(run: TrainingRun, starts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Ours alone: a machine that trains may have another build of a library than the launching side."""
    if starts and starts[-1]["fingerprint"].get("code", "").partition(" ")[0] != learner.sources(run.recipe):
        yield "the code that its last start ran is not the code that stands here: it was changed since, or the machine had another bundle"


def _of_checkpoints(folder: Path, starts: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Checkpoints may be cleared once a run is finished; those that stand must fit."""
    states = {start["step"]: start["state_sha256"] for start in starts}
    for path in sorted((folder / folders.CHECKPOINTS).glob("[0-9]*.json")):
        body = _object(path).get("body", {})
        step, told = body.get("step", -1), [point["step"] for point in body.get("history", ())]
        if starts and body.get("fingerprint") != starts[-1]["fingerprint"]:
            yield f"the checkpoint {path.name} is of another fingerprint than the run"
        if states.get(step) not in (None, body.get("state_sha256")):
            yield f"the checkpoint {path.name} has another state than the one that a start went on from"
        if told != [line["step"] for line in history if line["step"] <= step]:
            yield f"the checkpoint {path.name} tells another history than {folders.PROGRESS}"


def _of_result(folder: Path, result: Mapping[str, Any], steps: int, starts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    try:
        model = models.sha256(folder / folders.MODEL_FOLDER)
    except FileNotFoundError:
        model = "missing"
    if model != result.get("model_sha256"):
        yield f"the model is {model}, {folders.RESULT} names {result.get('model_sha256')}"
    if result.get("steps") != steps:
        yield f"{folders.RESULT} tells of {result.get('steps')} steps, the history of {steps}"
    if starts and result.get("resumed_from_step") != starts[-1]["step"]:
        yield f"{folders.RESULT} tells of a start at step {result.get('resumed_from_step')}, the last one was at {starts[-1]['step']}"


def _attempt(at: datetime, attempts: Sequence[Attempt]) -> int | None:
    """The machine that was started last before a moment, if it was still there."""
    begun = [attempt for attempt in attempts if attempt.started_at <= at]
    if not begun:
        return None
    latest = max(begun, key=lambda attempt: attempt.started_at)
    return latest.attempt if at <= latest.ended_at + _CLOCKS_APART else None


def _object(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
