"""Small training runs: a few thousand rows with missing values, sampled rows and columns, many short chunks."""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.nightshift.train.recipes import Trees
from include.nightshift.train.run import TrainingRun

FEATURES = ("tx_amount", "is_night", "terminal_risk_7d", "customer_mean_7d")
RECIPE = Trees(name="trees", rounds=24, rounds_per_chunk=4, max_depth=4, max_bin=256, subsample=0.7, colsample_bytree=0.6)
RUN = TrainingRun(
    run_id="card_fraud-2018-08-14-trees",
    use_case="card_fraud",
    recipe=RECIPE,
    features=FEATURES,
    key="transaction_id",
    entity="customer_id",
    event_time="tx_datetime",
    target="tx_fraud",
    as_of=date(2018, 8, 14),
    train_first=date(2018, 6, 1),
    train_last=date(2018, 7, 24),
    holdout_first=date(2018, 8, 1),
    holdout_last=date(2018, 8, 7),
    versions={"gold.card_fraud_features": 12, "silver.fraud_labels": 9},
    data_digest="d1",
    git_commit="0123abc",
    mlflow_url="http://127.0.0.1:9",
    experiment="card_fraud",
)


def rows(count: int, seed: int, first: int = 0, day: date = date(2018, 7, 1)) -> pa.Table:
    """Rows of one day as a table says, of 97 customers, ten minutes after each other as their keys say, which begin with `first`."""
    random = np.random.default_rng(seed)
    features = {name: random.normal(size=count) for name in FEATURES}
    features["is_night"] = (features["is_night"] > 1).astype(float)
    features["terminal_risk_7d"][random.random(count) < 0.1] = np.nan
    odds = 2 * features["tx_amount"] + np.nan_to_num(features["terminal_risk_7d"]) * features["is_night"] - 2
    keys = first + random.permutation(count).astype("int64")
    return pa.table(
        {
            "day": pa.array([day] * count),
            "transaction_id": keys,
            "customer_id": keys % 97,
            "tx_datetime": pa.array(keys * 600_000_000, pa.timestamp("us", "UTC")),
            **features,
            "tx_fraud": (random.random(count) < 1 / (1 + np.exp(-odds))).astype("int32"),
        }
    )


def write_parts(folder: Path, table: pa.Table, parts: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    edges = np.linspace(0, len(table), parts + 1).astype(int)
    for part, (first, end) in enumerate(pairwise(edges)):
        pq.write_table(table.slice(first, end - first), folder / f"part-{part:05d}.parquet")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder as the pin step would; keywords replace fields of `run.json`."""

    def make(name: str = "run", *, count: int = 3000, **fields: Any) -> Path:
        folder = tmp_path / name
        write_parts(folder / "data/train", rows(count, 1), 3)
        write_parts(folder / "data/context", rows(300, 3, first=count, day=date(2018, 7, 28)).drop(["tx_fraud"]), 1)
        write_parts(folder / "data/holdout", rows(800, 2, first=count + 300, day=date(2018, 8, 2)), 2)
        replace(RUN, **fields).save(folder)
        return folder

    return make


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the command that trains a folder with the real trainer, without MLflow, after the given lines of sabotage."""

    def make(folder: Path, sabotage: str = "") -> list[str]:
        path = tmp_path / f"program-{folder.name}.py"
        path.write_text(_PROGRAM.format(sabotage=sabotage))
        return [sys.executable, str(path), "--run", str(folder), "--at-risk-seconds", "0"]

    return make


_PROGRAM = """
import os, sys, time
from include.nightshift.train import interruption, trees
from include.nightshift.train.__main__ import main

os.cpu_count = lambda: 1
boost = trees.boost

def unhurried(*arguments):
    time.sleep(0.05)  # a pool that looks every 10 ms is then not outrun by chunks of a few milliseconds
    return boost(*arguments)

trees.boost = unhurried
{sabotage}
interruption.leave_on_sigterm()
sys.exit(main())
"""
