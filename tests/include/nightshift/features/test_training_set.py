"""The training set: what had matured, at the versions that were pinned, told apart by time, and known again by its manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import ConfigurationError, NotMaturedError
from include.nightshift.features import training_set
from include.nightshift.features.training_set import Manifest, Split
from include.nightshift.lakehouse import log, tables, writes
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.usecase import USE_CASE

FIRST = date(2005, 3, 1)
NIGHTS = [FIRST + timedelta(days=n) for n in range(40)]
AS_OF = NIGHTS[32]
DELAY = timedelta(days=7)
UNTOLD = 5_000_007
"""An event that nobody ever judged."""


def night_rows(n: int, night: date) -> dict[str, list[dict[str, Any]]]:
    """Four events of a night and their features, and the verdicts on the night a week before."""
    at = datetime.combine(night, datetime.min.time(), UTC) + timedelta(hours=9)
    events, features, labels = [], [], []
    for k in range(4):
        key = 5_000_000 + 4 * n + k
        ids = {"day": night, "transaction_id": key, "customer_id": 50 + key % 7, "terminal_id": 5, "tx_datetime": at, "known_at": at}
        events.append(ids | {"tx_amount": Decimal(key % 90)})
        features.append(ids | {name: float(key % (2 + place)) for place, name in enumerate(USE_CASE.feature_names)})
        if (judged := key - 28) >= 5_000_000 and judged != UNTOLD:
            labels.append({"day": night, "transaction_id": judged, "tx_fraud": int(judged % 5 == 0), "reported_at": at, "known_at": at})
    return {"features": features, "events": events, "labels": labels}


@pytest.fixture(scope="module")
def lake(installation: Settings, use_case: UseCase) -> SparkSession:
    session = lakehouse.connect(installation)
    made = [night_rows(n, night) for n, night in enumerate(NIGHTS)]
    for table, what in zip(training_set.tables_read(use_case), ("features", "events", "labels"), strict=True):
        rows = [row for night in made for row in night[what]]
        writes.replace(session, installation, table, writes.in_memory(session, table.arrow(rows)), {"day": NIGHTS}, rows_expected=len(rows))
    return session


def set_of(session: SparkSession, settings: Settings, use_case: UseCase, folder: Path, versions: dict[str, int] | None = None) -> Manifest:
    held = versions or {str(table): log.version(settings, table) for table in training_set.tables_read(use_case)}
    return training_set.write(session, settings, use_case, training_set.split(use_case, FIRST, AS_OF), held, folder)


def keys_of(folder: Path, part: str) -> set[int]:
    return set(ds.dataset(folder / part, format="parquet").to_table(columns=["transaction_id"]).column(0).to_pylist())


def test_nights_are_told_apart_by_the_gap_that_verdicts_need() -> None:
    split = training_set.split(USE_CASE, FIRST, AS_OF)
    assert split.holdout_last == AS_OF - DELAY
    assert split.holdout_first == split.holdout_last - timedelta(days=6)
    assert split.train_last == split.holdout_first - timedelta(days=8), (
        "the verdicts of the last training night came before the first test night"
    )
    assert split.train_first == FIRST
    with pytest.raises(NotMaturedError, match=r"the history begins with 2005-03-01. Wait until night 2005-03-22"):
        training_set.split(USE_CASE, FIRST, FIRST + timedelta(days=20))


@pytest.mark.lakehouse
def test_a_set_holds_what_had_matured_and_says_what_it_is(
    lake: SparkSession, installation: Settings, use_case: UseCase, tmp_path: Path
) -> None:
    manifest = set_of(lake, installation, use_case, tmp_path)
    split = manifest.split
    trained = {5_000_000 + 4 * n + k for n, night in enumerate(NIGHTS) for k in range(4) if night <= split.train_last} - {UNTOLD}
    held = {5_000_000 + 4 * n + k for n, night in enumerate(NIGHTS) for k in range(4) if split.holdout_first <= night <= split.holdout_last}
    assert keys_of(tmp_path, "train") == trained
    assert keys_of(tmp_path, "holdout") == held
    assert manifest.rows["train"] == len(trained)
    assert manifest.rows["holdout"] == len(held)
    between = {5_000_000 + 4 * n + k for n, night in enumerate(NIGHTS) for k in range(4) if split.train_last < night < split.holdout_first}
    assert keys_of(tmp_path, "context") == between | {UNTOLD}, "what a model may look at: what nobody judged, and the nights between"
    assert "tx_fraud" not in ds.dataset(tmp_path / "context", format="parquet").schema.names
    assert manifest.rows["context"] == len(between) + 1
    assert manifest.rows["frauds"] == sum(
        1 for n, night in enumerate(NIGHTS) for k in range(4)
        if (5_000_000 + 4 * n + k) % 5 == 0 and split.holdout_first - 2 * DELAY <= night <= split.holdout_last
    )  # fmt: skip
    assert Manifest.load(tmp_path) == manifest
    assert manifest.verdicts == f"day <= date'{AS_OF}'"
    assert manifest.subjects == 7
    assert training_set.concerns(installation, tmp_path, "customer_id", "53") is True
    assert training_set.concerns(installation, tmp_path, "customer_id", "99") is False
    assert "53" not in (tmp_path / "subjects.txt").read_text().split()


@pytest.mark.lakehouse
def test_the_same_versions_give_the_same_set_whatever_came_since(
    lake: SparkSession, installation: Settings, use_case: UseCase, tmp_path: Path
) -> None:
    before = set_of(lake, installation, use_case, tmp_path / "a")
    table = tables.features(use_case)
    lake.sql(f"update {table} set tx_amount = tx_amount + 1 where day = date'{NIGHTS[3]}' and transaction_id % 4 = 0")
    try:
        again = set_of(lake, installation, use_case, tmp_path / "b", before.versions)
        assert again == before
        newer = set_of(lake, installation, use_case, tmp_path / "c")
        assert newer.digest != before.digest
        assert replace(newer, digest=before.digest, versions=before.versions) == before
    finally:
        lake.sql(f"update {table} set tx_amount = tx_amount - 1 where day = date'{NIGHTS[3]}' and transaction_id % 4 = 0")


def test_without_a_manifest_or_its_key_nobody_is_said_to_be_in_or_out(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    assert training_set.concerns(settings, tmp_path, "customer_id", "1") is None
    night = FIRST
    manifest = Manifest(
        use_case="card_fraud", split=Split(night, night, night, night, night), features=("a",), versions={"t": 1}, verdicts="day <= 1",
        filters={"train": "day = 1"}, rows={"train": 1}, digest="d", subjects=1, subjects_digest="s", subjects_key="another",
    )  # fmt: skip
    manifest.save(tmp_path)
    (tmp_path / "subjects.txt").write_text("abc\n")
    assert Manifest.load(tmp_path) == manifest
    assert json.loads((tmp_path / "manifest.json").read_text())["split"]["as_of"] == "2005-03-01"
    with pytest.raises(ConfigurationError, match="restore it from your backup of the keys"):
        training_set.concerns(settings, tmp_path, "customer_id", "1")
