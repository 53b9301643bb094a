"""Reasons: from what each feature adds to a row's score to the names that people read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def strongest(pushes: np.ndarray, names: Sequence[str], k: int) -> np.ndarray:
    """Names of the k features that push each row's score up most, (rows, k), strongest first; None where no more do."""
    places = np.argsort(-pushes, axis=1, kind="stable")[:, :k]
    reasons = np.full((len(pushes), k), None, dtype=object)
    told = np.array(names, dtype=object)[places]
    up = np.take_along_axis(pushes, places, axis=1) > 0
    reasons[:, : told.shape[1]][up] = told[up]
    return reasons
