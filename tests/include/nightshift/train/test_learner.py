"""Learner: what a training's arithmetic depends on, and that no other machine goes on with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from include.nightshift.errors import CheckpointError
from include.nightshift.train import learner, sequence, trees
from include.nightshift.train.recipes import Attention, Linear, Recipe, Trees
from include.nightshift.train.run import TrainingRun, learnt_rows

SMALL = [
    Linear(name="linear"),
    Trees(name="trees", rounds=4, rounds_per_chunk=2, max_depth=2),
    Attention(name="sequence", width=16, heads=2, bins=8, past_rows=4, window=8, batch=8, epochs=1),
]


@pytest.fixture
def begin(make_run: Callable[..., Path]) -> Callable[..., learner.Learner]:
    """Begin a recipe as on some machine: on this one but for what is named."""

    def begun(recipe: Recipe, **other: str | int) -> learner.Learner:
        folder = make_run(recipe=recipe, count=60)
        run = TrainingRun.load(folder)
        return learner.begin(run, learnt_rows(folder, run), learner.this_machine(recipe) | other)

    return begun


@pytest.mark.parametrize("recipe", SMALL, ids=lambda recipe: recipe.name)
def test_another_number_of_cores_is_no_other_machine(recipe: Recipe, begin: Callable[..., learner.Learner]) -> None:
    assert begin(recipe, threads=int(learner.this_machine(recipe)["threads"]) + 1).step == 0


@pytest.mark.parametrize(
    ("recipe", "other"),
    [
        (SMALL[0], {"instructions": "Zen"}),
        (SMALL[1], {"device": "NVIDIA H100"}),
        (SMALL[2], {"device": "NVIDIA H100"}),
        (SMALL[2], {"processes": 4}),
        (SMALL[2], {"instructions": "AVX1024"}),
    ],
    ids=lambda what: what.name if isinstance(what, Linear | Trees | Attention) else next(iter(what)),
)
def test_a_machine_that_rounds_otherwise_is_refused(
    recipe: Recipe, other: dict[str, str | int], begin: Callable[..., learner.Learner]
) -> None:
    [(name, value)] = other.items()
    here = learner.this_machine(recipe)[name]
    with pytest.raises(CheckpointError, match=rf"began on {name} {value}, here is {name} {here}, which rounds otherwise: .*pin a new run"):
        begin(recipe, **other)


def test_trees_that_began_on_cores_go_on_there_beside_a_gpu_and_a_network_does_not(
    begin: Callable[..., learner.Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, boost = [], trees.boost
    monkeypatch.setattr(trees, "boost", lambda *asked: (devices.append(asked[-1]), boost(*asked))[1])
    monkeypatch.setattr(trees, "machine", lambda: {"threads": 1, "device": "NVIDIA L4"})
    monkeypatch.setattr(sequence, "machine", lambda: {"threads": 1, "processes": 1, "device": "NVIDIA L4"})
    begin(SMALL[1], device="cpu").advance(lambda left: None)
    assert devices == ["cpu"]
    with pytest.raises(CheckpointError, match="began on device cpu, here is device NVIDIA L4"):
        begin(SMALL[2], device="cpu")


def test_trees_of_a_machine_with_a_gpu_grow_on_it(begin: Callable[..., learner.Learner], monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    monkeypatch.setattr(trees, "boost", lambda *asked: (devices.append(asked[-1]), (b"", None, 0.0))[1])
    monkeypatch.setattr(trees, "machine", lambda: {"threads": 1, "device": "NVIDIA L4"})
    begin(SMALL[1]).advance(lambda left: None)
    assert devices == ["cuda"]
    assert trees._parameters(SMALL[1], 0, 1, "cuda")["device"] == "cuda"
