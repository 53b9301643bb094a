"""Served: a model of ours behind MLflow's `pyfunc`, read from its own files with neither Airflow nor Spark at hand.

MLflow calls `_load_pyfunc` of the module that a logged model names; the code comes along with the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift.train import models

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from include.nightshift.train.models import Model


class Served:
    """Scores a frame; where the model looks back, the frame's other rows are the context of each."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def predict(self, model_input: pd.DataFrame) -> np.ndarray:
        """Scores in 0..1, in the order of the rows."""
        import pyarrow as pa

        return self._model.score(pa.Table.from_pandas(model_input, preserve_index=False))


def _load_pyfunc(path: str) -> Served:
    return Served(models.load(Path(path)))
