"""Parity on the real lakehouse: what was scored is what silver gives, and each way in which it can stop being so is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from bench.courts import Court
from include.nightshift import nights as nights_module
from include.nightshift.features import build, parity
from include.nightshift.lakehouse import log, tables, writes
from include.nightshift.lakehouse.session import rows
from include.nightshift.promote import registry
from include.nightshift.score import scores
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

FIRST = date(2007, 5, 1)
NIGHTS = [FIRST + timedelta(days=n) for n in range(10)]
SCORED = NIGHTS[-2:]
VERSION = "91"


def silver(use_case: UseCase) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ten nights of five cards and four terminals; a third of the verdicts says fraud."""
    dice = np.random.default_rng(5)
    events, verdicts = [], []
    for n in range(240):
        night = NIGHTS[n // 24]
        at = datetime.combine(night, datetime.min.time(), UTC) + timedelta(minutes=int(dice.integers(0, 1440)))
        key = 9_100_000 + n
        amount = round(float(dice.lognormal(3, 1)), 2)
        known = nights_module.known_at(night)
        ids = {"transaction_id": key, "customer_id": 90 + n % 5, "terminal_id": 80 + int(dice.integers(0, 4))}
        events.append({"day": night, "tx_datetime": at, "tx_amount": amount, "known_at": known} | ids)
        if night + timedelta(days=7) in NIGHTS:
            told = night + timedelta(days=7)
            verdict = {"day": told, "transaction_id": key, "tx_fraud": int(n % 3 == 0), "reported_at": at + timedelta(days=7)}
            verdicts.append(verdict | {"known_at": nights_module.known_at(told)})
    return events, verdicts


@pytest.fixture(scope="module")
def lake(installation: Settings, use_case: UseCase) -> Iterator[SparkSession]:
    """Silver and features of ten nights, two of them scored by a small model."""
    from decimal import Decimal

    import xgboost as xgb

    from include.nightshift.lakehouse import session as lakehouse

    session = lakehouse.connect(installation)
    for feed, made in zip(use_case.feeds, silver(use_case), strict=True):
        table = tables.silver(feed)
        exact = [row | ({"tx_amount": Decimal(str(row["tx_amount"]))} if "tx_amount" in row else {}) for row in made]
        frame = writes.in_memory(session, table.arrow(exact))
        writes.replace(session, installation, table, frame, {"day": NIGHTS}, rows_expected=len(made))
    build.build(session, installation, use_case, NIGHTS)

    dice = np.random.default_rng(1)
    matrix = dice.random((300, len(use_case.feature_names))) * 10
    data = xgb.DMatrix(matrix, (matrix[:, 0] + matrix[:, 3] > 10).astype(float), feature_names=use_case.feature_names)
    folder = installation.home / "models" / use_case.name / VERSION
    folder.mkdir(parents=True)
    xgb.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 8).save_model(folder / "model.ubj")
    (folder / "features.json").write_text(json.dumps({"features": use_case.feature_names}))
    court = Court(installation.home)
    court.enthroned(VERSION, SCORED[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "client", lambda settings: court.alias)
        scores.score(session, installation, use_case, SCORED)
    yield session
    court.dissolved()


def tampered(session: SparkSession, settings: Settings, use_case: UseCase, table: tables.Table, change: str) -> list[parity.Parity]:
    """The verdicts with one change made to a table of the scored nights, which is undone afterwards."""
    before = log.version(settings, table)
    session.sql(f"update {table} {change}")
    try:
        return parity.check(session, settings, use_case, SCORED)
    finally:
        log.opened(settings, table).restore(before)


@pytest.mark.lakehouse
def test_what_was_scored_is_what_silver_gives(lake: SparkSession, installation: Settings, use_case: UseCase) -> None:
    verdicts = parity.check(lake, installation, use_case, NIGHTS)
    assert [(v.night, v.rows, v.different) for v in verdicts] == [(night, 24, 0) for night in SCORED]
    assert all(verdict.passed for verdict in verdicts)
    told = rows(
        lake, "select day, rows, differences, sample from ops.parity where day between :a and :b order by day", a=FIRST, b=NIGHTS[-1]
    )
    assert told == [{"day": night, "rows": 24, "differences": 0, "sample": "[]"} for night in SCORED]


@pytest.mark.lakehouse
def test_one_changed_figure_is_named_with_its_column_and_the_score_that_was_right(
    lake: SparkSession, installation: Settings, use_case: UseCase
) -> None:
    change = f"set customer_mean_7d = customer_mean_7d + 0.5 where day = date'{SCORED[0]}' and transaction_id % 24 = 0"
    first, second = tampered(lake, installation, use_case, tables.features(use_case), change)
    assert not first.passed
    assert second.passed
    assert [(column.column, column.rows, column.largest) for column in first.columns] == [("customer_mean_7d", 1, pytest.approx(0.5))]
    assert "customer_mean_7d differs in 1 of 24 rows, by 0.5 at most" in first.reasons


@pytest.mark.lakehouse
def test_a_score_that_nobody_gave_is_a_difference(lake: SparkSession, installation: Settings, use_case: UseCase) -> None:
    change = f"set score = 0.5 where day = date'{SCORED[1]}'"
    first, second = tampered(lake, installation, use_case, tables.scores(use_case), change)
    assert first.passed
    assert [column.column for column in second.columns] == ["score"]
    assert second.different == second.rows == 24
