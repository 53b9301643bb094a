"""Recipes as types: what is told is read back as the same type, and what cannot be is refused with the field's name."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.train import recipes
from include.nightshift.train.recipes import Attention, Linear, Recipe, Trees
from include.nightshift.train.run import TrainingRun
from include.usecases.card_fraud import recipes as card_fraud
from include.usecases.card_fraud.usecase import USE_CASE

SOME = Trees(name="d", rounds=30, features=("f2", "f1"), train_nights=7)


@pytest.mark.parametrize("recipe", [SOME, Trees(name="a", rounds=30), Linear(name="b", steps=3), Attention(name="c", width=64, heads=2)])
def test_a_run_gives_back_the_type_and_every_field(make_run: Callable[..., Path], recipe: Recipe) -> None:
    folder = make_run(recipe=recipe)
    assert json.loads((folder / "run.json").read_text())["recipe"]["kind"] == recipe.kind
    assert TrainingRun.load(folder).recipe == recipe
    assert type(TrainingRun.load(folder).recipe) is type(recipe)


def test_a_recipe_from_before_there_were_kinds_is_of_trees() -> None:
    assert recipes.of({"name": "trees", "rounds": 40}, "run.json") == Trees(name="trees", rounds=40)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"kind": "forest", "name": "a"}, "x: the recipe is of kind 'forest', which is none of trees, linear, sequence: pin the run again"),
        ({"kind": "linear", "name": "a", "rounds": 3}, "unknown \\['rounds'\\]"),
        ({"kind": "sequence"}, "lacks \\['name'\\]"),
        ({"kind": "sequence", "name": "a", "width": "wide"}, "Pin the run again"),
        ("trees", "lacks \\['name'\\]"),
    ],
)
def test_what_is_no_recipe_is_refused_with_advice(told: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        recipes.of(told, "x")


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        (Trees, {"name": "Trees!"}, "names are lower-case"),
        (Trees, {"features": ("a", "b", "a")}, "a feature stands twice in a, b, a"),
        (Linear, {"train_nights": 0}, "train_nights is at least 1"),
        (Trees, {"rounds": 5, "rounds_per_chunk": 6}, "rounds_per_chunk <= rounds"),
        (Trees, {"colsample_bytree": 0.0}, "colsample_bytree lies in"),
        (Linear, {"steps": 0}, "steps is at least 1"),
        (Linear, {"reg_lambda": 0.0}, "reg_lambda is above 0"),
        (Attention, {"width": 100, "heads": 3}, "no multiple of 3 heads"),
        (Attention, {"dropout": 1.0}, "dropout lies in"),
        (Attention, {"warm_up": 0.0}, "warm_up lies in"),
        (Attention, {"clip": float("nan")}, "clip is above 0"),
        (Attention, {"bins": 1}, "bins is at least 2"),
        (Attention, {"weight_decay": float("nan")}, "weight_decay is at least 0"),
    ],
)
def test_impossible_fields_are_refused(kind: type[Recipe], change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        kind(**{"name": "r"} | change)


def test_card_fraud_trains_trees_first_and_has_a_recipe_of_each_kind() -> None:
    assert USE_CASE.recipes == (card_fraud.trees(), card_fraud.linear(), card_fraud.sequence(), card_fraud.published())
    assert list(dict.fromkeys(recipe.kind for recipe in USE_CASE.recipes)) == list(recipes.KINDS)
    assert len(card_fraud.published().features) == 15


def test_importing_recipes_brings_no_heavy_library() -> None:
    code = "import sys; import include.nightshift.train.recipes; print(sorted({'torch', 'numpy', 'xgboost', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
