"""Scores and the morning's list on the real lakehouse, with a small model that lies where a fetched one would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from bench.courts import Court
from include.nightshift import notify
from include.nightshift.lakehouse import log, tables, writes
from include.nightshift.lakehouse.session import literal, rows
from include.nightshift.promote import registry
from include.nightshift.promote.trust import Reigning
from include.nightshift.score import alerts, publications, scores
from include.nightshift.score.publications import Decision
from include.nightshift.settings import Settings
from include.nightshift.train import models, sequence, trees
from include.nightshift.train.recipes import Attention
from include.nightshift.train.rows import Rows
from include.nightshift.usecase import UseCase

NIGHT = date(2012, 6, 1)
NEXT = NIGHT + timedelta(days=1)
EARLIER = NIGHT - timedelta(days=40)
ROWS = 60


def model(settings: Settings, use_case: UseCase, version: str, seed: int) -> Path:
    """A booster of a few trees over random rows, where the registry keeps its local copies."""
    import xgboost as xgb

    dice = np.random.default_rng(seed)
    matrix = dice.random((300, len(use_case.feature_names)))
    target = (matrix[:, seed] + 0.3 * dice.random(300) > 0.8).astype(float)
    data = xgb.DMatrix(matrix, target, feature_names=use_case.feature_names)
    booster = xgb.train({"objective": "binary:logistic", "max_depth": 3, "seed": seed, "nthread": 1}, data, 8)
    folder = settings.home / "models" / use_case.name / version
    folder.mkdir(parents=True)
    booster.save_model(folder / "model.ubj")
    (folder / "features.json").write_text(json.dumps({"features": use_case.feature_names}))
    return folder / "model.ubj"


def features(use_case: UseCase, night: date) -> list[dict[str, Any]]:
    """The rows of a night: thirty cards with two transactions each, every other pair the same but for its id."""
    dice = np.random.default_rng(night.toordinal())
    values = dice.random((ROWS, len(use_case.feature_names)))
    values[1::2] = values[0::2]
    first = (night - EARLIER).days * 1000 + 1
    at = datetime.combine(night, datetime.min.time(), UTC)
    return [
        {"day": night, "transaction_id": first + n, "customer_id": 500 + n % 30, "terminal_id": 1, "tx_datetime": at, "known_at": at}
        | dict(zip(use_case.feature_names, map(float, values[n]), strict=True))
        for n in range(ROWS)
    ]


@pytest.fixture
def lake(session: SparkSession, installation: Settings, use_case: UseCase, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Features of three nights, and two models: 71 reigns over the second night, 72 from the third on, nobody over the first. Equal
    content, so that only the first test writes."""
    court = Court(installation.home)
    monkeypatch.setattr(registry, "client", lambda settings: court.alias)
    models = {}
    for seed, (version, night) in enumerate((("71", NIGHT), ("72", NEXT))):
        path = installation.home / "models" / use_case.name / version / "model.ubj"
        models[version] = path if path.exists() else model(installation, use_case, version, seed + 3)
        court.enthroned(version, night)
    made = [row for night in (NIGHT, NEXT, EARLIER) for row in features(use_case, night)]
    table = tables.features(use_case)
    frame = writes.in_memory(session, table.arrow(made))
    writes.replace(session, installation, table, frame, {"day": [NIGHT, NEXT, EARLIER]}, rows_expected=len(made))
    yield models
    court.dissolved()


def held(session: SparkSession, table: tables.Table, night: date, order: str) -> list[dict[str, Any]]:
    return rows(session, f"select * from {table} where day = :night order by {order}", night=night)


@pytest.mark.lakehouse
def test_scores_are_the_models_own_with_reasons_and_each_nights_own_champion(
    session: SparkSession, installation: Settings, use_case: UseCase, lake: dict[str, Path]
) -> None:
    done = scores.score(session, installation, use_case, [NIGHT, NEXT, EARLIER])
    assert done.models == {NIGHT: "71", NEXT: "72"}
    assert done.rows == {NIGHT: ROWS, NEXT: ROWS}
    assert held(session, tables.scores(use_case), EARLIER, "day") == []
    for night, version in done.models.items():
        read = features(use_case, night)
        matrix = np.array([[row[name] for name in use_case.feature_names] for row in read])
        booster = trees.load_booster(lake[version])
        reasons = trees.top_reasons(booster, matrix, use_case.feature_names)
        written = held(session, tables.scores(use_case), night, "transaction_id")
        assert [row["score"] for row in written] == trees.predict(booster, matrix, use_case.feature_names).tolist()
        assert [[row[name] for name in scores.REASONS] for row in written] == [[name or None for name in row] for row in reasons]
        assert {(row["model_version"], row["role"]) for row in written} == {(version, "champion")}
        assert any(row["reason_1"] for row in written)

    again = scores.score(session, installation, use_case, [NIGHT, NEXT])
    assert again.version == done.version


def sequence_model(settings: Settings, use_case: UseCase, version: str) -> models.Model:
    """A sequence model of a few steps over random rows, where the registry keeps its local copies."""
    dice = np.random.default_rng(9)
    count = 600
    matrix = dice.random((count, len(use_case.feature_names))).astype("float32")
    target = (matrix[:, 0] > 0.8).astype("float32")
    made = Rows(matrix, target, np.arange(count) % 20, np.arange(count) * 7200.0)
    recipe = Attention(name="sequence", width=16, heads=2, bins=8, batch=8, epochs=4, learning_rate=1e-2)
    learning = sequence.Training(made, use_case.feature_names, recipe, sequence.machine())
    while learning.step < learning.steps:
        learning.advance(lambda left: None)
    folder = settings.home / "models" / use_case.name / version
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"key": use_case.events.key, "entity": use_case.entity, "event_time": use_case.events.event_time}
    (folder / "features.json").write_text(json.dumps({"kind": "sequence", "features": use_case.feature_names} | columns))
    (folder / "model.safetensors").write_bytes(learning.model())
    return models.load(folder)


@pytest.mark.lakehouse
def test_a_champion_whose_bytes_changed_does_not_score_and_who_stands_in_is_marked_and_told_until_they_are_back(
    session: SparkSession, installation: Settings, use_case: UseCase, lake: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(notify, "warn", lambda settings, title, lines, **named: told.extend((title, line) for line in lines))
    scores.score(session, installation, use_case, [NIGHT, NEXT])
    told.clear()
    for copy in installation.home.glob(f"champions/{use_case.name}/*"):
        if (copy / "model.ubj").read_bytes() == lake["72"].read_bytes():
            shutil.rmtree(copy)
    sound = lake["72"].read_bytes()
    lake["72"].write_bytes(b"forged")
    try:
        done = scores.score(session, installation, use_case, [NIGHT, NEXT])
    finally:
        lake["72"].write_bytes(sound)
    assert [(model.version, model.mark) for model in done.reigning.values()] == [("71", None), ("71", "fallback")]
    assert {row["model_version"] for row in held(session, tables.scores(use_case), NEXT, "day")} == {"71"}
    assert {title for title, _ in told} == {f"card_fraud: night {NEXT} marked fallback"}
    assert "the model server does not answer" in told[0][1]
    again = scores.score(session, installation, use_case, [NEXT])
    assert [(model.version, model.mark) for model in again.reigning.values()] == [("72", None)]


@pytest.mark.lakehouse
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_model_that_looks_back_scores_a_night_with_the_nights_before_it_wherever_the_rows_lie(
    session: SparkSession,
    installation: Settings,
    use_case: UseCase,
    lake: dict[str, Path],
    partitions: int,
) -> None:
    model = sequence_model(installation, use_case, "73")
    folder = installation.home / "models" / use_case.name / "73"
    reigning = Reigning("73", folder, None, (), models.sha256(folder))
    before = session.conf.get("spark.sql.shuffle.partitions")
    session.conf.set("spark.sql.shuffle.partitions", str(partitions))
    try:
        scored = scores.scored_by(session, use_case, reigning, [NEXT], log.version(installation, tables.features(use_case)))
        written = scored.orderBy("transaction_id").toArrow().to_pylist()
    finally:
        session.conf.set("spark.sql.shuffle.partitions", before)
    # Two nights in one go, of which the second is asked for; the third is more than a month before.
    table = tables.features(use_case).arrow([row for night in (NIGHT, NEXT) for row in features(use_case, night)])
    asked = np.array([day == NEXT for day in table.column("day").to_pylist()])
    wanted = model.score(table, asked)
    assert [row["transaction_id"] for row in written] == [row["transaction_id"] for row in features(use_case, NEXT)]
    np.testing.assert_allclose([row["score"] for row in written], wanted, atol=model.rounding)
    alone = model.score(table.filter(asked))
    assert abs(alone - wanted).max() > 100 * model.rounding, "the night before makes no difference, so this proves nothing"
    assert [[row[name] for name in scores.REASONS] for row in written] == model.reasons(table, 3, asked).tolist()


@pytest.mark.lakehouse
def test_the_list_leaves_out_compromised_cards_and_breaks_ties_by_the_smaller_id(
    session: SparkSession, installation: Settings, use_case: UseCase, lake: dict[str, Path]
) -> None:
    scores.score(session, installation, use_case, [NIGHT, NEXT])
    # Card 500: fraud reported seven nights before the first night, which has forgotten it; 501: six nights before, forgotten by the
    # second; 502: genuine; 503: reported on the second night, which the first cannot know.
    verdicts = [(500, NIGHT - timedelta(days=7), 1), (501, NIGHT - timedelta(days=6), 1), (502, NIGHT, 0), (503, NEXT, 1)]
    events = ", ".join(
        f"({literal(told - timedelta(days=7))}, {card}, timestamp'2012-05-20', {card}, 1, 1.00, timestamp'2012-05-21')"
        for card, told, _ in verdicts
    )
    labels = ", ".join(
        f"({literal(told)}, {card}, {fraud}, timestamp'2012-06-01', timestamp'2012-06-02')" for card, told, fraud in verdicts
    )
    for feed, values in ((use_case.events, events), (use_case.labels, labels)):
        table = tables.silver(feed)
        frame = session.sql(f"select * from values {values} as t({', '.join(column.name for column in table.columns)})")
        nights = [told if feed is use_case.labels else told - timedelta(days=7) for _, told, _ in verdicts]
        writes.replace(session, installation, table, frame, {"day": nights}, rows_expected=4)

    decisions = [Decision(night=night, state="published", model_version=version) for night, version in ((NIGHT, "71"), (NEXT, "72"))]
    out = publications.publish(session, installation, use_case, decisions)
    assert [(published.night, published.rows, published.revision) for published in out.values()] == [(NIGHT, 29, 1), (NEXT, 29, 1)]
    for night, absent in ((NIGHT, {501}), (NEXT, {503})):
        listed = held(session, tables.alerts(use_case), night, "rank")
        scored = held(session, tables.scores(use_case), night, "transaction_id")
        assert not absent & {row["customer_id"] for row in listed}
        best: dict[int, dict[str, Any]] = {}
        for row in sorted(scored, key=lambda row: (-row["score"], row["transaction_id"])):
            if row["customer_id"] not in absent:
                best.setdefault(row["customer_id"], row)
        wanted = sorted(best.values(), key=lambda row: (-row["score"], row["customer_id"]))
        assert [(r["rank"], r["customer_id"], r["transaction_id"], r["score"]) for r in listed] == [
            (rank, r["customer_id"], r["transaction_id"], r["score"]) for rank, r in enumerate(wanted, 1)
        ]
        assert len({row["score"] for row in wanted}) < len(wanted), "the night has no tie to break"
    assert publications.publish(session, installation, use_case, decisions) == out


@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
def test_no_entitys_rows_are_cut_wherever_batches_end(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "ROWS_AT_ONCE", at_once)
    whose = pa.table({"who": [1, 1, 2, 3, 3, 3, 3, 3, 4, 5]})
    tables_ = list(scores.whole(iter(whose.to_batches(max_chunksize=3)), "who"))
    assert pa.concat_tables(tables_).equals(whose)
    people = [set(table.column("who").to_pylist()) for table in tables_]
    assert sum(map(len, people)) == len(set.union(*people)) == 5
    assert list(scores.whole(iter(whose.slice(0, 0).to_batches()), "who")) == []


def test_the_list_is_as_long_as_the_use_case_says(use_case: UseCase) -> None:
    assert f"rank <= {use_case.list_size}" in alerts.ranking(use_case, [NIGHT])
