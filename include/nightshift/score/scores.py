"""Scores: the champion whose nights contain the night scores its features where they lie, with three reasons
for every row that comes near the list. Where it cannot be trusted, who stands in is said and told."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift import notify
from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import barrier, log, stale, tables, writes
from include.nightshift.lakehouse.session import where
from include.nightshift.promote import history, registry, trust
from include.nightshift.train import models

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.promote.trust import Reigning
    from include.nightshift.settings import Settings
    from include.nightshift.train.rows import Context
    from include.nightshift.usecase import UseCase

REASONS = ("reason_1", "reason_2", "reason_3")
EXPLAINED_PER_PLACE = 10
"""Rows explained for each place on the list: exact reasons cost 0.7 ms a row, four hundred times a score."""
ROWS_AT_ONCE = 65_536
"""Rows that a model with a context is given at once, or more: no entity's are cut."""

Carried = tuple[bytes, Mapping[str, Any]]
"""A model on its way to the workers: the bytes of its file, and what `features.json` says."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """The scores of some nights: rows by night, the model that gave them by night with its mark, and the table's version."""

    rows: dict[date, int]
    reigning: dict[date, Reigning]
    version: int
    seconds: float

    @property
    def models(self) -> dict[date, str]:
        """The model versions by night."""
        return {night: model.version for night, model in self.reigning.items()}


def score(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> Scored:
    """Replace the nights' champion scores. Nights over which nobody reigns are left out (see `Scored.models`).

    MLflow's alias is held against the history first. Where a champion is not what was promoted, another model scores, which
    `Scored.reigning` and a notice say.

    Raises:
        ContractError: the scores lack rows that the features have; nothing is published then.
        RegistryError: a champion is not what was promoted, and nothing that was verified can stand in.
        WriteConflictError: others won every attempt.
    """
    started = time.monotonic()
    table, features = tables.scores(use_case), tables.features(use_case)
    mended = history.reconcile(settings, use_case)
    reigning = trust.reigning_over(settings, use_case, nights)
    _tell(settings, use_case, mended, reigning)
    features_version = log.version(settings, features)
    for model in dict.fromkeys(reigning.values()):
        _replace(session, settings, use_case, model, [night for night in nights if reigning.get(night) == model], features_version)
    stale.rebuilt(settings, table, list(reigning))
    written = log.rows_by_night(settings, table, {"day": nights, "role": ["champion"]})
    return Scored({night: written.get(night, 0) for night in reigning}, reigning, log.version(settings, table), time.monotonic() - started)


def again(session: SparkSession, settings: Settings, use_case: UseCase, model: Reigning, nights: Sequence[date]) -> None:
    """Replace the nights' champion scores by those of a model that is given.

    Raises:
        RegistryError: its bytes changed since they were verified.
        WriteConflictError: others won every attempt.
    """
    _replace(session, settings, use_case, model, nights, log.version(settings, tables.features(use_case)))


def _replace(
    session: SparkSession, settings: Settings, use_case: UseCase, model: Reigning, nights: Sequence[date], features_version: int
) -> None:
    scored = scored_by(session, use_case, model, nights, features_version)
    with barrier.passing(settings):
        expected = sum(log.rows_by_night(settings, tables.features(use_case), {"day": nights}).values())
        slice_ = {"day": nights, "role": ["champion"]}
        writes.replace(session, settings, tables.scores(use_case), scored, slice_, rows_expected=expected)


def _tell(settings: Settings, use_case: UseCase, mended: Sequence[str], reigning: Mapping[date, Reigning]) -> None:
    """What had to be mended, and whose lists bear a mark and why, to the log and to who is named."""
    marked = {night: model for night, model in reigning.items() if model.mark}
    for model in dict.fromkeys(marked.values()):
        whose = sorted(night for night, marked_by in marked.items() if marked_by == model)
        span = f"night {whose[0]}" if len(whose) == 1 else f"{len(whose)} nights from {whose[0]} to {whose[-1]}"
        logger.error("%s is scored by %s (%s): %s", span, model.version, model.mark, "; ".join(model.reasons))
        notify.warn(
            settings, f"{use_case.name}: {span} marked {model.mark}", model.reasons, where="its reasons are on the list", failure=True
        )
    for trouble in mended:
        logger.warning("%s", trouble)
    notify.warn(settings, f"{use_case.name}: alias and history disagreed", mended, where="they are logged by the task `scores`")


def scored_by(session: SparkSession, use_case: UseCase, model: Reigning, nights: Sequence[date], features_version: int) -> DataFrame:
    """The rows of nights with score and reasons of one model version, in the columns of the scores table.

    The features are read at `features_version`. The model travels to Spark's workers inside the functions, so that they need no way to
    the registry.

    Raises:
        RegistryError: its bytes changed since they were verified, or it reads a feature that is no longer built.
    """
    from pyspark.sql import functions as F

    carried = models.file(model.folder).read_bytes(), models.described(model.folder)
    if (seen := hashlib.sha256(carried[0]).hexdigest()) != model.model_sha256:
        raise RegistryError(
            f"{model.folder} changed as it was read: its hash is {seen}, verified was {model.model_sha256}. Run the task again"
        )
    read = models.loads(*carried)
    registry.features_read(use_case, model.version, read)
    features = _features(session, use_case, features_version)
    if read.context is None:
        judged = _judged(features, use_case, carried, nights, read.features)
    else:
        judged = _judged_in_context(features, use_case, carried, nights, read.features, read.context)
    return judged.select(
        "*",
        F.lit("champion").alias("role"),
        F.lit(model.version).alias("model_version"),
        F.lit(features_version).alias("features_version"),
        F.current_timestamp().alias("scored_at"),
    )


def _judged(features: DataFrame, use_case: UseCase, carried: Carried, nights: Sequence[date], names: Sequence[str]) -> DataFrame:
    """Score and reasons by a model that needs nothing but the row: batch by batch, where the rows lie."""
    explained = use_case.list_size * EXPLAINED_PER_PLACE

    def judge(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        model = models.loads(*carried)
        for batch in batches:
            yield batch.append_column("score", pa.array(model.score(batch), pa.float64()))

    def explain(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        model = models.loads(*carried)
        for batch in batches:
            reasons = np.full((batch.num_rows, len(REASONS)), None, dtype=object)
            near = batch.column("place").to_numpy() <= explained
            reasons[near] = model.reasons(batch, len(REASONS), near)
            told = [pa.array(column, pa.string()) for column in reasons.T]
            kept = batch.select([name for name in batch.schema.names if name not in (*names, "place")])
            yield pa.RecordBatch.from_arrays([*kept.columns, *told], names=[*kept.schema.names, *REASONS])

    ids = _ids(use_case)
    taken = ", ".join(f"{name} double" for name in names)
    frame = features.where(where({"day": nights}))
    scored = frame.select(*ids, *names).mapInArrow(judge, f"{_schema(ids)}, {taken}, score double")
    return _placed(use_case, scored).mapInArrow(explain, f"{_schema(ids)}, score double, {_schema(REASONS)}")


def _judged_in_context(
    features: DataFrame, use_case: UseCase, carried: Carried, nights: Sequence[date], names: Sequence[str], context: Context
) -> DataFrame:
    """Score and reasons by a model that looks at an entity's earlier rows: all rows of an entity come to one place."""
    from pyspark.sql import functions as F

    ids, entity, explained = _ids(use_case), use_case.entity, use_case.list_size * EXPLAINED_PER_PLACE

    def judge(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        model = models.loads(*carried)
        for rows in whole(batches, entity):
            asked = rows.column("asked").to_numpy(zero_copy_only=False)
            score = np.full(len(rows), -np.inf)
            score[asked] = model.score(rows, asked)
            reasons = np.full((len(rows), len(REASONS)), None, dtype=object)
            days = rows.column("day").to_numpy()
            for night in np.unique(days[asked]):
                here = asked & (days == night)
                # Whoever comes near the list of all rows comes near that of these.
                close = here & (score >= np.sort(score[here])[-explained:][0])
                reasons[close] = model.reasons(rows, len(REASONS), close)
            told = [pa.array(column[asked], pa.string()) for column in reasons.T]
            kept = rows.select(list(ids)).filter(pa.array(asked))
            yield from pa.Table.from_arrays([*kept.columns, pa.array(score[asked]), *told], names=[*ids, "score", *REASONS]).to_batches()

    looked_at = sorted({night - timedelta(days=days) for night in nights for days in range(context.days + 1)})
    frame = features.where(where({"day": looked_at}))
    rows = frame.select(*ids, use_case.events.event_time, *names, F.expr(where({"day": nights})).alias("asked"))
    scored = rows.repartition(entity).sortWithinPartitions(entity).mapInArrow(judge, f"{_schema(ids)}, score double, {_schema(REASONS)}")
    placed = _placed(use_case, scored)
    return placed.select(*ids, "score", *(F.when(F.col("place") <= explained, F.col(name)).alias(name) for name in REASONS))


def whole(batches: Iterator[pa.RecordBatch], entity: str) -> Iterator[pa.Table]:
    """Tables of `ROWS_AT_ONCE` rows or more, in none of which an entity's rows are cut; the batches come sorted by entity."""
    import numpy as np
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) < ROWS_AT_ONCE:
            continue
        table = pa.Table.from_batches(held)
        whose = table.column(entity).to_numpy()
        cut = int(np.searchsorted(whose, whose[-1]))
        if cut:
            yield table.slice(0, cut)
        held = table.slice(cut).to_batches()
    if sum(part.num_rows for part in held):
        yield pa.Table.from_batches(held)


def _features(session: SparkSession, use_case: UseCase, version: int) -> DataFrame:
    return session.sql(f"select * from {tables.features(use_case)} version as of {int(version)}")


def _ids(use_case: UseCase) -> tuple[str, str, str]:
    return ("day", use_case.events.key, use_case.entity)


def _schema(columns: Sequence[str]) -> str:
    """Of ids or reasons, as Spark writes it."""
    return ", ".join(f"{name} {'date' if name == 'day' else 'string' if name in REASONS else 'bigint'}" for name in columns)


def _placed(use_case: UseCase, scored: DataFrame) -> DataFrame:
    """With each row's place in its night, by score; the smaller key first where that is the same."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    by_score = Window.partitionBy("day").orderBy(F.desc("score"), use_case.events.key)
    return scored.withColumn("place", F.row_number().over(by_score))
