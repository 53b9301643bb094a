"""What may be searched, and what it may cost: told and read back, and refused with advice where it makes no sense."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.train import recipes
from include.nightshift.train.recipes import Attention, Linear, Trees
from include.nightshift.train.run import TrainingRun
from include.nightshift.train.space import Between, OneOf, Search

SPACE: dict[str, Between | OneOf] = {
    "learning_rate": Between(0.02, 0.4, log=True),
    "max_depth": Between(3, 9),
    "max_bin": OneOf((256, 1024)),
}


def trees(**fields: Any) -> Trees:
    return Trees(**{"name": "trees"} | fields)


def test_a_run_gives_back_a_recipe_with_its_search(make_run: Callable[..., Path]) -> None:
    recipe = trees(search=Search(space=SPACE, trials=7, seconds=60.0, money=1.5, validation_nights=5))
    assert TrainingRun.load(make_run(recipe=recipe)).recipe == recipe


def test_a_recipe_without_a_search_says_nothing_of_one() -> None:
    assert "search" not in trees().told()
    assert recipes.of(json.loads(json.dumps(trees().told())), "x") == trees()


def test_a_variant_has_the_other_values_and_nothing_to_search() -> None:
    recipe = trees(search=Search(space=SPACE, trials=3))
    assert recipe.varied({"max_depth": 4}) == trees(max_depth=4)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (lambda: {"depth": Between(3, 9)}, "'depth' is no field that can be searched; those are colsample_bytree, learning_rate, max_bin"),
        (lambda: {"seed": Between(1, 9)}, "'seed' is no field that can be searched"),
        (lambda: {"max_depth": Between(3.0, 9)}, r"max_depth holds int, and \[3.0\] do not fit"),
        (lambda: {"learning_rate": OneOf((0.1, "fast"))}, r"learning_rate holds float, and \['fast'\] do not fit"),
        (lambda: {"max_depth": Between(7, 9)}, "own max_depth is 6, outside .*tried first: widen the space, or change it"),
        (lambda: {"max_depth": OneOf((3, 9))}, "own max_depth is 6, outside"),
        (lambda: {"max_depth": Between(0, 9)}, "recipe trees: max_depth is at least 1, not 0"),
        (lambda: {"subsample": Between(0.5, 1.5)}, r"subsample lies in \(0, 1\], not 1.5"),
        (lambda: {"rounds": Between(10, 200)}, "1 <= rounds_per_chunk <= rounds, not 20 and 10"),
        (lambda: {"max_depth": Between(9, 3)}, "between 9 and 3 lies nothing"),
        (lambda: {"max_depth": Between(6, 6)}, "between 6 and 6 lies nothing"),
        (lambda: {"reg_lambda": Between(0, math.inf)}, "between 0 and inf lies nothing"),
        (lambda: {"reg_lambda": Between(math.nan, 3)}, "lies nothing"),
        (lambda: {"reg_lambda": Between(0.0, 3.0, log=True)}, "a logarithm begins above 0, not at 0.0"),
        (lambda: {"max_bin": OneOf(())}, r"one of \(\) is no choice"),
        (lambda: {"max_bin": OneOf((256, 1024, 256))}, "is no choice: give at least two values, each once"),
    ],
)
def test_an_ugly_space_is_refused_with_advice(space: Callable[[], dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        trees(search=Search(space=space(), trials=3))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"trials": 0}, "trials and validation_nights are at least 1"),
        ({"validation_nights": 0}, "trials and validation_nights are at least 1"),
        ({"seconds": 0.0}, "seconds is above 0, not 0.0; leave it out where any amount will do"),
        ({"money": math.nan}, "money is above 0, not nan"),
        ({"space": {}}, "3 trials of the same recipe: name in `space` what may vary"),
    ],
)
def test_a_budget_that_buys_nothing_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Search(**{"space": SPACE, "trials": 3} | fields)


def test_switches_and_whole_numbers_are_told_apart() -> None:
    assert Attention(name="s", search=Search(space={"bfloat16": OneOf((True, False))}, trials=2)).search
    with pytest.raises(ConfigurationError, match="compiled is no number: write OneOf"):
        Attention(name="s", search=Search(space={"compiled": Between(0, 1)}, trials=2))
    with pytest.raises(ConfigurationError, match=r"steps holds int, and \[True\] do not fit"):
        Linear(name="l", steps=1, search=Search(space={"steps": OneOf((2, True))}, trials=2))


@pytest.mark.parametrize(
    "search", [{"space": {"max_depth": {"values": [6, 6]}}}, {"space": {"max_depth": {"from": 3}}}, {"tries": 3}, "all"]
)
def test_a_told_search_that_cannot_be_is_refused_with_its_place(search: object) -> None:
    with pytest.raises(ConfigurationError):
        recipes.of(trees().told() | {"search": search}, "run.json")
