"""Runs to train on drawn rows, in folders as the pin step lays them: for benches of training, which need neither nights nor a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from include.nightshift.train import run as folders
from include.nightshift.train.recipes import Recipe, Trees
from include.nightshift.train.run import TrainingRun

RUN = TrainingRun(
    run_id="bench",
    use_case="card_fraud",
    recipe=Trees(name="trees"),
    features=("amount", "risk", "count", "night"),
    key="transaction_id",
    entity="customer_id",
    event_time="tx_datetime",
    target="tx_fraud",
    as_of=date(2018, 8, 14),
    train_first=date(2018, 6, 1),
    train_last=date(2018, 7, 24),
    holdout_first=date(2018, 8, 1),
    holdout_last=date(2018, 8, 7),
    versions={},
    data_digest="",
    git_commit="",
    mlflow_url="",
    experiment="bench",
)


def make(folder: Path, recipe: Recipe, rows: int, people: int, features: Sequence[str] = RUN.features) -> None:
    """A run's folder with so many rows in all, evenly over its nights: learnt from, only looked at, and held out.

    Fraud follows on what a person's row before held, and on the row's own first three features; the others are noise. The rows depend
    on nothing but their number, the people and the number of features.
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    dice = np.random.default_rng(1)
    matrix = dice.normal(size=(rows, len(features)))
    matrix[dice.random(matrix.shape) < 0.1] = np.nan
    known = np.nan_to_num(matrix)
    odds = 2 * known[:, 0] + known[:, 1] * known[:, 2] + np.roll(known[:, 0], people) - 2
    keys = np.arange(rows)
    first, last = np.datetime64(RUN.train_first, "us"), np.datetime64(RUN.holdout_last, "us") + np.timedelta64(1, "D")
    when = first + (last - first) // rows * keys
    day = when.astype("datetime64[D]")
    table = pa.table(
        {
            "day": day,
            RUN.key: keys,
            RUN.entity: keys % people,
            RUN.event_time: pa.array(when, pa.timestamp("us", "UTC")),
            **dict(zip(features, matrix.T, strict=True)),
            RUN.target: (dice.random(rows) < 1 / (1 + np.exp(-odds))).astype("int32"),
        }
    )
    learnt, held = day <= np.datetime64(RUN.train_last), day >= np.datetime64(RUN.holdout_first)
    context = table.filter(~learnt & ~held).drop([RUN.target])
    for place, part in (
        (folders.TRAIN_ROWS, table.filter(learnt)),
        (folders.CONTEXT_ROWS, context),
        (folders.HOLDOUT_ROWS, table.filter(held)),
    ):
        (folder / place).mkdir(parents=True)
        parquet.write_table(part, folder / place / "part-00000.parquet")
    replace(RUN, recipe=recipe, features=tuple(features)).save(folder)
