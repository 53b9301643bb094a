"""The training set: features and matured verdicts at pinned table versions, split by time with the gap the delay needs.

Verdicts of night D come in with drop D + delay. With `as_of` the last night that is known, T = as_of - delay is the
last matured night; the nights T-6..T judge, and training ends delay + 1 nights before the first of them, when the
verdicts of its last night were known.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift.errors import NotMaturedError
from include.nightshift.lakehouse import log, tables, writes
from include.nightshift.lakehouse.session import literal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Recipe, UseCase


@dataclass(frozen=True)
class Split:
    """Which nights train and which judge."""

    as_of: date
    train_first: date
    train_last: date
    holdout_first: date
    holdout_last: date


def split(use_case: UseCase, first: date, as_of: date) -> Split:
    """The split for a history that begins with `first`, seen from `as_of`.

    Raises:
        NotMaturedError: the history is too short to train on and, apart from that, to judge on.
    """
    holdout_last = as_of - timedelta(days=use_case.label_delay_days)
    holdout_first = holdout_last - timedelta(days=use_case.gate.holdout_nights - 1)
    train_last = holdout_first - timedelta(days=use_case.label_delay_days + 1)
    if train_last < first:
        raise NotMaturedError(
            f"{tables.features(use_case)}, as of night {as_of}: training would end with {train_last}, but the history begins with {first}. "
            f"Wait until night {first + (as_of - train_last)}, or bring older nights by `backfill`"
        )
    return Split(as_of, first, train_last, holdout_first, holdout_last)


def tables_read(use_case: UseCase) -> tuple[tables.Table, tables.Table, tables.Table]:
    """The tables that a training run reads: features, events and verdicts."""
    return tables.features(use_case), tables.silver(use_case.events), tables.silver(use_case.labels)


def pin(settings: Settings, use_case: UseCase, as_of: date) -> tuple[Split, dict[str, int]]:
    """Fix what a training run reads: the split, and the versions of features, events and verdicts.

    Raises:
        NotMaturedError: features or verdicts of the nights are not there yet.
    """
    read = tables_read(use_case)
    versions = {str(table): log.version(settings, table) for table in read}
    held = log.extent(settings, read[0], versions[str(read[0])])
    if held is None or held[1] < as_of - timedelta(days=use_case.label_delay_days):
        raise NotMaturedError(
            f"{read[0]} ends with night {held[1] if held else None}, as of {as_of} is asked: run the nights in between first"
        )
    if not log.rows_by_night(settings, read[2], {"day": [as_of]}, version=versions[str(read[2])]):
        raise NotMaturedError(
            f"{read[2]} holds no verdict of drop {as_of}, so night {as_of - timedelta(days=use_case.label_delay_days)} has not matured: "
            f"run `ingest` of night {as_of}, or train as of an earlier night"
        )
    return split(use_case, held[0], as_of), versions


def at(table: tables.Table, versions: dict[str, int]) -> str:
    """The table as of its pinned version, for a FROM clause."""
    return f"{table} version as of {int(versions[str(table)])}"


def run_id(use_case: UseCase, recipe: Recipe, split_: Split, versions: dict[str, int]) -> str:
    """The name of a training run: the same inputs give the same name, so that asking again goes on with the same run."""
    inputs = json.dumps([asdict(recipe), asdict(split_), versions], default=str, sort_keys=True)
    return f"{use_case.name}-{split_.as_of.isoformat()}-{recipe.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}"


def export(session: SparkSession, use_case: UseCase, split_: Split, versions: dict[str, int], folder: Path) -> str:
    """Write `train/`, `holdout/` and `frauds/` as Parquet below the folder; returns a digest of their content.

    `frauds/` lists (day, entity) of what was found among the events from two delays before the first held-out night:
    whom the protocol counts as known. A verdict not reported is unknown, not genuine: such rows are in neither set.
    """
    features, events, labels = (at(table, versions) for table in tables_read(use_case))
    target, key, entity = use_case.target, use_case.events.key, use_case.entity
    known = f"(select {key}, {target} from {labels} where day <= {literal(split_.as_of)})"
    columns = ", ".join(f"f.{name}" for name in ("day", key, entity, use_case.events.event_time, *use_case.feature_names))
    set_ = f"select {columns}, v.{target} from {features} f join {known} v on f.{key} = v.{key} where f.day between {{}} and {{}}"
    begin = split_.holdout_first - timedelta(days=2 * use_case.label_delay_days)
    parts = {
        "train": set_.format(literal(split_.train_first), literal(split_.train_last)),
        "holdout": set_.format(literal(split_.holdout_first), literal(split_.holdout_last)),
        "frauds": f"select e.day, e.{entity} from {events} e join {known} v on e.{key} = v.{key} "
        f"where v.{target} = 1 and e.day between {literal(begin)} and {literal(split_.holdout_last)}",
    }
    digest = hashlib.sha256()
    for name, query in parts.items():
        frame = session.sql(query)
        frame.write.mode("overwrite").parquet(str(folder / name))
        written = session.read.parquet(str(folder / name))
        digest.update(json.dumps([name, writes.fingerprint(written, written.columns)]).encode())
    return digest.hexdigest()
