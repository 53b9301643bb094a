"""Parity: a night's scored rows are computed anew, from silver alone, and must be the same to the last bit; the score of a model that
looks at other rows too, but for the rounding that depends on them. All rows of a night, or a sample where it has very many.

Between features and scores lie a table that could be written to, nights that changed since, code that changed since, and functions that
run elsewhere. Whatever it was, a list must not be published on figures that silver does not give.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from include.nightshift.errors import RegistryError
from include.nightshift.features import project
from include.nightshift.lakehouse import records, tables, writes
from include.nightshift.lakehouse.session import where
from include.nightshift.nights import between
from include.nightshift.promote import registry, trust
from include.nightshift.train import models
from include.nightshift.train.rows import as_matrix

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.train.models import Model
    from include.nightshift.usecase import UseCase

logger = logging.getLogger(__name__)

ROWS = 200_000
"""So many rows are computed anew, all nights together, and of each night as many as of the others."""
SAMPLE = 500
"""Of many nights, so many of each at least."""


@dataclass(frozen=True)
class Difference:
    """How one column of the sample differs from what silver gives."""

    column: str
    """A feature, or score."""
    rows: int
    largest: float | None
    """The largest difference; None where one side is null in all of these rows."""


@dataclass(frozen=True)
class Parity:
    """The verdict on one night."""

    night: date
    rows: int
    """Scored rows that were computed anew."""
    different: int
    """Rows among them that differ in any column."""
    columns: tuple[Difference, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return self.different == 0

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(
            f"{column.column} differs in {column.rows} of {self.rows} rows"
            + ("" if column.largest is None else f", by {column.largest:g} at most")
            for column in self.columns
        )


def check(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> list[Parity]:
    """Compute the nights' scored rows anew and compare; writes `ops.parity`. Nights that nobody scored have no verdict.

    A row whose model cannot be had, or is not what was promoted, has another score than it should.

    Raises:
        BuildError: dbt cannot compile the models.
    """
    scored = session.sql(_sample(use_case, nights)).toArrow()
    verdicts = []
    if scored.num_rows:
        anew = _anew(session, settings, use_case, sorted(set(scored.column("day").to_pylist())), scored)
        verdicts = _judged(session, settings, use_case, scored, anew)
    now = datetime.now(UTC)
    told = [
        {
            "day": verdict.night,
            "use_case": use_case.name,
            "rows": verdict.rows,
            "differences": verdict.different,
            "sample": json.dumps([vars(column) for column in verdict.columns]),
            "checked_at": now,
        }
        for verdict in verdicts
    ]
    records.replace(settings, tables.PARITY, told, {"day": sorted(nights), "use_case": [use_case.name]})
    return verdicts


def _sample(use_case: UseCase, nights: Sequence[date]) -> str:
    """Scored rows with the features that lie beside them, some of each night, the same ones each time."""
    key = use_case.events.key
    columns = ", ".join(f"f.{name}" for name in (use_case.entity, use_case.events.event_time, *use_case.feature_names))
    return f"""
with sampled as (
  select day, {key}, score, model_version from {tables.scores(use_case)}
  where role = 'champion' and {where({"day": nights})}
  qualify row_number() over (partition by day order by xxhash64({key}, day), {key}) <= {max(SAMPLE, ROWS // len(nights))}
)
select s.day, s.{key}, s.score, s.model_version, {columns}
from sampled s left join {tables.features(use_case)} f on f.{key} = s.{key} and f.day = s.day and f.{where({"day": nights})}
order by s.{key}
"""


def _anew(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date], scored: pa.Table) -> pa.Table:
    """The same rows' features from silver, in the order of the key; null where silver gives no such row."""
    key = use_case.events.key
    compiled = project.compiled(session, settings, use_case)
    with compiled.over(session, settings, nights, {}) as frame:
        asked = writes.in_memory(session, scored.select([key]))
        return asked.join(frame.select(key, *use_case.feature_names), key, "left").orderBy(key).toArrow()


def _judged(session: SparkSession, settings: Settings, use_case: UseCase, scored: pa.Table, anew: pa.Table) -> list[Parity]:
    import numpy as np
    import pyarrow as pa

    names = use_case.feature_names
    held, fresh = (as_matrix(table, names) for table in (scored, anew))
    versions = scored.column("model_version").to_numpy(zero_copy_only=False)
    # Of a row that the features do not have, nobody can say what stood beside it.
    known = scored.column(use_case.entity).is_valid().to_numpy()
    score, rounding = np.full(len(versions), np.nan), np.zeros(len(versions))
    for version in np.unique(versions):
        try:
            model = models.load(trust.verified(settings, use_case, str(version)).folder)
            registry.features_read(use_case, str(version), model)
        except RegistryError as error:
            # Their scores stay unknown, which differs from any: nobody can say that this model gave them.
            logger.error("rows scored by version %s cannot be scored anew: %s", version, error)
            continue
        his = (versions == version) & known
        rows, asked = _beside(session, use_case, scored.filter(pa.array(his)), anew.filter(pa.array(his)), model)
        score[his], rounding[his] = model.score(rows, asked), model.rounding
    held = np.column_stack([held, scored.column("score").to_numpy()])
    fresh = np.column_stack([fresh, score])
    differs = ~((held == fresh) | (np.isnan(held) & np.isnan(fresh)))
    differs[:, -1] &= ~(abs(held - fresh)[:, -1] <= rounding)
    days = np.array(scored.column("day").to_pylist())
    return [_verdict(night, (*names, "score"), *(part[days == night] for part in (differs, held, fresh))) for night in sorted(set(days))]


def _beside(session: SparkSession, use_case: UseCase, scored: pa.Table, anew: pa.Table, model: Model) -> tuple[pa.Table, np.ndarray | None]:
    """The sampled rows as silver gives them, and beside them what a model with a context looks at, as the features hold it by now."""
    import numpy as np
    import pyarrow as pa

    if model.context is None:
        return anew, None
    key, entity, days = use_case.events.key, use_case.entity, scored.column("day").to_pylist()
    ids = (key, entity, use_case.events.event_time)
    sampled = pa.table({**{name: scored.column(name) for name in ids}, **{name: anew.column(name) for name in model.features}})
    back = timedelta(days=model.context.days)
    near = list(between(min(days) - back, max(days)))
    people = writes.in_memory(session, pa.table({entity: sampled.column(entity).unique()}))
    sample = writes.in_memory(session, sampled.select([key]))
    held = session.table(str(tables.features(use_case))).where(where({"day": near}))
    others = held.join(people, entity, "left_semi").join(sample, key, "left_anti").select(*sampled.column_names).toArrow()
    rows = pa.concat_tables([sampled, others.cast(sampled.schema)])
    return rows, np.arange(len(rows)) < len(sampled)


def _verdict(night: date, names: Sequence[str], differs: np.ndarray, held: np.ndarray, fresh: np.ndarray) -> Parity:
    columns = []
    for place, name in enumerate(names):
        rows = differs[:, place]
        if not rows.any():
            continue
        apart = abs(held[rows, place] - fresh[rows, place])
        known = apart[apart == apart]
        columns.append(Difference(name, int(rows.sum()), float(known.max()) if len(known) else None))
    return Parity(night, len(differs), int(differs.any(axis=1).sum()), tuple(columns))
