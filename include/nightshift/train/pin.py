"""Pin: fix what a training run reads, and lay it in the run's folder. The last step that needs the lakehouse.

`<home>/runs/<run id>/`: `run.json` comes last, so that a folder with it is whole. The table versions that were read are pinned
(`ops.table_pins`) before the first row is: whoever asks later what the model saw can still look.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift import code
from include.nightshift.features import training_set
from include.nightshift.lakehouse import barrier, pins
from include.nightshift.promote.question import FIRST, Question
from include.nightshift.train import validation
from include.nightshift.train.run import RUN, TrainingRun

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.train.recipes import Recipe
    from include.nightshift.usecase import UseCase

PINNED_DAYS = 365
"""How long the versions that a run read are kept from the day of its start; a model rarely reigns longer."""


def pin(session: SparkSession, settings: Settings, use_case: UseCase, recipe: Recipe, as_of: date, question: Question = FIRST) -> Path:
    """The folder of the run that trains the recipe as of a night; the same inputs give the same folder, made once.

    `question`: what the gate will ask of the model; it decides how many nights are held out.

    Raises:
        NotMaturedError: features or verdicts of the nights are not there yet, or too few of them.
        LakehouseError: `maintain` took one of the versions before it was pinned; asking again reads newer ones.
    """
    with barrier.passing(settings):
        return _pin(session, settings, use_case, recipe, as_of, question)


def _pin(session: SparkSession, settings: Settings, use_case: UseCase, recipe: Recipe, as_of: date, question: Question) -> Path:
    split, versions = training_set.pin(settings, use_case, as_of, question, recipe.train_nights)
    run_id = training_set.run_id(use_case, recipe, split, versions, question)
    folder = settings.home / "runs" / run_id
    if (folder / RUN).exists():
        return folder
    if recipe.search is not None:
        # Said now, not on a machine that was rented for it.
        validation.split(split.train_first, split.train_last, use_case.label_delay_days, recipe.search.validation_nights)
    until = datetime.now(UTC).date() + timedelta(days=PINNED_DAYS)
    for table in training_set.tables_read(use_case):
        pins.pin(settings, table, versions[str(table)], run_id, until)
    manifest = training_set.write(session, settings, use_case, split, versions, folder / "data")
    TrainingRun(
        run_id=run_id,
        use_case=use_case.name,
        recipe=recipe,
        features=recipe.features or tuple(use_case.feature_names),
        key=use_case.events.key,
        entity=use_case.entity,
        event_time=use_case.events.event_time,
        target=use_case.target,
        as_of=split.as_of,
        train_first=split.train_first,
        train_last=split.train_last,
        holdout_first=split.holdout_first,
        holdout_last=split.holdout_last,
        versions=versions,
        data_digest=manifest.digest,
        git_commit=code.commit(),
        mlflow_url=settings.mlflow_url,
        experiment=use_case.name,
        git_dirty=code.dirty(),
        question=question,
    ).save(folder)
    return folder
