"""Small training runs: a few thousand rows with missing values, sampled rows and columns, many short chunks."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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


def rows(count: int, seed: int, first: int = 0, day: date = date(2018, 7, 1), nights: int = 1, customers: int = 97) -> pa.Table:
    """Rows of one day or several as a table says, of 97 customers, ten minutes after each other as their keys say, from `first` on."""
    random = np.random.default_rng(seed)
    features = {name: random.normal(size=count) for name in FEATURES}
    features["is_night"] = (features["is_night"] > 1).astype(float)
    features["terminal_risk_7d"][random.random(count) < 0.1] = np.nan
    odds = 2 * features["tx_amount"] + np.nan_to_num(features["terminal_risk_7d"]) * features["is_night"] - 2
    keys = first + random.permutation(count).astype("int64")
    return pa.table(
        {
            "day": np.datetime64(day) + (keys - first) * nights // count,
            "transaction_id": keys,
            "customer_id": keys % customers,
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
    """Makes a run folder as the pin step would; `train`: its training rows, other keywords replace fields of `run.json`."""

    def make(name: str = "run", *, count: int = 3000, nights: int = 1, train: pa.Table | None = None, **fields: Any) -> Path:
        folder = tmp_path / name
        if train is None:
            # Over several nights, each row is of a customer of its own: the protocol does not count those that were found before.
            train = rows(count, 1) if nights == 1 else rows(count, 1, day=RUN.train_first, nights=nights, customers=count)
        write_parts(folder / "data/train", train, 3)
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


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Nursery]":
    """Real trainers that begin at once: forks of a process that has their libraries loaded."""
    folder = tmp_path_factory.mktemp("nursery")
    (folder / "nursery.py").write_text(_NURSERY)
    with (folder / "log").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, str(folder / "nursery.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", (folder / "log").read_text()
    yield Nursery(process)
    process.stdin.close()
    process.wait()


@dataclass(frozen=True)
class Nursery:
    """Trainers one after the other, each a process of its own."""

    process: subprocess.Popen[str]

    def begin(self, folder: Path) -> int:
        """The number of a process that trains the folder; it stays that process's until `end`."""
        return self._ask(str(folder))

    def end(self) -> int:
        """How it ended: its exit status, or minus the signal that killed it. Waits for that."""
        return self._ask("")

    def _ask(self, line: str) -> int:
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


_NURSERY = """
import os, sys
import optuna, pyarrow.dataset, sklearn.metrics, xgboost
from include.nightshift.train.__main__ import main

os.cpu_count = lambda: 1
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(main(["--run", line.strip(), "--at-risk-seconds", "0"]))
    print(child, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

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
