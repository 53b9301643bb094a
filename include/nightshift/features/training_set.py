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

from include.nightshift import durable, keys, nights
from include.nightshift.errors import NotMaturedError
from include.nightshift.lakehouse import log, tables, writes
from include.nightshift.lakehouse.session import literal
from include.nightshift.promote.question import FIRST, Question

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.train.recipes import Recipe
    from include.nightshift.usecase import UseCase


MANIFEST = "manifest.json"
SUBJECTS = "subjects.txt"
"""Names in a training set's folder."""


@dataclass(frozen=True)
class Split:
    """Which nights train and which judge."""

    as_of: date
    train_first: date
    train_last: date
    holdout_first: date
    holdout_last: date


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a training set is: enough to make it again, to know it again, and to know whose rows were in it."""

    use_case: str
    split: Split
    features: tuple[str, ...]
    versions: dict[str, int]
    """Version of each table that was read."""
    verdicts: str
    """Which verdicts were known, as SQL."""
    filters: dict[str, str]
    """Which rows each part holds, as SQL."""
    rows: dict[str, int]
    """Rows by part."""
    digest: str
    """Of the parts' content; the order of rows and the layout of files do not matter."""
    subjects: int
    """Persons among the rows of `train`, `holdout` and `context`."""
    subjects_digest: str
    """SHA-256 over their keyed digests, which are in `subjects.txt`."""
    subjects_key: str
    """Names the key that those were made with, without telling it."""

    def save(self, folder: Path) -> None:
        """Write `<folder>/manifest.json`, whole or not at all."""
        with durable.placed(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1, default=str) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `<folder>/manifest.json`.

        Raises:
            FileNotFoundError: there is none: the set was never whole, or was written before sets had one.
        """
        raw = json.loads((folder / MANIFEST).read_text())
        split_ = Split(**{name: nights.parse(text, what=name) for name, text in raw["split"].items()})
        return cls(**raw | {"split": split_, "features": tuple(raw["features"])})


def split(use_case: UseCase, first: date, as_of: date, question: Question = FIRST, train_nights: int | None = None) -> Split:
    """The split for a history that begins with `first`, seen from `as_of`; the question says how many nights are held out.

    `train_nights`: train on so many last ones of those that are left; None: on all.

    Raises:
        NotMaturedError: the history is too short to train on and, apart from that, to judge on.
    """
    holdout_last = as_of - timedelta(days=use_case.label_delay_days)
    holdout_first = holdout_last - timedelta(days=question.nights(use_case.gate) - 1)
    if question.changed_on and holdout_first < question.changed_on:
        raise NotMaturedError(
            f"{tables.features(use_case)}, as of night {as_of}: the nights {holdout_first}..{holdout_last} would judge, and the world "
            f"changed on {question.changed_on}. Wait until night {question.changed_on + (as_of - holdout_first)}"
        )
    train_last = holdout_first - timedelta(days=use_case.label_delay_days + 1)
    if train_last < first:
        raise NotMaturedError(
            f"{tables.features(use_case)}, as of night {as_of}: training would end with {train_last}, but the history begins with {first}. "
            f"Wait until night {first + (as_of - train_last)}, or bring older nights by `backfill`"
        )
    begin = first if train_nights is None else train_last - timedelta(days=train_nights - 1)
    return Split(as_of, max(first, begin), train_last, holdout_first, holdout_last)


def tables_read(use_case: UseCase) -> tuple[tables.Table, tables.Table, tables.Table]:
    """The tables that a training run reads: features, events and verdicts."""
    return tables.features(use_case), tables.silver(use_case.events), tables.silver(use_case.labels)


def pin(
    settings: Settings, use_case: UseCase, as_of: date, question: Question = FIRST, train_nights: int | None = None
) -> tuple[Split, dict[str, int]]:
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
    return split(use_case, held[0], as_of, question, train_nights), versions


def at(table: tables.Table, versions: dict[str, int]) -> str:
    """The table as of its pinned version, for a FROM clause."""
    return f"{table} version as of {int(versions[str(table)])}"


def run_id(use_case: UseCase, recipe: Recipe, split_: Split, versions: dict[str, int], question: Question = FIRST) -> str:
    """The name of a training run: the same inputs give the same name, so that asking again goes on with the same run."""
    inputs = json.dumps([recipe.told(), asdict(split_), versions, question.told()], default=str, sort_keys=True)
    return f"{use_case.name}-{split_.as_of.isoformat()}-{recipe.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}"


def write(session: SparkSession, settings: Settings, use_case: UseCase, split_: Split, versions: dict[str, int], folder: Path) -> Manifest:
    """Write `train/`, `holdout/`, `context/` and `frauds/` as Parquet below the folder, and what they are as `manifest.json`, which
    comes last.

    Spark writes the parts as it reads them: nothing holds them all. `frauds/` lists (day, entity) of what was found among the events
    from two delays before the first held-out night: whom the protocol counts as known. A verdict not reported is unknown, not genuine:
    such rows are in neither set. They are in `context/`, without a target, as are those of the nights between the two sets: a model that
    looks at a customer's earlier rows shall see all that it would have seen on the night itself.
    """
    features, events, labels = (at(table, versions) for table in tables_read(use_case))
    target, key, entity = use_case.target, use_case.events.key, use_case.entity
    begin = split_.holdout_first - timedelta(days=2 * use_case.label_delay_days)
    known = f"(select {key}, {target} from {labels} where day <= {literal(split_.as_of)})"
    filters = {
        "train": f"f.day between {literal(split_.train_first)} and {literal(split_.train_last)}",
        "holdout": f"f.day between {literal(split_.holdout_first)} and {literal(split_.holdout_last)}",
        "context": f"f.day between {literal(split_.train_first)} and {literal(split_.holdout_last)} and (v.{key} is null or f.day between "
        f"{literal(split_.train_last + timedelta(days=1))} and {literal(split_.holdout_first - timedelta(days=1))})",
        "frauds": f"v.{target} = 1 and e.day between {literal(begin)} and {literal(split_.holdout_last)}",
    }
    columns = ", ".join(f"f.{name}" for name in ("day", key, entity, use_case.events.event_time, *use_case.feature_names))
    clusters = "".join(f", f.{name}" for name in use_case.clusters if name not in use_case.feature_names)
    rows = f"select {columns}{clusters}, v.{target} from {features} f join {known} v on f.{key} = v.{key}"
    read = {
        "train": rows,
        "holdout": rows,
        "context": f"select {columns} from {features} f left join {known} v on f.{key} = v.{key}",
        "frauds": f"select e.day, e.{entity} from {events} e join {known} v on e.{key} = v.{key}",
    }
    counts, digest = {}, hashlib.sha256()
    for part, query in read.items():
        session.sql(f"{query} where {filters[part]}").write.mode("overwrite").parquet(str(folder / part))
        written = session.read.parquet(str(folder / part))
        figures = writes.fingerprint(written, written.columns)
        counts[part] = figures[0]
        digest.update(json.dumps([part, figures]).encode())
    subjects, check = _subjects(session, settings, use_case, folder)
    manifest = Manifest(
        use_case=use_case.name,
        split=split_,
        features=tuple(use_case.feature_names),
        versions=dict(versions),
        verdicts=f"day <= {literal(split_.as_of)}",
        filters=filters,
        rows=counts,
        digest=digest.hexdigest(),
        subjects=len(subjects),
        subjects_digest=hashlib.sha256("\n".join(subjects).encode()).hexdigest(),
        subjects_key=check,
    )
    manifest.save(folder)
    return manifest


def _subjects(session: SparkSession, settings: Settings, use_case: UseCase, folder: Path) -> tuple[list[str], str]:
    """Write `subjects.txt`, the keyed digest of each person among the rows, in order; returns them and what names the key."""
    key = keys.made(settings, keys.SUBJECT)
    parts = [session.read.parquet(str(folder / part)).select(use_case.entity) for part in ("train", "holdout", "context")]
    people = parts[0].union(parts[1]).union(parts[2]).distinct().toArrow().column(0).to_pylist()
    subjects = sorted(key.digester(use_case.entity)(map(str, people)))
    with durable.placed(folder / SUBJECTS) as temporary:
        temporary.write_text("\n".join(subjects) + "\n")
    return subjects, key.check


def concerns(settings: Settings, folder: Path, entity: str, person: str) -> bool | None:
    """Whether a person is among the subjects of a training set, whose rows may be gone; None where that cannot be told.

    Raises:
        ConfigurationError: the key that the digests were made with is not at hand.
    """
    try:
        manifest, subjects = Manifest.load(folder), (folder / SUBJECTS).read_text().split()
    except FileNotFoundError:
        return None
    key = keys.agreed(
        settings,
        keys.SUBJECT,
        {manifest.subjects_key},
        holds=f"{folder / SUBJECTS} holds digests of who is in a training set",
        advice="Without it nobody can tell whom the model was trained on: restore it from your backup of the keys",
    )
    return key.digest(entity, person) in set(subjects)
