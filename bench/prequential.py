"""How well the product ranks weeks that it has not seen, by the published protocol, beside the published recipe on the same folds.

    python -m bench.prequential --landing DIR --first-test DAY --folds N [--recipes R,R] [--preemptions N] [--target-ap X]

Runs the product's own ingest, features, training set, training program and scoring on a landing folder (`<feed>/<night>.csv.gz`), in a
home and on a server of its own. A fold tests the seven days from its first one; folds are a week apart. The verdicts of a fold's last
day come a week later, so the landing folder must reach that far. What a recipe trains on ends eight days before the fold's first day:
when the fold begins, the verdicts of that day were known.

The recipes are the use case's own, each beside the others on the same rows; the first one named is the one that has a target. A sequence
model is made for a GPU: on two cores, one fold of it takes some hundred times what the trees take. With `--preemptions`, the first one is
trained twice, in peace and on machines that are taken away so often, and what is measured is the second model; it fails where the two
differ in a byte.

The published recipe is the Fraud Detection Handbook's (chapter 5): its features, one week of training, XGBoost with 100 exact trees of
depth 3 at a learning rate of 0.1. Metrics are `promote.metrics.fold`, the protocol to the letter.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
from pyarrow import parquet
from pyspark.sql import SparkSession

from include.nightshift import ingest, nights, usecase
from include.nightshift.errors import NightshiftError, NotMaturedError, TrainingFailedError
from include.nightshift.features import build
from include.nightshift.ingest import landing, places
from include.nightshift.lakehouse import catalog, log, tables
from include.nightshift.operate.environment import environment
from include.nightshift.operate.served import connected
from include.nightshift.promote import judge, metrics
from include.nightshift.promote.trust import Reigning
from include.nightshift.score import scores
from include.nightshift.settings import Ports, Settings
from include.nightshift.spot.local import LocalPool
from include.nightshift.spot.steering import Terms, train_on
from include.nightshift.train import models, pin
from include.nightshift.train.recipes import Recipe
from include.nightshift.train.run import MODEL_FOLDER, TrainingRun, read_rows
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.recipes import published
from include.usecases.card_fraud.usecase import USE_CASE

PUBLISHED = published().features
PUBLISHED_RECIPE = {"objective": "binary:logistic", "tree_method": "exact", "max_depth": 3, "learning_rate": 0.1}
PUBLISHED_ROUNDS, PUBLISHED_DAYS = 100, 7

Scores = tuple[np.ndarray, np.ndarray]
"""Events' keys in order, and their scores."""


@dataclass(frozen=True)
class Entrant:
    """Who ranks, on what span, and what came of it, fold by fold."""

    name: str
    span: str
    folds: list[metrics.FoldMetrics]

    def mean(self, figure: str) -> float:
        return float(np.mean([getattr(fold, figure) for fold in self.folds]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.prequential", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipes",
        type=_recipes,
        default="trees,linear",
        metavar="R,R",
        help=f"of {', '.join(recipe.name for recipe in USE_CASE.recipes)}; sequence takes hours without a GPU (default: trees,linear)",
    )
    parser.add_argument(
        "--preemptions", type=int, default=0, metavar="N", help="machines that the first recipe loses in each fold (default: none)"
    )
    parser.add_argument("--target-ap", type=float, help="mean average precision to reach")
    asked, first_days = asked_of(parser, arguments)
    if asked.preemptions < 0:
        parser.error("preemptions are at least 0")
    try:
        with landed(asked.landing, first_days) as world:
            entrants = _run(world, asked.recipes, first_days, asked.preemptions)
    except NightshiftError as error:
        print(f"prequential: {error}", file=sys.stderr)
        return 2
    return _report(entrants, first_days, asked.target_ap)


def _recipes(names: str) -> list[Recipe]:
    found = {recipe.name: recipe for recipe in USE_CASE.recipes}
    if unknown := [name for name in names.split(",") if name not in found]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose among {', '.join(found)}")
    return [found[name] for name in names.split(",")]


def asked_of(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[date]]:
    """What a program of the protocol is asked, the folder and the folds with it, and the first day of each fold."""
    parser.add_argument("--landing", type=Path, required=True, help="the folder above the feeds")
    parser.add_argument("--first-test", type=nights.parse, required=True, metavar="DAY", help="first day of the first fold, YYYY-MM-DD")
    parser.add_argument("--folds", type=int, required=True, help="test weeks, one after the other")
    try:
        asked = parser.parse_args(arguments)
    except NightshiftError as error:
        parser.error(str(error))
    asked.landing = asked.landing.resolve()
    missing = [feed.name for feed in USE_CASE.feeds if not (asked.landing / feed.name).is_dir()]
    if missing:
        parser.error(f"{asked.landing} holds no folder {' and no folder '.join(missing)}: name the folder above the feeds")
    if asked.folds < 1:
        parser.error("at least one fold")
    return asked, [asked.first_test + timedelta(days=7 * fold) for fold in range(asked.folds)]


@dataclass(frozen=True)
class World:
    """A landing folder's days as features, on a server of their own."""

    session: SparkSession
    settings: Settings
    use_case: UseCase
    first: date
    """The first day that landed."""
    built: build.Built
    began: float

    def pinned(self, recipe: Recipe, first_day: date) -> Path:
        """The run's folder of a fold: what trains on the days up to eight before `first_day`, and its week held out."""
        fold = first_day + timedelta(days=6 + self.use_case.label_delay_days)
        return pin.pin(self.session, self.settings, self.use_case, recipe, fold)


def say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)


@contextmanager
def landed(folder: Path, first_days: Sequence[date]) -> Iterator[World]:
    """Ingest a landing folder and build the features of all days until the end of the last fold.

    Raises:
        NotMaturedError: the folder ends before the last fold's verdicts.
    """
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    began = time.monotonic()
    try:
        settings = Settings(
            home=home,
            clock=False,
            ports=Ports.free(),
            landing=str(folder),
            lakehouse_memory="4g",
            mlflow_uri=f"sqlite:///{home}/mlflow.db",
        )
        settings = replace(settings, feed_spans=landing.spans(settings, USE_CASE.feeds))
        first, spans = _spans(settings, usecase.load(USE_CASE.name, settings), first_days[-1] + timedelta(days=6))
        # What comes after the last fold is neither needed nor looked at.
        settings = replace(settings, feed_spans=dict(spans))
        use_case = usecase.load(USE_CASE.name, settings)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
        with connected(settings) as session:
            catalog.create(session, settings)
            for feed in use_case.feeds:
                done = ingest.ingest(session, settings, feed, list(nights.between(*spans[feed.name])))
                rows, rejected = sum(done.accepted.values()), sum(done.rejected.values())
                say(began, f"{feed.name}: {rows:,} rows of {len(done.accepted)} nights, {rejected} to quarantine")
            built = build.build(session, settings, use_case, list(nights.between(*spans[use_case.events.name])))
            say(began, f"features: {sum(built.rows.values()):,} rows in {built.seconds:.0f} s")
            yield World(session, settings, use_case, first, built, began)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _spans(settings: Settings, use_case: UseCase, last: date) -> tuple[date, dict[str, tuple[date, date]]]:
    """First and last drop to ingest of each feed, so that events until `last` have their verdicts; and the first day of events."""
    delay = timedelta(days=use_case.label_delay_days)
    first, ends = _extent(settings, use_case)
    if ends["labels"] < last + delay or ends["events"] < last:
        raise NotMaturedError(
            f"{settings.landing_location}: the last fold tests until {last}, whose verdicts come with drop {last + delay}, but the "
            f"landing ends with {ends['events']} (events) and {ends['labels']} (verdicts): ask for earlier or fewer folds"
        )
    spans = {use_case.events.name: (first["events"], last), use_case.labels.name: (first["labels"], last + delay)}
    return first["events"], spans


def _run(world: World, recipes: Sequence[Recipe], first_days: Sequence[date], preemptions: int) -> list[Entrant]:
    use_case = world.use_case
    ours: dict[str, list[metrics.FoldMetrics]] = {recipe.name: [] for recipe in recipes}
    theirs = []
    for first_day in first_days:
        for recipe in recipes:
            began = time.monotonic()
            folder = world.pinned(recipe, first_day)
            losses = preemptions if recipe is recipes[0] else 0
            ours[recipe.name].append(_fold(folder, use_case, _product(world, folder, losses)))
            figure = ours[recipe.name][-1].average_precision
            say(world.began, f"fold {first_day}, {recipe.name}: AP {figure:.4f}, in {time.monotonic() - began:.0f} s")
        theirs.append(_fold(folder, use_case, _published(folder)))
        say(world.began, f"fold {first_day}, published recipe: AP {theirs[-1].average_precision:.4f}")
    span = f"all days from {world.first} to 8 before the fold"
    return [
        *(Entrant(f"nightshift, {name}, {len(use_case.features)} features", span, folds) for name, folds in ours.items()),
        Entrant(f"published, {len(PUBLISHED)} features", f"days 14 to {15 - PUBLISHED_DAYS} before the fold", theirs),
    ]


def _extent(settings: Settings, use_case: UseCase) -> tuple[dict[str, date], dict[str, date]]:
    """First and last drop of each feed that the landing folder holds."""
    found = {}
    for what, feed in (("events", use_case.events), ("labels", use_case.labels)):
        names = [name for name in places.of(settings, feed).names() if name.endswith(landing.SUFFIXES)]
        days = sorted(nights.parse(name.split(".")[0], what=f"{feed.name}/{name}") for name in names)
        found[what] = (days[0], days[-1])
    return {what: span[0] for what, span in found.items()}, {what: span[1] for what, span in found.items()}


def _product(world: World, folder: Path, preemptions: int) -> Scores:
    """Train as a machine would, then score the held-out nights as a night is scored."""
    settings, use_case = world.settings, world.use_case
    if preemptions:
        _train_preempted(world, folder, preemptions)
    else:
        _train(world, folder)
    run = TrainingRun.load(folder)
    assert run.holdout_first is not None
    assert run.holdout_last is not None
    held = list(nights.between(run.holdout_first, run.holdout_last))
    model = Reigning(run.run_id, folder / MODEL_FOLDER, None, (), models.sha256(folder / MODEL_FOLDER))
    scored = scores.scored_by(world.session, use_case, model, held, log.version(settings, tables.features(use_case)))
    table = scored.select(run.key, "score").orderBy(run.key).toArrow()
    return table.column(run.key).to_numpy(), table.column("score").to_numpy()


def _train(world: World, folder: Path) -> None:
    command = [sys.executable, "-m", "include.nightshift.train", "--run", str(folder)]
    # Not in the checkout: MLflow lays artifacts of a database below the working directory.
    done = subprocess.run(command, cwd=world.settings.home, env=environment(world.settings), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NightshiftError(f"training of {folder.name} ended with {done.returncode}: {done.stderr[-1500:]}")


def _train_preempted(world: World, folder: Path, preemptions: int) -> None:
    """Train on machines of the local pool of which so many are taken away, every second one before its
    first checkpoint.

    Raises:
        TrainingFailedError: fewer were, or the model is not the one of a training in peace, byte for byte.
    """
    peace = folder.with_name(f"{folder.name}-in-peace")
    shutil.copytree(folder, peace)
    _train(world, peace)
    pool = LocalPool(interruptions=[(place + 1) % 2 for place in range(preemptions)])
    terms = Terms(deadline=datetime.now(UTC) + timedelta(hours=6), at_risk_seconds=0, max_preemptions=preemptions)
    lost = sum(attempt.outcome == "preempted" for attempt in train_on(pool, folder, terms))
    if lost != preemptions:
        raise TrainingFailedError(f"{folder.name}: {lost} machines were taken away, not {preemptions}: it has too few stretches")
    found, wanted = models.sha256(folder / MODEL_FOLDER), models.sha256(peace / MODEL_FOLDER)
    if found != wanted:
        raise TrainingFailedError(f"{folder.name}: preempted {lost} times its model has sha256 {found}, in peace {wanted}")
    say(world.began, f"{folder.name}: preempted {lost} times, the model in peace byte for byte: sha256 {found[:12]}")


def _published(folder: Path) -> Scores:
    """Train the published recipe on the week that it trains on, and score the same nights."""
    import xgboost as xgb

    run = replace(TrainingRun.load(folder), features=PUBLISHED)
    assert run.holdout_first is not None
    begin = run.holdout_first - timedelta(days=14)
    week = folder / "published-week"
    week.mkdir()
    table = parquet.read_table(folder / "data" / "train", filters=[("day", ">=", begin)])
    parquet.write_table(table, week / "rows.parquet")
    rows, held = read_rows(week, run), read_rows(folder / "data" / "holdout", run)
    booster = xgb.train(PUBLISHED_RECIPE, xgb.DMatrix(rows.matrix, rows.target), PUBLISHED_ROUNDS)
    keys = np.sort(parquet.read_table(folder / "data" / "holdout", columns=[run.key]).column(0).to_numpy())
    return keys, booster.predict(xgb.DMatrix(held.matrix)).astype("float64")


def _fold(folder: Path, use_case: UseCase, scored: Scores) -> metrics.FoldMetrics:
    run = TrainingRun.load(folder)
    judged, held = judge.held_out(use_case, folder, run)
    keys, score = scored
    # Scores are of all events of the nights; the protocol looks at those with a verdict.
    return judged.measure(score[np.searchsorted(keys, held.column(run.key).to_numpy())])


def _report(entrants: Sequence[Entrant], first_days: Sequence[date], target: float | None) -> int:
    print(f"\n{'first test day':16}" + "".join(f"{entrant.name:>46}" for entrant in entrants))
    print(f"{'trained on':16}" + "".join(f"{entrant.span:>46}" for entrant in entrants))
    head = f"{'AP':>28}{'AUC':>9}{'CP100':>9}"
    print(f"{'':16}" + head * len(entrants))
    for place, first_day in enumerate(first_days):
        row = [entrant.folds[place] for entrant in entrants]
        print(f"{first_day!s:16}" + "".join(f"{f.average_precision:28.4f}{f.roc_auc:9.4f}{f.card_precision:9.4f}" for f in row))
    figures = ("average_precision", "roc_auc", "card_precision")
    means = [[entrant.mean(figure) for figure in figures] for entrant in entrants]
    print(f"{'mean':16}" + "".join(f"{ap:28.4f}{auc:9.4f}{cp:9.4f}" for ap, auc, cp in means))
    ap, auc, cp = means[0]
    ok = target is None or ap >= target
    asked = "-" if target is None else f"{target:g}"
    print(f"prequential: AP={ap:.4f} AUC={auc:.4f} CP100={cp:.4f} folds={len(first_days)} target={asked} {'ok' if ok else 'short'}")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
