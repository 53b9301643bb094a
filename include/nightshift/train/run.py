"""A training run: the folder that the pin step makes, what its `run.json` says, and its rows in one fixed order.

Everything that decides the model is in this folder, so a machine elsewhere needs a copy of it and nothing more.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import nights
from include.nightshift.errors import ConfigurationError, NightError, TrainingFailedError
from include.nightshift.train import recipes
from include.nightshift.train.checkpoint import write_durably
from include.nightshift.train.recipes import Recipe

if TYPE_CHECKING:
    import numpy as np

RUN = "run.json"
TRAIN_ROWS = "data/train"
HOLDOUT_ROWS = "data/holdout"
CHECKPOINTS = "checkpoints"
PROGRESS = "progress.jsonl"
MODEL = "model/model.ubj"
REFERENCE = "model/reference.json"
FEATURES = "model/features.json"
RESULT = "result.json"
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
        return cls(**raw | held | {"recipe": recipe, "features": tuple(raw["features"])})

    def save(self, folder: Path) -> None:
        """Write `<folder>/run.json` atomically, making the folder where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        raw = asdict(self) | {name: getattr(self, name) and getattr(self, name).isoformat() for name in _NIGHTS}
        raw["recipe"] = self.recipe.told()
        write_durably(folder / RUN, (json.dumps(raw, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Rows:
    """Rows in the order of their key, so that the layout of part files cannot reach the model."""

    matrix: np.ndarray
    """(rows, features); NaN stands for missing."""
    target: np.ndarray
    """(rows,), 0.0 or 1.0."""

    @property
    def digest(self) -> str:
        """SHA-256 of order, values and target."""
        digest = hashlib.sha256(repr((self.matrix.shape, str(self.matrix.dtype))).encode())
        digest.update(self.matrix.data)
        digest.update(self.target.data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.target)


def read_rows(folder: Path, run: TrainingRun, *, dtype: str = "float32") -> Rows:
    """All part files of a folder, sorted by key. The trees see float32; a reference for drift wants the doubles as stored.

    Raises:
        TrainingFailedError: no rows, a missing column, a key that is null or stands twice, a target that is neither 0 nor 1,
            an infinite feature.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _table(folder, [run.key, run.target, *run.features])
    if table.column(run.key).null_count or pc.count_distinct(table.column(run.key)).as_py() != len(table):
        raise TrainingFailedError(
            f"{folder}: {run.key} is null or stands twice among {len(table)} rows, so they have no order: pin the run again"
        )
    order = pc.sort_indices(table, sort_keys=[(run.key, "ascending")])

    def column(name: str) -> np.ndarray:
        return pc.cast(table.column(name), pa.from_numpy_dtype(dtype), safe=False).take(order).to_numpy()

    target = column(run.target).astype("float32")
    if not np.isin(target, (0, 1)).all():
        raise TrainingFailedError(f"{folder}: {run.target} holds something that is neither 0 nor 1: only matured rows can be learnt from")
    matrix = np.empty((len(table), len(run.features)), dtype=dtype)
    for position, name in enumerate(run.features):
        matrix[:, position] = column(name)
        if np.isinf(matrix[:, position].astype("float32")).any():
            raise TrainingFailedError(
                f"{folder}: feature {name} is infinite (as a 32-bit number) in some rows; missing is NaN or null: correct its SQL"
            )
    matrix[np.isnan(matrix)] = np.nan  # one bit pattern for missing, so that digests compare values
    return Rows(matrix, target)


def _table(folder: Path, columns: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.dataset as ds

    if not folder.is_dir():
        raise TrainingFailedError(f"{folder} is missing: the pin step writes it; pin the run again")
    try:
        table = ds.dataset(folder, format="parquet").to_table(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise TrainingFailedError(f"{folder}: its Parquet files cannot be read ({error}): pin the run again") from error
    if not len(table):
        raise TrainingFailedError(f"{folder} holds no rows: look at the nights in {RUN}, then pin the run again")
    return table


def has_rows(folder: Path) -> bool:
    """Whether a folder of part files holds any row."""
    import pyarrow.dataset as ds

    return folder.is_dir() and ds.dataset(folder, format="parquet").count_rows() > 0


def finished(folder: Path) -> dict[str, Any] | None:
    """The run's result, when it is complete: `result.json` stands and names the model beside it, byte for byte."""
    try:
        result = json.loads((folder / RESULT).read_text())
        model = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    except (FileNotFoundError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("model_sha256") == model else None


def _check_fields(path: Path, raw: object) -> None:
    names = {field.name for field in fields(TrainingRun)}
    found = set(raw) if isinstance(raw, dict) else set()
    if found != names:
        raise ConfigurationError(
            f"{path}: the run lacks {sorted(names - found) or 'nothing'} and has unknown {sorted(found - names) or 'nothing'}: "
            "pin the run again with this version of the code"
        )
