"""What `bench/gpu.py` says where there is no GPU, what it makes of measurements, and its measuring with the CPU in the GPU's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import gpu
from bench.gpu import LOST, NO_GPU, Compared, Pair, Sight, Trained, compared, main, shrunk, sight, verdict
from include.nightshift.train.recipes import Attention, Trees
from include.nightshift.train.trees import CPU
from include.usecases.card_fraud import recipes

TREES, SEQUENCE = recipes.trees(), recipes.sequence()
ON_CPU = Trained(CPU, rows=800, steps=100, seconds=60.0, learning=50.0, average_precision=0.75)
ON_GPU = Trained("NVIDIA H200", rows=800, steps=100, seconds=12.0, learning=2.0, average_precision=0.75)


@pytest.fixture
def no_gpu() -> None:
    if any(sight(recipe).gpu for recipe in (TREES, SEQUENCE)) or list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("there is a GPU here")


@pytest.mark.usefixtures("no_gpu")
def test_where_there_is_no_gpu_it_says_so_and_claims_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "gpu: no GPU here: nothing measured"
    assert sum(line.endswith(" sees no GPU") for line in said) == 2


def test_what_a_recipe_would_train_on_is_named() -> None:
    assert str(Sight(TREES, "xgboost 3.2.0", CPU)).endswith("xgboost 3.2.0 sees no GPU")
    assert str(Sight(SEQUENCE, "torch 2.13.0", "NVIDIA H200")).endswith("torch 2.13.0 sees NVIDIA H200")


@pytest.mark.parametrize(
    ("average_precision", "status", "said"),
    [(0.80, 0, "gpu: -0.0500 "), (0.75 - 0.9 * LOST, 0, "gpu: 0.0045 "), (0.75 - 1.1 * LOST, 1, "gpu: 0.0055 ")],
)
def test_it_is_short_where_the_gpus_model_ranks_worse(
    average_precision: float, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    worst = Pair("sequence", ON_CPU, replace(ON_GPU, average_precision=average_precision))
    assert verdict([worst], tells=True) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(said)
    assert "sequence 5.00 times as fast on NVIDIA H200, learning 25.00 times" in last
    assert last.endswith("target 0.005 short" if status else "target 0.005 ok")


def test_a_loss_on_too_few_rows_is_told_and_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict([Pair("trees", ON_CPU, replace(ON_GPU, average_precision=0.7))], tells=False) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("gpu: 0.0500 ")
    assert last.endswith("too little trained to judge that")


def test_the_recipe_that_loses_most_decides(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict([Pair("trees", ON_CPU, replace(ON_GPU, average_precision=0.7)), Pair("sequence", ON_CPU, ON_GPU)], tells=True) == 1
    assert "gpu: 0.0500 (average precision that trees loses on the GPU; trees 5.00" in capsys.readouterr().out


@pytest.mark.parametrize("pair", [Pair("trees", ON_CPU, ON_CPU), Pair("trees", ON_GPU, ON_GPU)])
def test_trainings_that_were_not_where_they_should_have_been_make_no_speed_up(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict([pair], tells=True) == 1
    said = capsys.readouterr().out
    assert said.endswith("so nothing was measured: short\n")
    assert "times as fast" not in said


def test_fewer_steps_make_a_smaller_recipe_and_more_change_nothing() -> None:
    assert shrunk(TREES, 3) == replace(TREES, rounds=3, rounds_per_chunk=3)
    assert shrunk(SEQUENCE, 2) == replace(SEQUENCE, epochs=2)
    assert shrunk(TREES, None) == shrunk(TREES, 10_000) == TREES
    assert shrunk(SEQUENCE, None) == shrunk(SEQUENCE, 10_000) == SEQUENCE


@pytest.mark.processes
@pytest.mark.parametrize(
    "recipe",
    [
        replace(TREES, rounds=4, rounds_per_chunk=2, max_bin=64),
        replace(SEQUENCE, width=16, heads=2, bins=8, past_rows=8, window=16, batch=8, epochs=1),
    ],
    ids=lambda recipe: recipe.name,
)
def test_it_trains_a_recipe_twice_on_the_same_rows_and_sees_where(recipe: Trees | Attention, tmp_path: Path) -> None:
    pair = compared(tmp_path, recipe, 2_000, NO_GPU)
    # The same machine twice gives the same model; a base rate of a quarter is what ranking by chance reaches.
    assert pair.lost == 0
    assert pair.cpu.average_precision > 0.25
    assert pair.cpu.device == pair.gpu.device == CPU
    assert pair.cpu.rows == pair.gpu.rows == 1_589
    assert pair.cpu.steps == pair.gpu.steps > 1
    assert all(0 < one.learning < one.seconds for one in (pair.cpu, pair.gpu))
    assert verdict([pair], tells=False) == 1


def test_a_training_that_fails_ends_the_bench_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"gpu: the training of .* ended with 1: (.|\n)*run.json is missing"):
        gpu.trained(tmp_path, NO_GPU)


@pytest.mark.parametrize("options", [["--rows", "1999"], ["--steps", "0"]])
def test_too_little_to_measure_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert "at least 2000 rows, and 1 step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "rows", "recipe", "status"),
    [
        ([], 500_000, SEQUENCE, 1),
        (["--steps", "10000"], 500_000, SEQUENCE, 1),
        (["--steps", "2"], 500_000, replace(SEQUENCE, epochs=2), 0),
        (["--rows", "5000"], 5_000, SEQUENCE, 0),
    ],
)
def test_with_a_gpu_every_recipe_that_takes_it_is_compared_and_judged_where_enough_is_trained(
    options: list[str], rows: int, recipe: Compared, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Asked:
        """A process that sees what this test plants."""

        def __init__(self, *given: object) -> None: ...
        def __enter__(self) -> Asked:
            return self

        def __exit__(self, *given: object) -> None: ...
        def map(self, ask: object, among: list[Compared]) -> list[Sight]:
            return [Sight(one, "a library", "NVIDIA H200" if one.name == "sequence" else CPU) for one in among]

    def twice(folder: Path, recipe: Compared, rows: int, second: dict[str, str]) -> Pair:
        asked.append((folder.name, recipe, rows, second))
        return Pair(recipe.name, ON_CPU, replace(ON_GPU, average_precision=0.7))

    monkeypatch.setattr(gpu, "ProcessPoolExecutor", Asked)
    monkeypatch.setattr(gpu, "compared", twice)
    assert main(options) == status
    assert asked == [("sequence", recipe, rows, {})]
