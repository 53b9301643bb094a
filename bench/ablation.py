"""What each feature costs and what it is worth: seconds of the models that bring it, average precision lost without it.

    python -m bench.ablation --landing DIR --first-test DAY --folds N [--seeds K] [--genuine SHARE] [--eliminate] [--write]

The worlds and folds are `bench/prequential.py`'s: the product's own ingest, features, training sets and protocol. For each fold and seed
the shipped recipe is trained on all features, without each one, and without all that one model brings; a benefit is the mean of the
paired differences, with its standard error. Alone, a feature may be worth little beside its kin: so the model's line stands above them.

All frauds are trained on, and SHARE of the genuine transactions (one in five unless told), each then weighing as many as it stands for:
paired differences need many trainings, not large ones.

Costs are seconds of a full build of all days, each model's divided among the features that come from it. `--write` puts costs and
benefits into the features' declarations. `--eliminate` goes on and takes away features beyond the published ones, one after another.

Closing line: how many features beyond the published ones are worth less than nothing by two standard errors; the target is none.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from bench.prequential import PUBLISHED, World, asked_of, landed, say
from include.nightshift.errors import NightshiftError
from include.nightshift.features import project
from include.nightshift.promote import judge
from include.nightshift.train import models, trees
from include.nightshift.train.recipes import Trees
from include.nightshift.train.rows import Rows
from include.nightshift.train.run import TrainingRun, read_rows
from include.usecases.card_fraud import recipes
from include.usecases.card_fraud.usecase import USE_CASE

THREADS = 2


@dataclass(frozen=True)
class Benefit:
    """Average precision lost without some features, and the standard error of that over folds and seeds."""

    mean: float
    error: float

    @classmethod
    def of(cls, lost: Sequence[float]) -> Benefit:
        return cls(float(np.mean(lost)), float(np.std(lost, ddof=1) / np.sqrt(len(lost))) if len(lost) > 1 else float("nan"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each set of features on each fold")
    parser.add_argument("--genuine", type=float, default=0.2, help="share of the genuine transactions to train on")
    parser.add_argument("--eliminate", action="store_true", help="take away features until those taken away are worth an error together")
    parser.add_argument("--write", action="store_true", help="put costs and benefits into the features' declarations")
    asked, first_days = asked_of(parser, arguments)
    try:
        with landed(asked.landing, first_days) as world:
            origin = origins(world)
            cost = costs(world, origin)
            folds = list(trained(world, first_days, asked.seeds, asked.genuine))
            benefit = benefits(folds, origin)
            say(world.began, "each left out once")
            if asked.eliminate:
                for name, lost in eliminated([name for name in origin if name not in PUBLISHED], lambda gone: worth(folds, gone)):
                    say(world.began, f"without {name} too: {lost.mean:.4f} ({lost.error:.4f}) lost")
    except NightshiftError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2
    if asked.write:
        _declare(cost, benefit)
    return _report(origin, cost, benefit)


def origins(world: World) -> dict[str, str]:
    """The model that each feature comes from, in the order of features: read off the last model's SQL."""
    models = project.compiled(world.session, world.settings, world.use_case).models
    last, query = models[-1]
    # Aliases of what was laid on the way; the events themselves are read by the last model.
    laid = {alias: name for alias, name in re.findall(r"(\w+) as \(\s*select \* from (\w+)\s*\)", query) if name in dict(models)}
    origin = {}
    for feature in world.use_case.features:
        said = re.search(rf"^.* as {feature.name},?$", query, re.MULTILINE)
        named = re.findall(r"(\w+)\.\w+", said[0]) if said else []
        origin[feature.name] = laid.get(named[0], last) if named else last
    return origin


def costs(world: World, origin: Mapping[str, str]) -> dict[str, float]:
    """Each feature's part of the seconds that its model took in the build."""
    taken = {node.name: node.seconds for node in world.built.nodes}
    brought = list(origin.values())
    return {name: taken[model] / brought.count(model) for name, model in origin.items()}


def trained(world: World, first_days: Sequence[date], seeds: int, genuine: float) -> Iterator[Fold]:
    """Each fold with each seed, trained on all features."""
    recipe = recipes.trees()
    for first_day in first_days:
        folder = world.pinned(recipe, first_day)
        for seed in range(seeds):
            fold = Fold(world, folder, replace(recipe, seed=recipe.seed + seed), genuine)
            say(world.began, f"fold {first_day}, seed {fold.recipe.seed}: AP {fold.whole:.4f} with all {len(fold.run.features)} features")
            yield fold


def benefits(folds: Sequence[Fold], origin: Mapping[str, str]) -> dict[str, Benefit]:
    """By feature, and by model for all that comes from it."""
    without = {name: [name] for name in origin}
    without |= {model: [name for name, from_ in origin.items() if from_ == model] for model in dict.fromkeys(origin.values())}
    return {name: worth(folds, left_out) for name, left_out in without.items()}


def worth(folds: Sequence[Fold], left_out: Sequence[str]) -> Benefit:
    """What these features together are worth."""
    return Benefit.of([fold.whole - fold.without(left_out) for fold in folds])


def eliminated(candidates: Sequence[str], worth: Callable[[Sequence[str]], Benefit]) -> Iterator[tuple[str, Benefit]]:
    """Features to take away, each the one without which the rest ranks best, and what all taken away until then are worth together.

    Ends before that is more than its standard error: the smallest set that ranks within one error of the whole (Breiman, Friedman,
    Olshen, Stone, *Classification and Regression Trees*, 1984, section 3.4.3).
    """
    gone: list[str] = []
    while len(gone) < len(candidates):
        lost = {name: worth([*gone, name]) for name in candidates if name not in gone}
        least = min(lost, key=lambda name: lost[name].mean)
        if lost[least].mean > lost[least].error:
            return
        gone.append(least)
        yield least, lost[least]


class Fold:
    """A fold's rows, to be trained on with some features left out."""

    def __init__(self, world: World, folder: Path, recipe: Trees, genuine: float) -> None:
        self.run = TrainingRun.load(folder)
        self.recipe = recipe
        self.judged, self.held = judge.held_out(world.use_case, folder, self.run)
        rows = read_rows(folder / "data" / "train", self.run)
        dice = np.random.default_rng(recipe.seed)
        kept = (rows.target > 0) | (dice.random(len(rows)) < genuine)
        self.rows = replace(rows, matrix=rows.matrix[kept], target=rows.target[kept], entity=rows.entity[kept], seconds=rows.seconds[kept])
        self.weight = np.where(self.rows.target > 0, 1.0, 1.0 / genuine)
        self.whole = self.without([])

    def without(self, left_out: Sequence[str]) -> float:
        """Average precision on the fold's week."""
        names = [name for name in self.run.features if name not in left_out]
        places = [self.run.features.index(name) for name in names]
        rows: Rows = replace(self.rows, matrix=np.ascontiguousarray(self.rows.matrix[:, places]))
        learning = trees.Boosting(rows, names, self.recipe, THREADS)
        learning.quantise().set_weight(self.weight)
        while learning.step < learning.steps:
            learning.advance(lambda rounds_left: None)
        model = models.loads(learning.model(), {"kind": self.recipe.kind})
        return self.judged.measure(model.score(self.held, threads=THREADS)).average_precision


def _declare(cost: Mapping[str, float], benefit: Mapping[str, Benefit]) -> None:
    path = project.PROJECT / "models" / USE_CASE.name / f"{USE_CASE.name}_features.yml"
    text = path.read_text()
    for name, seconds in cost.items():
        figures = f"cost_seconds: {seconds:.1f}, benefit: {benefit[name].mean:.4f}"
        told = re.search(rf"(- name: {name}\n(?:(?! *- ).*\n)*? *config: {{meta: {{)(.*?)}}}}", text)
        assert told, f"{path} declares no {name}"
        others = [said for said in told[2].split(", ") if not said.startswith(("cost_seconds:", "benefit:"))]
        text = text[: told.start(2)] + ", ".join([*others, figures]) + text[told.end(2) :]
    path.write_text(text)


def _lines(origin: Mapping[str, str], cost: Mapping[str, float], benefit: Mapping[str, Benefit]) -> Iterator[str]:
    yield f"{'':46}{'seconds':>9}{'benefit (AP)':>14}{'error':>9}"
    for model in dict.fromkeys(origin.values()):
        names = [name for name, from_ in origin.items() if from_ == model]
        for name, seconds in ((model, sum(cost[name] for name in names)), *((f"  {name}", cost[name]) for name in names)):
            worth = benefit[name.strip()]
            yield f"{name:46}{seconds:9.1f}{worth.mean:14.4f}{worth.error:9.4f}"


def _report(origin: Mapping[str, str], cost: Mapping[str, float], benefit: Mapping[str, Benefit]) -> int:
    print("\n" + "\n".join(_lines(origin, cost, benefit)))
    harmful = [name for name in origin if name not in PUBLISHED and benefit[name].mean + 2 * benefit[name].error < 0]
    if harmful:
        print(f"worth less than nothing: {', '.join(harmful)}")
    print(f"ablation: {len(harmful)} (features beyond the published that do harm) target 0 {'short' if harmful else 'ok'}")
    return 1 if harmful else 0


if __name__ == "__main__":
    raise SystemExit(main())
