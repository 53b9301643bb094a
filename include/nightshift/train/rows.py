"""Rows, as a recipe learns from them and a model scores them; where they come from is `train.run`'s business."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """Rows in the order of their key, so that the layout of part files cannot reach the model."""

    matrix: np.ndarray
    """(rows, features); NaN stands for missing."""
    target: np.ndarray
    """(rows,), 0.0 or 1.0; NaN for a row that is only looked at, because nobody told how it ended."""
    entity: np.ndarray
    """(rows,), whose row it is."""
    seconds: np.ndarray
    """(rows,), when it happened, since 1970 in UTC."""

    @property
    def digest(self) -> str:
        """SHA-256 of order and content."""
        digest = hashlib.sha256(repr((self.matrix.shape, str(self.matrix.dtype))).encode())
        for part in (self.matrix, self.target, self.entity, self.seconds):
            digest.update(part.data)
        return digest.hexdigest()

    @property
    def told(self) -> np.ndarray:
        """(rows,), which of them can be learnt from."""
        told: np.ndarray = self.target == self.target
        return told

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Context:
    """What a row's score may look at beside the row itself: earlier rows of the same entity."""

    rows: int
    """So many, the row itself among them."""
    days: int
    """None from longer ago."""


def as_matrix(rows: pa.Table | pa.RecordBatch, names: Sequence[str]) -> np.ndarray:
    """The columns of Arrow rows side by side, (rows, names); null is NaN."""
    import numpy as np

    return np.column_stack([rows.column(name).to_numpy(zero_copy_only=False) for name in names])


def seconds(times: Any) -> np.ndarray:
    """An Arrow column of timestamps as seconds since 1970, float64: exact to the microsecond for some centuries."""
    import numpy as np
    import pyarrow as pa

    whole: np.ndarray = times.cast(pa.timestamp("us", tz=times.type.tz), safe=False).cast(pa.int64()).to_numpy()
    return whole / np.float64(1e6)
