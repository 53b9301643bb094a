"""Baseline: a linear model on the same rows as the champion, made in seconds, that lists a night for which no champion can be trusted.

It is fitted when a candidate is judged, by the learner that ships, and kept as data beside the candidate's model: on the day it is needed
nothing has to be trained, fetched or believed. The gate's report holds its SHA-256.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import records, tables
from include.nightshift.monitor import drift
from include.nightshift.promote import registry
from include.nightshift.train import learner, models
from include.nightshift.train import run as folders
from include.nightshift.train.checkpoint import write_durably
from include.nightshift.train.recipes import Linear

if TYPE_CHECKING:
    from include.nightshift.settings import Settings
    from include.nightshift.train.run import TrainingRun
    from include.nightshift.usecase import UseCase

log = logging.getLogger(__name__)

BASELINE = "baseline"
"""The folder, in that of a run and in that of a model's local copy."""
REFERENCE = "reference.json"
ONE_THREAD = {"threads": 1}
"""Its bytes depend on how sums are parted: with one thread the same rows give the same file on every machine."""


def fit(folder: Path, run: TrainingRun, use_case: UseCase) -> Path:
    """Fit the linear recipe on a run's training rows, into `<run folder>/baseline`; one that is there is kept.

    The use case's own linear recipe, or the default one where it has none.

    Raises:
        TrainingFailedError: the rows cannot be learnt from.
    """
    place = folder / BASELINE
    if place.exists():
        return place
    recipe = next((recipe for recipe in use_case.recipes if isinstance(recipe, Linear)), Linear(name=BASELINE))
    own = replace(run, recipe=recipe)
    learning = learner.begin(own, folders.read_rows(folder / folders.TRAIN_ROWS, own), ONE_THREAD)
    while learning.step < learning.steps:
        loss = learning.advance(lambda left: None)
    log.info("baseline of run %s: log-loss %.6f after %d steps", run.run_id, loss, learning.steps)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{BASELINE}-") as temporary:
        made = Path(temporary) / BASELINE
        made.mkdir()
        write_durably(made / models.FEATURES, json.dumps(own.told(), indent=1).encode())
        write_durably(models.file(made), learning.model())
        seen = folders.judged(folder, own, None)
        score = models.load(made).score(seen.rows, seen.asked)
        write_durably(made / REFERENCE, json.dumps(drift.reference({"score": score})).encode())
        made.rename(place)
    return place


def copy(settings: Settings, use_case: UseCase, version: str) -> Path:
    """The baseline that was judged beside a version, in the version's local copy: brought there from its run once, then kept.

    Raises:
        RegistryError: its run has none, or another one than the report says; or the version cannot be had.
    """
    reports = records.read(settings, tables.GATE_REPORTS, use_case=use_case.name, model_version=version)
    if not reports:
        raise RegistryError(f"{tables.GATE_REPORTS} holds no report of {use_case.name} version {version}, which would name its baseline")
    report = max(reports, key=lambda report: report["judged_at"])
    place = registry.local_copy(settings, use_case, version) / BASELINE
    if not place.exists():
        _bring(settings.home / "runs" / report["run_id"] / BASELINE, place)
    if (seen := models.sha256(place)) != report["baseline_sha256"]:
        raise RegistryError(
            f"{place} has the hash {seen}, its report says {report['baseline_sha256']}: remove the folder, so that it is brought from its "
            "run again; if it stays, somebody changed it there too"
        )
    return place


def _bring(source: Path, place: Path) -> None:
    if not source.exists():
        raise RegistryError(f"{source} is missing, so this version has no baseline to fall back to: train anew")
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{BASELINE}-") as temporary:
        made = Path(temporary) / BASELINE
        shutil.copytree(source, made)
        try:
            made.rename(place)
        except OSError:
            # Another process was quicker; whoever reads it hashes it.
            if not place.exists():
                raise
