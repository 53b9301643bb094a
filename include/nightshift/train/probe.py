"""Probe: some made-up rows and the scores that a model gave them when it was made.

Whoever has the model can see whether it still is what it was: read with its columns in another order, or by other code, it gives other
scores. The rows are nobody's: each column's quantiles, every column shifted against the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.train import models
from include.nightshift.train.checkpoint import write_durably

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PROBE = "probe.json"
"""Its name in a model's folder."""
ROWS = 64
_ENTITIES = 8
_DAY_MICROSECONDS = 86_400_000_000


def leave(folder: Path, matrix: np.ndarray, names: Mapping[str, Any]) -> None:
    """Score the probe rows of a finished model and keep both in its folder.

    Args:
        folder: the model's.
        matrix: (rows, features), what it was trained on or rows like it.
        names: what `features.json` says: features, key, entity, event time.
    """
    import numpy as np

    quantiles = np.nan_to_num(np.nanquantile(matrix, np.linspace(0, 1, ROWS), axis=0))
    columns = {name: np.roll(quantiles[:, place], 7 * place).tolist() for place, name in enumerate(names["features"])}
    scores = models.load(folder).score(_table(columns, names))
    write_durably(folder / PROBE, json.dumps({"columns": columns, "scores": scores.tolist()}).encode())


def distance(folder: Path) -> float | None:
    """The largest distance between the scores of now and then, beyond the model's own rounding; None where it left no probe."""
    try:
        left = json.loads((folder / PROBE).read_text())
    except FileNotFoundError:
        return None
    import numpy as np

    model = models.load(folder)
    apart = abs(model.score(_table(left["columns"], models.described(folder))) - np.array(left["scores"]))
    return max(0.0, float(apart.max()) - model.rounding)


def _table(columns: Mapping[str, Any], names: Mapping[str, Any]) -> pa.Table:
    """The rows, each the newest of one of a few entities, a day after its last."""
    import pyarrow as pa

    numbers = list(range(ROWS))
    told = {
        names["key"]: pa.array(numbers, pa.int64()),
        names["entity"]: pa.array([number % _ENTITIES for number in numbers], pa.int64()),
        names["event_time"]: pa.array([number // _ENTITIES * _DAY_MICROSECONDS for number in numbers], pa.timestamp("us", "UTC")),
    }
    return pa.table(told | {name: pa.array(values, pa.float64()) for name, values in columns.items()})
