"""Checkpoints: what outlives the machine. A checkpoint exists when its manifest exists, and the manifest is written last.

The contract, each clause a test: content goes to a temporary file, is fsynced, renamed, and its folder fsynced, so a kill at any
byte leaves the checkpoint before intact; hashes are checked on reading, and a damaged checkpoint yields to the one before; a
checkpoint of other data, recipe or code is refused; two are kept; one process at a time may write. CheckFreq (Mohan, Phanishayee,
Chidambaram, FAST 2021) has the reasons. What a state is, its learner knows. Python's standard library only: the launching side
reads the manifests too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import durable
from include.nightshift.errors import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Buffer

log = logging.getLogger(__name__)

KEPT = 2
"""The newest, and the one before should the newest prove damaged."""

LOCK = "lock"
"""Names the process that writes."""


@dataclass(frozen=True)
class Progress:
    """A stretch of training done; a line of `progress.jsonl`."""

    step: int
    """Steps done by then: trees grown, or updates of the weights."""
    seconds: float
    """What this stretch took."""
    loss: float
    """Log-loss on the rows that it learnt from."""
    at: str
    """When it was done, ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run stands, beside the learner's state."""

    step: int
    """Steps done."""
    machine: Mapping[str, str | int]
    """What the arithmetic depends on, of the first machine: another number of threads may add up floats in another order."""
    history: tuple[Progress, ...]
    """Every stretch so far, so that a restart can tell the whole story."""


def write_durably(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all, and have it survive a power cut."""
    with durable.placed(path) as temporary:
        temporary.write_bytes(content)


def complete(folder: Path) -> list[int]:
    """Steps of the checkpoints that stand in a folder, ascending; their content is not looked at."""
    return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())


def last_saved_at(folder: Path) -> datetime | None:
    """When the newest complete checkpoint was saved, UTC; None where there is none."""
    numbers = complete(folder)
    return datetime.fromtimestamp(_manifest_path(folder, numbers[-1]).stat().st_mtime, UTC) if numbers else None


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, str]) -> None:
        """`fingerprint`: what a checkpoint must agree with to be resumed, by name (data, recipe, code)."""
        self.folder = folder
        self.fingerprint = dict(fingerprint)

    def save(self, checkpoint: Checkpoint, state: Sequence[Buffer]) -> None:
        """Make a checkpoint complete, then let go of those that are no longer needed.

        `state`: all that the next step depends on beside the run folder, in as many pieces as suit the learner.
        """
        digest = _write_hashed(_state_path(self.folder, checkpoint.step), state)
        body = asdict(checkpoint) | {"state_sha256": digest, "fingerprint": self.fingerprint}
        manifest = {"body": body, "body_sha256": _digest(body)}
        write_durably(_manifest_path(self.folder, checkpoint.step), json.dumps(manifest, indent=1).encode())
        for step in complete(self.folder)[:-KEPT]:
            # The manifest goes first: a state without one is litter, a manifest without its state a damaged checkpoint.
            _manifest_path(self.folder, step).unlink()
            _state_path(self.folder, step).unlink(missing_ok=True)

    def newest(self) -> tuple[Checkpoint, bytes] | None:
        """The newest checkpoint that is whole, and its state; None where training starts from nothing.

        Raises:
            CheckpointError: it belongs to other data, another recipe or other code than this run.
        """
        for step in reversed(complete(self.folder)):
            try:
                body, state = self._read(step)
            except (ValueError, KeyError, TypeError, FileNotFoundError) as damage:
                log.warning("the checkpoint of step %d is damaged (%s): falling back to the one before", step, damage)
                # It would otherwise crowd out the good one when the next checkpoint is saved.
                _manifest_path(self.folder, step).unlink(missing_ok=True)
                continue
            self._check_fingerprint(step, body["fingerprint"])
            history = tuple(Progress(**line) for line in body["history"])
            return Checkpoint(step=body["step"], machine=body["machine"], history=history), state
        return None

    def _read(self, step: int) -> tuple[dict[str, Any], bytes]:
        manifest = json.loads(_manifest_path(self.folder, step).read_text())
        body = manifest["body"]
        if manifest["body_sha256"] != _digest(body):
            raise ValueError("its manifest does not match its own hash")
        state = _state_path(self.folder, step).read_bytes()
        if hashlib.sha256(state).hexdigest() != body["state_sha256"]:
            raise ValueError(f"its state of {len(state)} bytes does not match the manifest's hash")
        return body, state

    def _check_fingerprint(self, step: int, found: Mapping[str, str]) -> None:
        other = sorted(name for name in {*found, *self.fingerprint} if found.get(name) != self.fingerprint.get(name))
        if other:
            raise CheckpointError(
                f"the checkpoint of step {step} in {self.folder} was made with other {' and '.join(other)}: resuming would mix two models. "
                "Put back what it was started with, or pin a new run"
            )


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a run for this process; the system lets go of it when the process dies, however it dies.

    Holds between processes of one machine (`flock`); a pool of machines must see to it that one of them runs at a time.

    Raises:
        CheckpointError: another process is training this run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise CheckpointError(
                f"{folder} is being written by process {lock.read().strip() or '?'}: end that one, or wait for it"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        for litter in folder.glob(".*.tmp"):
            litter.unlink()
        yield


def writer(folder: Path) -> int | None:
    """The process that holds a run, by the number it has where it runs; None where nobody does."""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        text = (folder / LOCK).read_text().strip()
        return int(text) if text.isdigit() else None
    return None


def _write_hashed(path: Path, pieces: Sequence[Buffer]) -> str:
    """Put a file in place durably; returns its SHA-256, which another core works out while this one writes."""
    digest = hashlib.sha256()

    def add_up() -> None:
        for piece in pieces:
            digest.update(piece)

    with durable.placed(path) as temporary, ThreadPoolExecutor(1) as other, temporary.open("wb", buffering=0) as file:
        added = other.submit(add_up)
        for piece in pieces:
            left = memoryview(piece).cast("B")
            while left:
                left = left[file.write(left) :]
        # Here already, so that the disk is at work while the sum is made.
        os.fsync(file.fileno())
        added.result()
    return digest.hexdigest()


def _state_path(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}.state"


def _manifest_path(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}.json"


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
