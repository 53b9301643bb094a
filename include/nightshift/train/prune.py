"""Prune: checkpoints serve a run until it ends; model, `run.json`, rows and ledger stay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift.train.checkpoint import LOCK, sole_writer
from include.nightshift.train.run import CHECKPOINTS, RUN, finished

if TYPE_CHECKING:
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


@dataclass(frozen=True)
class Pruned:
    """What went."""

    runs: tuple[str, ...]
    """Finished runs whose checkpoints were cleared now."""
    files: int
    bytes: int


def prune(settings: Settings, use_case: UseCase) -> Pruned:
    """Clear the checkpoints of the use case's finished runs. A run without a whole result keeps everything: it may be resumed.

    Raises:
        CheckpointError: a process holds a finished run.
    """
    runs, sizes = [], []
    for folder in sorted((settings.home / "runs").glob("*")):
        if _is_finished(folder, use_case) and (cleared := _clear(folder / CHECKPOINTS)):
            runs.append(folder.name)
            sizes += cleared
    return Pruned(tuple(runs), len(sizes), sum(sizes))


def _is_finished(folder: Path, use_case: UseCase) -> bool:
    # Not TrainingRun.load: a run of an older version of the code is finished all the same.
    return (folder / RUN).exists() and json.loads((folder / RUN).read_text())["use_case"] == use_case.name and finished(folder) is not None


def _clear(folder: Path) -> list[int]:
    """Remove all but the lock; the sizes of what went."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} <= {LOCK}:
        return []
    with sole_writer(folder):
        gone = [path for path in folder.iterdir() if path.name != LOCK]
        sizes = [path.stat().st_size for path in gone]
        # Manifests first, as the trainer does: a state without one is litter, a manifest without its state a damaged checkpoint.
        for path in sorted(gone, key=lambda path: path.suffix != ".json"):
            path.unlink()
    return sizes
