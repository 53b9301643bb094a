"""Linear: logistic regression on standardised features, by Newton's method; the baseline that anything dearer has to beat.

A feature enters as (value - mean) / standard deviation, the median standing in for what is missing, and with an indicator of its own for
being missing. All of that is taken from the training rows. Newton's method (iteratively reweighted least squares; Hastie, Tibshirani,
Friedman, *The Elements of Statistical Learning*, section 4.4.1) needs no step size, and its state is the weights: a resumed run is exact.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from include.nightshift.errors import TrainingFailedError
from include.nightshift.train import reasons
from include.nightshift.train.recipes import Linear
from include.nightshift.train.rows import Context, Rows, as_matrix

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Buffer

BLOCK = 65_536
"""Rows that are standardised at a time: the doubles of all of them together would be the largest thing in memory."""


@dataclass(frozen=True)
class Term:
    """What one feature brings into the sum."""

    feature: str
    mean: float
    scale: float
    """Standard deviation; 1 for a column that has none."""
    median: float
    """Stands in for a missing value."""
    weight: float = 0.0
    missing: float = 0.0
    """Added where the value is missing."""

    @classmethod
    def of(cls, feature: str, values: np.ndarray) -> Term:
        """Without weights yet. A feature that is missing everywhere has only its indicator."""
        known = values[~np.isnan(values)].astype("float64")
        if not len(known):
            return cls(feature, 0.0, 1.0, 0.0)
        return cls(feature, float(known.mean()), float(known.std()) or 1.0, float(np.median(known)))

    def standard(self, values: np.ndarray) -> np.ndarray:
        """The values as standard deviations from the mean."""
        return (np.where(np.isnan(values), self.median, values) - self.mean) / self.scale


def machine() -> dict[str, str | int]:
    """What the arithmetic of a training that begins here will depend on."""
    from threadpoolctl import threadpool_info

    kernels = {str(library["architecture"]) for library in threadpool_info() if library.get("architecture")}
    return {"threads": os.cpu_count() or 1, "instructions": " ".join(sorted(kernels))}


class Fitting:
    """The learner (`train.learner`) of the linear model: a stretch is one Newton step, the state is the weights."""

    def __init__(self, rows: Rows, features: Sequence[str], recipe: Linear, threads: int) -> None:
        self._rows, self._recipe, self._threads = rows, recipe, threads
        self._terms = [Term.of(name, rows.matrix[:, place]) for place, name in enumerate(features)]
        # A weight for each feature, one for its being missing, and the intercept last.
        self._weights = np.zeros(2 * len(features) + 1)
        self._step = 0

    @property
    def steps(self) -> int:
        return self._recipe.steps

    @property
    def step(self) -> int:
        return self._step

    def advance(self, after_step: Callable[[int], None]) -> float:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(self._threads):
            loss, gradient, curvature = self._slopes()
            direction = np.linalg.solve(curvature, gradient)
            loss = self._descend(loss, direction)
        self._step += 1
        if not math.isfinite(loss):
            raise TrainingFailedError(
                f"the training loss is {loss} after step {self._step}: raise reg_lambda ({self._recipe.reg_lambda}) "
                f"in recipe {self._recipe.name}"
            )
        after_step(0)
        return loss / len(self._rows)

    def _descend(self, loss: float, direction: np.ndarray) -> float:
        """Take the step, or as much of it as does not climb; the loss is convex, so a short enough one never does."""
        penalised = loss + self._penalty(self._weights)
        for halvings in range(30):
            weights = self._weights - direction / 2**halvings
            reached = sum(float(_loss(design @ weights, target).sum()) for design, target in self._blocks())
            if not reached + self._penalty(weights) > penalised:  # NaN goes on, to be told as such
                self._weights = weights
                return reached
        return loss

    def _slopes(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The loss, and its first and second derivatives by the weights, with the penalty."""
        free = np.append(np.full(len(self._weights) - 1, self._recipe.reg_lambda), 0.0)
        loss, gradient, curvature = 0.0, free * self._weights, np.diag(free)
        for design, target in self._blocks():
            margin = design @ self._weights
            chance = _chance(margin)
            loss += float(_loss(margin, target).sum())
            gradient += design.T @ (chance - target)
            curvature += (design * (chance * (1 - chance))[:, None]).T @ design
        return loss, gradient, curvature

    def _penalty(self, weights: np.ndarray) -> float:
        return 0.5 * self._recipe.reg_lambda * float(np.square(weights[:-1]).sum())

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for begin in range(0, len(self._rows), BLOCK):
            values = self._rows.matrix[begin : begin + BLOCK].astype("float64")
            standard = [term.standard(values[:, place]) for place, term in enumerate(self._terms)]
            design = np.column_stack([*standard, np.isnan(values), np.ones(len(values))])
            yield design, self._rows.target[begin : begin + BLOCK].astype("float64")

    def state(self) -> Sequence[Buffer]:
        return [json.dumps(self._weights.tolist()).encode()]  # repr of a double gives back that double

    def restore(self, step: int, state: bytes) -> None:
        self._step, self._weights = step, np.array(json.loads(state))

    def model(self) -> bytes:
        *weights, intercept = self._weights.tolist()
        weight, missing = weights[: len(self._terms)], weights[len(self._terms) :]
        terms = [
            asdict(term) | {"weight": own, "missing": without}
            for term, own, without in zip(self._terms, weight, missing, strict=True)
        ]  # fmt: skip
        return (json.dumps({"intercept": intercept, "terms": terms}, indent=1) + "\n").encode()


@dataclass(frozen=True)
class Weighted:
    """The finished model (`train.models`)."""

    intercept: float
    terms: tuple[Term, ...]

    @classmethod
    def loads(cls, content: bytes) -> Weighted:
        """From the bytes of `model.json`.

        Raises:
            TrainingFailedError: these bytes are no model.
        """
        try:
            told = json.loads(content)
            return cls(float(told["intercept"]), tuple(Term(**term) for term in told["terms"]))
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingFailedError(
                f"{len(content)} bytes cannot be read as a linear model ({error!r}): take it from its MLflow run again"
            ) from error

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(term.feature for term in self.terms)

    @property
    def context(self) -> Context | None:
        return None

    @property
    def rounding(self) -> float:
        return 0.0

    def score(self, rows: pa.Table | pa.RecordBatch, asked: np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        # Summed feature by feature: a product of matrices would round by how many rows it is given at once.
        margin = np.full(rows.num_rows if asked is None else int(asked.sum()), self.intercept)
        for push in self._pushes(rows, asked):
            margin += push
        return _chance(margin)

    def reasons(self, rows: pa.Table | pa.RecordBatch, k: int, asked: np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        return reasons.strongest(np.column_stack(list(self._pushes(rows, asked))), self.features, k)

    def _pushes(self, rows: pa.Table | pa.RecordBatch, asked: np.ndarray | None) -> Iterator[np.ndarray]:
        """What each feature adds to the log-odds, beside the row of means."""
        matrix = as_matrix(rows, self.features).astype("float64")
        for term, values in zip(self.terms, (matrix if asked is None else matrix[asked]).T, strict=True):
            values = np.ascontiguousarray(values)
            yield term.weight * term.standard(values) + term.missing * np.isnan(values)


def _chance(margin: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-margin)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -margin))


def _loss(margin: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, margin) - target * margin
