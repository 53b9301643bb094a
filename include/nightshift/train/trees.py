"""Boosted trees: one chunk of training as a pure function, and the scores and reasons of the model that comes out.

XGBoost up to 3.2 cannot resume exactly with row or column sampling: the samplers' state is not in the model file (xgboost issue
10324). So training goes in chunks, *always*. Each is a training of its own, with its own seed, upon the margins (log-odds) that the rows
had reached before it: chunk k is a function of those margins, the rows, the recipe and k, and where a run was interrupted leaves no trace
in the model. The model is the chunks' trees in a row. Handing on the margins, not the model, also saves working them out anew: at 2,000
trees on 800,000 rows that took an eighth of the time. On a GPU it is what makes a resumed run exact: there XGBoost works out the margins
of rows that it has not trained on yet by another path, and comes to other last bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import ConfigurationError, TrainingFailedError
from include.nightshift.train import gpus
from include.nightshift.train.recipes import Trees
from include.nightshift.train.rows import as_matrix

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import xgboost as xgb
    from typing_extensions import Buffer

    from include.nightshift.train.rows import Context, Rows


CPU = "cpu"
"""The device of a machine whose trees grow on its cores."""


def machine() -> dict[str, str | int]:
    """What the arithmetic of a training that begins here will depend on."""
    gpu = gpus.name()
    return {"threads": os.cpu_count() or 1, "device": gpu if gpu and _takes_a_gpu() else CPU}


@cache
def _takes_a_gpu() -> bool:
    """Whether XGBoost trains on a GPU here: it has no question for that, but asked for a GPU it says what it took."""
    import numpy as np
    import xgboost as xgb

    with xgb.config_context(verbosity=0):
        grown = xgb.train({"device": "cuda"}, xgb.DMatrix(np.arange(2.0)[:, None], np.arange(2.0)), 1)
        return str(json.loads(grown.save_config())["learner"]["generic_param"]["device"]) != CPU


def rounds_done(recipe: Trees, chunks_done: int) -> int:
    """Trees after so many chunks; the last chunk may be shorter."""
    return min(recipe.rounds, chunks_done * recipe.rounds_per_chunk)


def chunk_seed(seed: int, chunk: int) -> int:
    """A seed per chunk: unrelated to its neighbours', and nothing but these two numbers decide it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{chunk}".encode()).digest()[:4], "big") >> 1


def quantise(rows: Rows, features: Sequence[str], recipe: Trees, threads: int) -> xgb.QuantileDMatrix:
    """The rows as histogram bins: done once per process, the same on every machine."""
    import xgboost as xgb

    return xgb.QuantileDMatrix(rows.matrix, rows.target, feature_names=list(features), max_bin=recipe.max_bin, nthread=threads)


def boost(
    margins: np.ndarray | None,
    matrix: xgb.QuantileDMatrix,
    recipe: Trees,
    chunk: int,
    threads: int,
    after_round: Callable[[int], None] = lambda rounds_left: None,
    device: str = CPU,
) -> tuple[bytes, np.ndarray, float]:
    """Grow one chunk's trees; returns them, the rows' margins with them, and the log-loss on the training rows.

    `margins` are those of the chunk before, None for the first. `after_round` is called with the rounds that this chunk still has to go;
    what it raises ends the chunk. `device`: as XGBoost calls it, `cpu` or `cuda`.

    Raises:
        TrainingFailedError: the loss is no longer a finite number.
    """
    import xgboost as xgb

    if margins is not None:
        matrix.set_base_margin(margins)
    booster = xgb.Booster(_parameters(recipe, chunk, threads, device), [matrix])
    begin, end = rounds_done(recipe, chunk), rounds_done(recipe, chunk + 1)
    for number in range(end - begin):
        booster.update(matrix, number)
        loss = float(booster.eval_set([(matrix, "train")], number).rpartition(":")[2])
        if not math.isfinite(loss):
            raise TrainingFailedError(
                f"the training loss is {loss} after round {begin + number + 1}: the trees diverge. "
                f"Lower learning_rate ({recipe.learning_rate}) or raise reg_lambda ({recipe.reg_lambda}) in recipe {recipe.name}"
            )
        after_round(end - begin - number - 1)
    # Known already: this object keeps the margins of what it trains on, which `xgb.train` would have thrown away.
    return bytes(booster.save_raw("ubj")), booster.predict(matrix, output_margin=True), loss


def joined(chunks: Sequence[bytes]) -> bytes:
    """One model with the trees of all chunks, in their order; the base rate is the first one's."""
    import xgboost as xgb

    whole, *others = [json.loads(load_booster(chunk).save_raw("json")) for chunk in chunks]
    forest = whole["learner"]["gradient_booster"]["model"]
    for other in others:
        more = other["learner"]["gradient_booster"]["model"]
        forest["trees"] += more["trees"]
        forest["tree_info"] += more["tree_info"]
        forest["iteration_indptr"] += [forest["iteration_indptr"][-1] + end for end in more["iteration_indptr"][1:]]
    for number, tree in enumerate(forest["trees"]):
        tree["id"] = number
    forest["gbtree_model_param"]["num_trees"] = str(len(forest["trees"]))
    return bytes(xgb.Booster(model_file=bytearray(json.dumps(whole).encode())).save_raw("ubj"))


class Boosting:
    """The learner (`train.learner`) of boosted trees: a stretch is a chunk, the state is the chunks so far and the rows' margins."""

    def __init__(self, rows: Rows, features: Sequence[str], recipe: Trees, threads: int, device: str = CPU) -> None:
        """`device`: `CPU`, or the name of the GPU (see `machine`)."""
        self._rows, self._features, self._recipe, self._threads = rows, features, recipe, threads
        self._device = CPU if device == CPU else "cuda"
        self._matrix: xgb.QuantileDMatrix | None = None
        self._margins: np.ndarray | None = None
        self._chunks: list[bytes] = []

    @property
    def steps(self) -> int:
        return self._recipe.rounds

    @property
    def step(self) -> int:
        return rounds_done(self._recipe, len(self._chunks))

    def quantise(self) -> xgb.QuantileDMatrix:
        """Bin the rows, once."""
        if self._matrix is None:
            self._matrix = quantise(self._rows, self._features, self._recipe, self._threads)
        return self._matrix

    def advance(self, after_step: Callable[[int], None]) -> float:
        done = len(self._chunks)
        chunk, self._margins, loss = boost(self._margins, self.quantise(), self._recipe, done, self._threads, after_step, self._device)
        self._chunks.append(chunk)
        return loss

    def state(self) -> Sequence[Buffer]:
        """The length of each part, in a line; then the margins and the chunks."""
        parts = [] if self._margins is None else [self._margins.data.cast("B"), *self._chunks]
        return [json.dumps([len(part) for part in parts]).encode() + b"\n", *parts]

    def restore(self, step: int, state: bytes) -> None:
        import numpy as np

        head, parts = state.index(b"\n"), []
        begin = head + 1
        for length in json.loads(state[:head]):
            parts.append(state[begin : begin + length])
            begin += length
        self._margins, self._chunks = np.frombuffer(parts[0], dtype="float32"), parts[1:]

    def model(self) -> bytes:
        return joined(self._chunks)


def load_booster(model: Path | bytes) -> xgb.Booster:
    """A model from its file or its bytes (UBJSON).

    Raises:
        TrainingFailedError: these bytes are no model.
    """
    import xgboost as xgb

    try:
        return xgb.Booster(model_file=bytearray(model) if isinstance(model, bytes) else model)
    except xgb.core.XGBoostError as error:
        what = f"{len(model)} bytes" if isinstance(model, bytes) else str(model)
        raise TrainingFailedError(
            f"{what} cannot be read as a model ({str(error).splitlines()[0]}): take it from its MLflow run again"
        ) from error


def predict(booster: xgb.Booster, matrix: np.ndarray, feature_names: Sequence[str], *, threads: int = 1) -> np.ndarray:
    """Scores in 0..1 as float64, one per row; the gate and the nightly scores both come from here.

    Raises:
        ConfigurationError: the columns are not the model's columns in the model's order.
    """
    _check_columns(booster, matrix, feature_names)
    booster.set_param({"nthread": threads})
    return booster.inplace_predict(matrix, validate_features=False).astype("float64")


def contributions(booster: xgb.Booster, matrix: np.ndarray, feature_names: Sequence[str], *, threads: int = 1) -> np.ndarray:
    """What each feature adds to each row's log-odds, (rows, features): exact Shapley values by TreeSHAP.

    Lundberg, Erion, Lee, "Consistent individualized feature attribution for tree ensembles", 2018 (arXiv 1802.03888). Costs
    some four hundred times a prediction (0.7 ms a row for 120 trees of depth 6): ask for the rows that people look at.

    Raises:
        ConfigurationError: the columns are not the model's columns in the model's order.
    """
    import numpy as np
    import xgboost as xgb

    _check_columns(booster, matrix, feature_names)
    booster.set_param({"nthread": threads})
    if not len(matrix):  # a night, or a batch of one, may be empty; XGBoost then forgets the second dimension
        return np.empty(matrix.shape, dtype="float32")
    rows = xgb.DMatrix(matrix, feature_names=list(feature_names), nthread=threads)
    return booster.predict(rows, pred_contribs=True)[:, :-1]  # the last column is the base rate, the same for all


def top_reasons(booster: xgb.Booster, matrix: np.ndarray, feature_names: Sequence[str], k: int = 3, *, threads: int = 1) -> np.ndarray:
    """Names of the k features that push each row's score up most, (rows, k), strongest first; None where no more do.

    Raises:
        ConfigurationError: the columns are not the model's columns in the model's order.
    """
    from include.nightshift.train import reasons

    return reasons.strongest(contributions(booster, matrix, feature_names, threads=threads), feature_names, k)


@dataclass(frozen=True)
class Boosted:
    """The finished model (`train.models`)."""

    booster: xgb.Booster

    @classmethod
    def loads(cls, content: bytes) -> Boosted:
        """From the bytes of `model.ubj`.

        Raises:
            TrainingFailedError: these bytes are no model.
        """
        return cls(load_booster(content))

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.booster.feature_names or ())

    @property
    def context(self) -> Context | None:
        return None

    @property
    def rounding(self) -> float:
        return 0.0

    def score(self, rows: pa.Table | pa.RecordBatch, asked: np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        return predict(self.booster, self._matrix(rows, asked), self.features, threads=threads)

    def reasons(self, rows: pa.Table | pa.RecordBatch, k: int, asked: np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        return top_reasons(self.booster, self._matrix(rows, asked), self.features, k, threads=threads)

    def _matrix(self, rows: pa.Table | pa.RecordBatch, asked: np.ndarray | None) -> np.ndarray:
        whole = as_matrix(rows, self.features)
        return whole if asked is None else whole[asked]


def _parameters(recipe: Trees, chunk: int, threads: int, device: str = CPU) -> dict[str, Any]:
    return {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "device": device,
        "learning_rate": recipe.learning_rate,
        "max_depth": recipe.max_depth,
        "min_child_weight": recipe.min_child_weight,
        "subsample": recipe.subsample,
        "colsample_bytree": recipe.colsample_bytree,
        "reg_lambda": recipe.reg_lambda,
        "max_bin": recipe.max_bin,
        "nthread": threads,
        "seed": chunk_seed(recipe.seed, chunk),
    }


def _check_columns(booster: xgb.Booster, matrix: np.ndarray, feature_names: Sequence[str]) -> None:
    if booster.feature_names != list(feature_names) or matrix.shape[1] != len(feature_names):
        raise ConfigurationError(
            f"the model reads {booster.feature_names}, but was given {matrix.shape[1]} columns named {list(feature_names)}: "
            "give it its own features in its own order (features.json)"
        )
