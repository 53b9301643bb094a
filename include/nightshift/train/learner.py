"""Learner: a model in the making, as the training program drives it, whatever the recipe.

A learner advances by *stretches*: as many steps as must be done in one go to be repeatable. Between stretches its state is all that the
next one depends on, beside the rows, the recipe and the machine's own way of adding up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from include.nightshift.errors import CheckpointError, ConfigurationError
from include.nightshift.train import trees
from include.nightshift.train.recipes import Attention, Linear, Trees

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from include.nightshift.train.recipes import Recipe
    from include.nightshift.train.rows import Rows
    from include.nightshift.train.run import TrainingRun


class Learner(Protocol):
    """One recipe on one set of rows."""

    @property
    def steps(self) -> int:
        """Steps of the whole training: trees, or updates of the weights."""

    @property
    def step(self) -> int:
        """Steps done."""

    def advance(self, after_step: Callable[[int], None]) -> float:
        """Do the next stretch; returns the log-loss on the rows learnt from.

        `after_step` is called with the steps that the stretch still has to go; what it raises gives the stretch up.

        Raises:
            TrainingFailedError: the loss is no longer a finite number.
        """

    def state(self) -> Sequence[Buffer]:
        """All that the next stretch depends on; valid until that begins."""

    def restore(self, step: int, state: bytes) -> None:
        """Go on from a state, which is that of so many steps done."""

    def model(self) -> bytes:
        """The finished model, in a format that holds data and no code."""


def this_machine(recipe: Recipe) -> dict[str, str | int]:
    """What the arithmetic of a training of this recipe that begins here will depend on."""
    match recipe:
        case Linear():
            from include.nightshift.train import linear

            return linear.machine()
        case Attention():
            from include.nightshift.train import sequence

            return sequence.machine()
    return trees.machine()


def begin(run: TrainingRun, rows: Rows, machine: Mapping[str, str | int]) -> Learner:
    """The learner of the run's recipe, at its first step, adding up as that machine does.

    Raises:
        CheckpointError: this machine cannot add up as that one does.
    """
    _check_alike(machine, this_machine(run.recipe), run.recipe)
    match run.recipe:
        case Trees():
            return trees.Boosting(rows, run.features, run.recipe, int(machine["threads"]), str(machine["device"]))
        case Linear():
            from include.nightshift.train import linear

            return linear.Fitting(rows, run.features, run.recipe, int(machine["threads"]))
        case Attention():
            from include.nightshift.train import sequence

            return sequence.Training(rows, run.features, run.recipe, machine)
    raise ConfigurationError(f"no learner makes recipes of kind {run.recipe.kind!r}: name one in {__name__}")


def _check_alike(asked: Mapping[str, str | int], here: Mapping[str, str | int], recipe: Recipe) -> None:
    """Any machine can run as many threads as another. And all have cores: trees that began on some go on there, beside a GPU too."""
    on_cores = isinstance(recipe, Trees) and asked.get("device") == trees.CPU
    at_will = {"threads", "device"} if on_cores else {"threads"}
    if other := sorted(name for name in asked.keys() - at_will if asked[name] != here.get(name)):
        raise CheckpointError(
            f"this training began on {' and '.join(f'{name} {asked[name]}' for name in other)}, here is "
            f"{' and '.join(f'{name} {here.get(name)}' for name in other)}, which rounds otherwise: going on would give another model. "
            "Start it on a machine like the first, or pin a new run"
        )


def follow(run: TrainingRun, rows: Rows, after_step: Callable[[int], None]) -> None:
    """Take part in a training that another process of this machine leads (`train.ranks`); returns when it is done."""
    # Trees and the linear model are one process's work: then there is nothing to do here.
    if isinstance(run.recipe, Attention):
        from include.nightshift.train import sequence

        sequence.Training(rows, run.features, run.recipe, sequence.machine()).follow(after_step)


def code(recipe: Recipe) -> str:
    """Names the code that makes the recipe's model: under other code a state means something else. `sources`, and after a space the
    library that does the work, as this machine has it."""
    match recipe:
        case Linear():
            import numpy

            return f"{sources(recipe)} numpy {numpy.__version__}"
        case Attention():
            import torch

            return f"{sources(recipe)} torch {torch.__version__}"
    import xgboost

    return f"{sources(recipe)} xgboost {xgboost.__version__}"


def sources(recipe: Recipe) -> str:
    """SHA-256 of our own code that makes the recipe's model; needs none of the libraries that train it."""
    own = {Linear.kind: ("linear",), Attention.kind: ("sequence", "ranks")}.get(recipe.kind, ("trees",))
    files = [Path(__file__).with_name(f"{name}.py") for name in (*own, "rows", "run")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
