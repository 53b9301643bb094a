"""Scores: the champion whose nights contain the night scores its features where they lie, with three reasons
for every row that comes near the list."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift.lakehouse import barrier, log, stale, tables, writes
from include.nightshift.lakehouse.session import where
from include.nightshift.promote import registry

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

REASONS = ("reason_1", "reason_2", "reason_3")
EXPLAINED_PER_PLACE = 10
"""Rows explained for each place on the list: exact reasons cost 0.7 ms a row, four hundred times a score."""


@dataclass(frozen=True)
class Scored:
    """The scores of some nights: rows by night, the model that gave them by night, and the table's version."""

    rows: dict[date, int]
    models: dict[date, str]
    version: int
    seconds: float


def score(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> Scored:
    """Replace the nights' champion scores. Nights over which nobody reigns are left out (see `Scored.models`).

    Raises:
        ContractError: the scores lack rows that the features have; nothing is published then.
        RegistryError: the champion's model cannot be had, or is not what was promoted.
        WriteConflictError: other writers won every attempt.
    """
    started = time.monotonic()
    table, features = tables.scores(use_case), tables.features(use_case)
    models = registry.champions(settings, use_case, nights)
    features_version = log.version(settings, features)
    for version in sorted(set(models.values())):
        reigned = [night for night in nights if models.get(night) == version]
        frame = session.table(str(features)).where(where({"day": reigned}))
        scored = scored_by(frame, settings, use_case, version, features_version)
        with barrier.passing(settings):
            expected = sum(log.rows_by_night(settings, features, {"day": reigned}).values())
            writes.replace(session, settings, table, scored, {"day": reigned, "role": ["champion"]}, rows_expected=expected)
    stale.rebuilt(settings, table, list(models))
    written = log.rows_by_night(settings, table, {"day": nights, "role": ["champion"]})
    return Scored({night: written.get(night, 0) for night in models}, models, log.version(settings, table), time.monotonic() - started)


def scored_by(frame: DataFrame, settings: Settings, use_case: UseCase, version: str, features_version: int) -> DataFrame:
    """The frame's rows with score and reasons of one model version, in the columns of the scores table.

    The model travels to Spark's workers inside the functions, so that they need no way to the registry.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    from include.nightshift.train import trees

    model = (registry.local_copy(settings, use_case, version) / "model.ubj").read_bytes()
    names, key = registry.features_read(use_case, version, trees.load_booster(model)), use_case.events.key
    explained = use_case.list_size * EXPLAINED_PER_PLACE

    def judge(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        from include.nightshift.train import trees

        booster = trees.load_booster(model)
        for batch in batches:
            yield batch.append_column("score", pa.array(trees.predict(booster, trees.matrix(batch, names), names), pa.float64()))

    def explain(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        from include.nightshift.train import trees

        booster = trees.load_booster(model)
        for batch in batches:
            reasons = np.full((batch.num_rows, len(REASONS)), None, dtype=object)
            near = batch.column("place").to_numpy() <= explained
            reasons[near] = trees.top_reasons(booster, trees.matrix(batch, names)[near], names, k=len(REASONS))
            told = [pa.array(column, pa.string()) for column in reasons.T]
            kept = batch.select([name for name in batch.schema.names if name not in (*names, "place")])
            yield pa.RecordBatch.from_arrays([*kept.columns, *told], names=[*kept.schema.names, *REASONS])

    ids = f"day date, {key} bigint, {use_case.entity} bigint"
    taken = ", ".join(f"{name} double" for name in names)
    by_score = Window.partitionBy("day").orderBy(F.desc("score"), key)
    judged = frame.select("day", key, use_case.entity, *names).mapInArrow(judge, f"{ids}, {taken}, score double")
    ranked = judged.withColumn("place", F.row_number().over(by_score))
    told = ranked.mapInArrow(explain, f"{ids}, score double, " + ", ".join(f"{name} string" for name in REASONS))
    return told.select(
        "*",
        F.lit("champion").alias("role"),
        F.lit(version).alias("model_version"),
        F.lit(features_version).alias("features_version"),
        F.current_timestamp().alias("scored_at"),
    )
