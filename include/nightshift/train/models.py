"""Models: a finished model read back, whatever its kind, to score rows and to give reasons.

A model's folder holds one file of the model, which is data and no code (a pickle would run whatever somebody put into it), and
`features.json`, which says its kind and the columns that it reads. A folder from before there were kinds holds trees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from include.nightshift.errors import ConfigurationError
from include.nightshift.train.recipes import Attention, Linear, Trees

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.nightshift.train.rows import Context

FEATURES = "features.json"
FILES: Mapping[str, str] = {Trees.kind: "model.ubj", Linear.kind: "model.json", Attention.kind: "model.safetensors"}
"""Name of the model's file, by kind."""


class Model(Protocol):
    """A model that scores rows, read from data."""

    @property
    def features(self) -> tuple[str, ...]:
        """Columns that it reads, in its order."""

    @property
    def context(self) -> Context | None:
        """None: a row's score depends on nothing but the row."""

    @property
    def rounding(self) -> float:
        """How far a row's score may move when other rows stand beside it in a call; 0 where it cannot."""

    def score(self, rows: pa.Table | pa.RecordBatch, asked: np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        """Scores in 0..1 as float64, of the rows that are asked for, in their order; the others are only looked at.

        `asked`: a truth value for each row; None asks for all. With a context, `rows` must hold key, entity and event time too, and
        earlier rows of the same entities as far as they exist; their order does not matter.
        """

    def reasons(self, rows: pa.Table | pa.RecordBatch, k: int, asked: np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        """Names of the k features that push each of these rows' scores up most, strongest first; None where no more do."""


def described(folder: Path) -> dict[str, Any]:
    """What `features.json` says; nothing where a folder has none, or one from before it said more than names."""
    try:
        said = json.loads((folder / FEATURES).read_text())
    except FileNotFoundError:
        return {}
    return said if isinstance(said, dict) else {}


def file(folder: Path) -> Path:
    """The file of the model in a folder; it need not exist.

    Raises:
        ConfigurationError: a kind that this code does not know.
    """
    return folder / FILES[_kind(described(folder))]


def sha256(folder: Path) -> str:
    """Hash of the model's file, by which it is known everywhere.

    Raises:
        FileNotFoundError: there is none.
    """
    return hashlib.sha256(file(folder).read_bytes()).hexdigest()


def load(folder: Path) -> Model:
    """The model of a folder.

    Raises:
        ConfigurationError: a kind that this code does not know.
        TrainingFailedError: its file is no model of that kind.
    """
    return loads(file(folder).read_bytes(), described(folder))


def loads(content: bytes, described: Mapping[str, Any]) -> Model:
    """A model from the bytes of its file and what its `features.json` says; see `load`."""
    match _kind(described):
        case Linear.kind:
            from include.nightshift.train import linear

            return linear.Weighted.loads(content)
        case Attention.kind:
            from include.nightshift.train import sequence

            return sequence.Reader.loads(content, described)
        case _:
            from include.nightshift.train import trees

            return trees.Boosted.loads(content)


def _kind(described: Mapping[str, Any]) -> str:
    kind = described.get("kind", Trees.kind)
    if kind not in FILES:
        raise ConfigurationError(f"a model of kind {kind!r} is none of {', '.join(FILES)}: read it with the code that made it")
    return str(kind)
