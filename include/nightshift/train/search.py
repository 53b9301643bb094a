"""Search: variants of a recipe tried one after the other, on machines that may be taken away, until the best of them is known.

A trial is a run of its own in `<run>/trials/<n>/`, with its own checkpoints; its result is written last, durably. What trial n tries is a
function of the recipe's seed and of the results before it (Optuna's sampler, made anew for each trial), and is on disk before anything of
it is trained. So a search that is killed goes on with the trial that it was at, and comes to the trials and the best of one that was not.

Trials run to their end. A pruner would compare a trial in the middle with others at the same step, which differ in how many steps they
have; and what it saves is little where a trial takes minutes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_type_hints

from include.nightshift.errors import CheckpointError, ConfigurationError, TrainingFailedError
from include.nightshift.train import recipes
from include.nightshift.train.checkpoint import write_durably
from include.nightshift.train.run import CHECKPOINTS, PROGRESS, RESULT, RUN, SEARCH, TRIALS, TrainingRun, finished
from include.nightshift.train.space import OneOf, Search, Value
from include.nightshift.train.validation import held_back, label_delay_days

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from include.nightshift.train.recipes import Recipe

log = logging.getLogger(__name__)

Measure: TypeAlias = Callable[[Path, TrainingRun], float]
"""Trains a trial in its folder, from wherever it stands, and tells the average precision of its model on the validation nights."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A variant that was tried: a line of `search.json`."""

    number: int
    parameters: Mapping[str, Value]
    state: Literal["finished", "failed"]
    average_precision: float | None
    """On the validation nights; None where it failed."""
    seconds: float
    """Work that stands in its checkpoints, and what its last machine did to the end; work that was lost is in `ops.training_attempts`."""
    cost: float
    """Those seconds at the price of the machine that ended it."""
    reason: str | None = None
    """Why it failed, or which trial it repeats."""


@dataclass(frozen=True)
class Found:
    """What a search came to: `search.json`."""

    recipe: Recipe
    """The best one."""
    average_precision: float
    """What it reached on the validation nights."""
    nights: tuple[str, str]
    """The first and the last of these."""
    trials: tuple[Trial, ...]
    ended: str
    """Why there were no more."""


@dataclass(frozen=True)
class Stand:
    """How far a search is that goes on."""

    trial: int
    """The number of the one that runs; as many are done."""
    of: int
    """So many at most."""
    seconds_left: float | None
    """Until it ends, were the trials to come like those that are done: an estimate. None before one is done."""


def settled(
    folder: Path,
    run: TrainingRun,
    code: str,
    begin: Callable[[TrainingRun], Measure],
    price_per_hour: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingRun:
    """The run with the recipe that it is to train: its own, or, where that says so, the best that a search finds, now or before.

    Args:
        folder: the run's.
        run: as it was pinned.
        code: names the code that makes its models.
        begin: called once with the run that trials are variants of, where any is left to try; what it raises ends the search.
        price_per_hour: what this machine costs.
        clock: in seconds.

    Raises:
        CheckpointError: what stands belongs to another search, or was made by other code.
        NotMaturedError: there are too few training nights to judge by.
        TrainingFailedError: no trial came to an end.
    """
    search = run.recipe.search
    if search is None:
        return run
    kept = {"search": _digest(run), "code": code}
    if (folder / SEARCH).exists():
        _check(folder / SEARCH, json.loads((folder / SEARCH).read_text()), kept)
        return found(folder, run)
    trial_of = held_back(run, search.validation_nights)
    trials: list[Trial] = []
    measure: Measure | None = None
    if search.money is not None and not price_per_hour:
        log.warning("the search may cost %g, but nobody says what this machine costs: give --price-per-hour", search.money)
    while (ended := why_ended(search, trials)) is None:
        place = folder / TRIALS / str(len(trials))
        trial = _told(place, kept)
        if trial is None:
            measure = measure or begin(trial_of)
            trial = _tried(place, trial_of, run.recipe, trials, measure, price_per_hour, clock)
            place.mkdir(parents=True, exist_ok=True)
            write_durably(place / RESULT, _json(asdict(trial) | {"fingerprint": kept}))
        # Nobody resumes it any more. Also what a kill between the two has left.
        shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)
        trials.append(trial)
        log.info("trial %d of %d: %s, %s", trial.number, search.trials, trial.average_precision or trial.reason, dict(trial.parameters))
    best = best_of(trials)
    whole = {
        "recipe": run.recipe.varied(best.parameters).told(),
        "best": best.number,
        "average_precision": best.average_precision,
        "validation": [str(trial_of.holdout_first), str(trial_of.holdout_last)],
        "ended": ended,
        "seconds": round(sum(trial.seconds for trial in trials), 3),
        "cost": round(sum(trial.cost for trial in trials), 6),
        "trials": [asdict(trial) for trial in trials],
        "fingerprint": kept,
    }
    write_durably(folder / SEARCH, _json(whole))
    log.info("search ended: %s; the best is trial %d with %s", ended, best.number, dict(best.parameters))
    return found(folder, run)


def found(folder: Path, run: TrainingRun) -> TrainingRun:
    """The run with the recipe that it trains; needs nothing of a machine that could train it.

    Raises:
        TrainingFailedError: its search has not ended.
    """
    return run if run.recipe.search is None else replace(run, recipe=outcome(folder).recipe)


def outcome(folder: Path) -> Found:
    """What the search of a run's folder came to; a result that came home without it tells too.

    Raises:
        TrainingFailedError: it has not ended.
    """
    if (folder / SEARCH).exists():
        told = json.loads((folder / SEARCH).read_text())
    elif (told := (finished(folder) or {}).get("search")) is None:
        raise TrainingFailedError(f"{folder / SEARCH} is missing: the search has not ended; the same command goes on with it")
    return Found(
        recipe=recipes.of(told["recipe"], str(folder / SEARCH)),
        average_precision=told["average_precision"],
        nights=(told["validation"][0], told["validation"][1]),
        trials=tuple(Trial(**trial) for trial in told["trials"]),
        ended=told["ended"],
    )


def stand(folder: Path, run: TrainingRun) -> Stand | None:
    """How far the search of a run is; None where none goes on. Needs nothing of a machine that could train it."""
    search, trials = run.recipe.search, _done(folder)
    if search is None or not (_running(folder, trials) / RUN).exists() or (folder / SEARCH).exists() or why_ended(search, trials):
        return None
    return Stand(len(trials), search.trials, _seconds_to_come(folder, search, trials) if trials else None)


def seconds_left(folder: Path, run: TrainingRun) -> float | None:
    """Until a run is trained that searches first: the trials to come like those that are done, and the best one's training on all
    nights like the longest of them, which had fewer. None before a trial is done, and where there is no search."""
    search, trials = run.recipe.search, _done(folder)
    if search is None or not trials:
        return None
    trial_of = held_back(run, search.validation_nights)
    more_nights = ((run.train_last - run.train_first).days + 1) / ((trial_of.train_last - trial_of.train_first).days + 1)
    training = more_nights * max(trial.seconds for trial in trials)
    return training if (folder / SEARCH).exists() else training + _seconds_to_come(folder, search, trials)


def _seconds_to_come(folder: Path, search: Search, trials: Sequence[Trial]) -> float:
    """Of a search, after these trials, of which there is one at least."""
    seconds, cost = (sum(getattr(trial, spent) for trial in trials) / len(trials) for spent in ("seconds", "cost"))
    to_come: list[Trial] = []
    while why_ended(search, [*trials, *to_come]) is None:
        to_come.append(replace(trials[-1], seconds=seconds, cost=cost))
    return len(to_come) * seconds - min(seconds, _seconds_that_stand(_running(folder, trials))) if to_come else 0.0


def _running(folder: Path, done: Sequence[Trial]) -> Path:
    """Where the trial after these is."""
    return folder / TRIALS / str(len(done))


def _done(folder: Path) -> list[Trial]:
    """The trials that have ended, whatever code made them."""
    trials: list[Trial] = []
    while trial := _told(folder / TRIALS / str(len(trials)), {}):
        trials.append(trial)
    return trials


def asked(recipe: Recipe, trials: Sequence[Trial]) -> dict[str, Value]:
    """What the next trial tries: a function of the recipe and of the trials told so far, in their order."""
    search = recipe.search or Search()
    # In one order, however run.json was written: each draw moves the dice.
    names = sorted(search.space)
    if not trials:
        return {name: getattr(recipe, name) for name in names}
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(recipe, name, search) for name in names}
    sampler = optuna.samplers.TPESampler(seed=_seed(recipe.seed, len(trials)))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        told = create_trial(
            state=TrialState.COMPLETE if trial.state == "finished" else TrialState.FAIL,
            value=trial.average_precision,
            params=dict(trial.parameters),
            distributions=distributions,
            user_attrs={"reason": trial.reason},
        )
        study.add_trial(told)
    return dict(study.ask(distributions).params)


def why_ended(search: Search, trials: Sequence[Trial]) -> str | None:
    """Why no further trial begins; None while one does. The first always begins."""
    if len(trials) >= search.trials:
        return f"all {search.trials} trials are done"
    if not trials:
        return None
    for what, budget, spent in (
        ("seconds", search.seconds, sum(trial.seconds for trial in trials)),
        ("money", search.money, sum(trial.cost for trial in trials)),
    ):
        if budget is not None and spent + spent / len(trials) > budget:
            return f"{what}: {len(trials)} trials took {spent:g} of {budget:g}, and another one like them would go beyond"
    return None


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the best figure, of equals the first.

    Raises:
        TrainingFailedError: all have failed.
    """
    finished = [trial for trial in trials if trial.average_precision is not None]
    if not finished:
        raise TrainingFailedError(
            f"none of the {len(trials)} trials came to an end, the last because {trials[-1].reason}: mend the recipe, the first is itself"
        )
    return max(finished, key=lambda trial: (trial.average_precision, -trial.number))


def _tried(
    place: Path,
    trial_of: TrainingRun,
    recipe: Recipe,
    trials: Sequence[Trial],
    measure: Measure,
    price_per_hour: float,
    clock: Callable[[], float],
) -> Trial:
    """One trial to its end, from wherever it stands."""
    number, began = len(trials), clock()
    if (place / RUN).exists():
        run = TrainingRun.load(place)
        parameters: dict[str, Value] = {name: getattr(run.recipe, name) for name in sorted((recipe.search or Search()).space)}
    else:
        parameters = asked(recipe, trials)
        if same := next((trial for trial in trials if trial.parameters == parameters), None):
            return replace(same, number=number, seconds=0.0, cost=0.0, reason=f"as trial {same.number}")
        try:
            run = replace(trial_of, run_id=f"{trial_of.run_id}:{number}", recipe=recipe.varied(parameters))
        except ConfigurationError as error:
            return Trial(
                number=number, parameters=parameters, state="failed", average_precision=None, seconds=0.0, cost=0.0, reason=str(error)
            )
        # What is tried stands before it is trained: on the next machine the dice might fall otherwise in the last bit.
        run.save(place)
    stood = _seconds_that_stand(place)
    reached: float | None = None
    reason = None
    try:
        reached = measure(place, run)
    except TrainingFailedError as error:
        reason = " ".join(str(error).split())
        log.warning("trial %d failed: %s", number, reason)
    seconds = stood + clock() - began
    return Trial(
        number=number,
        parameters=parameters,
        state="finished" if reason is None else "failed",
        average_precision=reached,
        seconds=round(seconds, 3),
        cost=round(seconds * price_per_hour / 3600, 6),
        reason=reason,
    )


def _told(place: Path, kept: Mapping[str, str]) -> Trial | None:
    """The trial of a folder, when it has ended."""
    try:
        told = json.loads((place / RESULT).read_text())
    except FileNotFoundError:
        return None
    _check(place / RESULT, told, kept)
    del told["fingerprint"]
    return Trial(**told)


def _check(path: Path, told: Mapping[str, Any], kept: Mapping[str, str]) -> None:
    if other := sorted(name for name in kept if told["fingerprint"].get(name) != kept[name]):
        raise CheckpointError(
            f"{path} was made with other {' and '.join(other)}: going on would mix two searches. "
            "Put back what it was started with, or pin a new run"
        )


def _digest(run: TrainingRun) -> str:
    """Of all that decides what trials come to, beside the code."""
    nights = [str(run.train_first), str(run.train_last), label_delay_days(run)]
    decides = [run.recipe.told(), run.features, run.target, run.data_digest, *nights, version("optuna")]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _seconds_that_stand(place: Path) -> float:
    try:
        return sum(json.loads(line)["seconds"] for line in (place / PROGRESS).read_text().splitlines())
    except FileNotFoundError:
        return 0.0


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/trial/{number}".encode()).digest()[:4], "big")


def _distribution(recipe: Recipe, name: str, search: Search) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values = search.space[name]
    if isinstance(values, OneOf):
        return CategoricalDistribution(values.values)
    if get_type_hints(type(recipe))[name] is int:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _json(told: Mapping[str, Any]) -> bytes:
    return (json.dumps(told, indent=1) + "\n").encode()
