"""A training run: the folder that the pin step makes, what its `run.json` says, and its rows in one fixed order.

Everything that decides the model is in this folder, so a machine elsewhere needs a copy of it and nothing more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import nights
from include.nightshift.errors import ConfigurationError, NightError, TrainingFailedError
from include.nightshift.promote.question import FIRST, Question
from include.nightshift.train import models, recipes
from include.nightshift.train.checkpoint import complete, write_durably
from include.nightshift.train.recipes import Recipe
from include.nightshift.train.rows import Rows, seconds

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.nightshift.train.rows import Context

RUN = "run.json"
TRAIN_ROWS = "data/train"
HOLDOUT_ROWS = "data/holdout"
CONTEXT_ROWS = "data/context"
MANIFEST = "data/manifest.json"
BEGAN = "began.json"
CHECKPOINTS = "checkpoints"
PROGRESS = "progress.jsonl"
RESUMES = "resumes.jsonl"
SYSTEM = "system.jsonl"
ENVIRONMENT = "environment.json"
MODEL_FOLDER = "model"
REFERENCE = "model/reference.json"
FEATURES = "model/features.json"
EXAMPLE = "model/example.json"
RESULT = "result.json"
TRIALS = "trials"
SEARCH = "search.json"
"""Names in a run folder, relative to it."""

_NIGHTS = ("as_of", "train_first", "train_last", "holdout_first", "holdout_last")


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What `run.json` says: one recipe on rows that were pinned once."""

    run_id: str
    """Names the run for good, also as an MLflow tag."""
    use_case: str
    recipe: Recipe
    features: tuple[str, ...]
    """The model's columns, in the order of its matrix."""
    key: str
    entity: str
    event_time: str
    target: str
    as_of: date
    """The night whose knowledge the rows hold."""
    train_first: date
    train_last: date
    holdout_first: date | None
    """None, with `holdout_last`: nothing is held out."""
    holdout_last: date | None
    versions: Mapping[str, int]
    """Version of each table that the rows were read at."""
    data_digest: str
    """The pin step's content hash of the rows."""
    git_commit: str
    mlflow_url: str
    experiment: str
    git_dirty: bool | None = None
    """Whether the checkout held what no commit does; None: not known, as in runs that were pinned before this was asked."""
    question: Question = FIRST
    """What the gate will ask of the model: settled before it was trained."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:+-]*", self.run_id):
            raise ConfigurationError(f"run_id {self.run_id!r}: use letters, digits and _ . : + - (it becomes a folder name and a tag)")
        columns = [*self.features, self.key, self.entity, self.event_time, self.target]
        if not self.features or len(set(columns)) != len(columns):
            raise ConfigurationError(f"run {self.run_id}: it needs features, and no column may stand twice in {columns}")
        if (self.holdout_first is None) != (self.holdout_last is None):
            raise ConfigurationError(f"run {self.run_id}: holdout_first and holdout_last are both nights or both null")
        # as_of ends the walk: no row may be later than what the run is allowed to know.
        walk = [self.train_first, self.train_last, *filter(None, (self.holdout_first, self.holdout_last)), self.as_of]
        overlap = self.holdout_first is not None and self.holdout_first <= self.train_last
        if walk != sorted(walk) or overlap:
            raise ConfigurationError(
                f"run {self.run_id}: nights must run train_first <= train_last < holdout_first <= holdout_last <= as_of, "
                f"not {' '.join(map(str, walk))}: pin the run again"
            )

    @classmethod
    def load(cls, folder: Path) -> TrainingRun:
        """Read `<folder>/run.json`.

        Raises:
            ConfigurationError: no such file, no JSON, or fields that are missing, unknown or impossible.
        """
        path = folder / RUN
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise ConfigurationError(f"{path} is missing: --run names a folder that the pin step made") from error
        except ValueError as error:
            raise ConfigurationError(f"{path} is no JSON ({error}): pin the run again") from error
        _check_fields(path, raw)
        recipe = recipes.of(raw["recipe"], str(path))
        try:
            held = {
                name: None if raw[name] is None and name.startswith("holdout") else nights.parse(raw[name], what=name) for name in _NIGHTS
            }
        except NightError as error:
            raise ConfigurationError(f"{path}: {error}. Pin the run again") from error
        asked = Question.of(raw["question"]) if "question" in raw else FIRST
        return cls(**raw | held | {"recipe": recipe, "features": tuple(raw["features"]), "question": asked})

    def save(self, folder: Path) -> None:
        """Write `<folder>/run.json` atomically, making the folder where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        raw = asdict(self) | {name: getattr(self, name) and getattr(self, name).isoformat() for name in _NIGHTS}
        raw["recipe"], raw["question"] = self.recipe.told(), self.question.told()
        write_durably(folder / RUN, (json.dumps(raw, indent=1) + "\n").encode())

    def told(self) -> dict[str, Any]:
        """What the folder of its model says about it, beside the model (`features.json`)."""
        columns = {name: getattr(self, name) for name in ("features", "key", "entity", "event_time", "target")}
        return {"kind": self.recipe.kind, **columns, "recipe": self.recipe.told()}


def learnt_rows(folder: Path, run: TrainingRun, last: date | None = None) -> Rows:
    """The rows that the run learns from; `last`: none of later nights.

    Raises:
        TrainingFailedError: as `read_rows` does, or all rows ended alike.
    """
    beside = folder / CONTEXT_ROWS if run.recipe.looks_back else None
    rows = read_rows(folder / TRAIN_ROWS, run, beside=beside, last=last)
    told = rows.target[rows.told]
    if not 0 < told.sum() < len(told):
        raise TrainingFailedError(f"all {len(told)} training rows have the same {run.target}: look at the nights in run.json")
    return rows


def read_rows(folder: Path, run: TrainingRun, *, beside: Path | None = None, last: date | None = None, dtype: str = "float32") -> Rows:
    """All part files of a folder, sorted by key. Models learn from float32; a reference for drift wants the doubles as stored.

    `beside`: a folder of rows without a target, which are only looked at. `last`: no rows of later nights, of neither folder.

    Raises:
        TrainingFailedError: no rows, a missing column, a key that is null or stands twice, a target that is neither 0 nor 1,
            an infinite feature, a row without entity or event time.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [run.key, run.entity, run.event_time, *run.features]
    nights = None if last is None else pc.field("day") <= last
    table = _table(folder, [*columns, run.target], nights)
    target = pc.cast(table.column(run.target), pa.float32(), safe=False).to_numpy()
    if not np.isin(target, (0, 1)).all():
        raise TrainingFailedError(f"{folder}: {run.target} holds something that is neither 0 nor 1: only matured rows can be learnt from")
    table = table.select(columns)
    if beside is not None and has_rows(beside):
        table = pa.concat_tables([table, _table(beside, columns, nights, may_be_empty=True)])
        target = np.append(target, np.full(len(table) - len(target), np.nan, dtype="float32"))
    if table.column(run.entity).null_count or table.column(run.event_time).null_count:
        raise TrainingFailedError(f"{folder}: {run.entity} or {run.event_time} is null in some rows: pin the run again")
    if table.column(run.key).null_count or pc.count_distinct(table.column(run.key)).as_py() != len(table):
        raise TrainingFailedError(
            f"{folder}: {run.key} is null or stands twice among {len(table)} rows, so they have no order: pin the run again"
        )
    order = pc.sort_indices(table, sort_keys=[(run.key, "ascending")])

    def column(name: str, dtype: str = dtype) -> np.ndarray:
        return pc.cast(table.column(name), pa.from_numpy_dtype(dtype), safe=False).take(order).to_numpy()

    matrix = np.empty((len(table), len(run.features)), dtype=dtype)
    for position, name in enumerate(run.features):
        matrix[:, position] = column(name)
        if np.isinf(matrix[:, position].astype("float32")).any():
            raise TrainingFailedError(
                f"{folder}: feature {name} is infinite (as a 32-bit number) in some rows; missing is NaN or null: correct its SQL"
            )
    matrix[np.isnan(matrix)] = np.nan  # one bit pattern for missing, so that digests compare values
    when = seconds(table.column(run.event_time))[order.to_numpy()]
    return Rows(matrix, target[order.to_numpy()], column(run.entity, "int64"), when)


@dataclass(frozen=True)
class Judged:
    """Rows that a finished model is judged by, with what it may look at beside them."""

    rows: pa.Table
    """Key, entity, event time and features; the rows that are judged come first, in the order of their key."""
    asked: np.ndarray
    """(rows,), which of them are judged."""


def judged(folder: Path, run: TrainingRun, context: Context | None, *, held_in: str = HOLDOUT_ROWS) -> Judged:
    """The held-out rows of a run, or its training rows where it holds nothing out, for a model with that context.

    `held_in`: the part that they lie in; a trial's are the last of the training rows (`train.validation`).

    Raises:
        TrainingFailedError: no rows, a missing column, or a run that was pinned without rows to look at.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [run.key, run.entity, run.event_time, *run.features]
    held, day = folder / held_in, pc.field("day")
    if not has_rows(held) or run.holdout_first is None:
        held = folder / TRAIN_ROWS
        asked = near = None
    else:
        asked = day >= run.holdout_first
        near = day >= run.holdout_first - timedelta(days=context.days) if context else None
    rows = _table(held, columns, asked).sort_by(run.key)
    beside = []
    if context is not None:
        if not (folder / CONTEXT_ROWS).is_dir():
            raise TrainingFailedError(f"{folder / CONTEXT_ROWS} is missing, which holds what the model looks at: pin the run again")
        if near is not None:
            beside.append(_table(folder / TRAIN_ROWS, columns, near & (day < run.holdout_first), may_be_empty=True))
            near &= day <= run.holdout_last
        beside.append(_table(folder / CONTEXT_ROWS, columns, near, may_be_empty=True))
    whole = pa.concat_tables([rows, *beside])
    return Judged(whole, np.arange(len(whole)) < len(rows))


def of_nights(folder: Path, columns: list[str], first: date, last: date) -> pa.Table:
    """Rows of some nights, as stored.

    Raises:
        TrainingFailedError: none, or a missing column.
    """
    import pyarrow.compute as pc

    return _table(folder, columns, (pc.field("day") >= first) & (pc.field("day") <= last))


def _table(folder: Path, columns: list[str], nights: Any = None, *, may_be_empty: bool = False) -> Any:
    import pyarrow as pa
    import pyarrow.dataset as ds

    if not folder.is_dir():
        raise TrainingFailedError(f"{folder} is missing: the pin step writes it; pin the run again")
    try:
        table = ds.dataset(folder, format="parquet").to_table(columns=columns, filter=nights)
    except (pa.ArrowException, OSError) as error:
        raise TrainingFailedError(f"{folder}: its Parquet files cannot be read ({error}): pin the run again") from error
    if not len(table) and not may_be_empty:
        raise TrainingFailedError(f"{folder} holds no rows: look at the nights in {RUN}, then pin the run again")
    return table


def has_rows(folder: Path) -> bool:
    """Whether a folder of part files holds any row."""
    import pyarrow.dataset as ds

    return folder.is_dir() and ds.dataset(folder, format="parquet").count_rows() > 0


def begun(folder: Path) -> bool:
    """Whether there is work of the run that its next machine goes on with: a checkpoint, or a trial of its search."""
    trials = list(folder.glob(f"{TRIALS}/*"))
    return any(complete(place / CHECKPOINTS) for place in (folder, *trials)) or any((trial / RESULT).exists() for trial in trials)


def finished(folder: Path) -> dict[str, Any] | None:
    """The run's result, when it is complete: `result.json` stands and names the model beside it, byte for byte."""
    try:
        result = json.loads((folder / RESULT).read_text())
        model = models.sha256(folder / MODEL_FOLDER)
    except (FileNotFoundError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("model_sha256") == model else None


def _check_fields(path: Path, raw: object) -> None:
    names = {field.name for field in fields(TrainingRun)}
    needed = {field.name for field in fields(TrainingRun) if field.default is MISSING}
    found = set(raw) if isinstance(raw, dict) else set()
    if not needed <= found <= names:
        raise ConfigurationError(
            f"{path}: the run lacks {sorted(needed - found) or 'nothing'} and has unknown {sorted(found - names) or 'nothing'}: "
            "pin the run again with this version of the code"
        )
