"""Search: which trials there are, which of them is the best, when there are no more, and that no kill changes any of it."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.nightshift.errors import CheckpointError, NotMaturedError, TrainingFailedError, TrainingOutOfMemoryError
from include.nightshift.train import __main__ as trainer
from include.nightshift.train import run as run_module
from include.nightshift.train import search, trees
from include.nightshift.train.checkpoint import complete
from include.nightshift.train.ranks import Ranks
from include.nightshift.train.recipes import Trees
from include.nightshift.train.run import TrainingRun
from include.nightshift.train.search import Stand, Trial, asked, best_of, outcome, seconds_left, settled, stand, why_ended
from include.nightshift.train.space import Between, OneOf, Search
from include.nightshift.train.validation import held_back

SPACE: dict[str, Between | OneOf] = {"learning_rate": Between(0.02, 0.4, log=True), "max_depth": Between(2, 6), "max_bin": OneOf((64, 256))}
RECIPE = Trees(name="searched", rounds=12, rounds_per_chunk=4, max_depth=4, max_bin=256, search=Search(space=SPACE, trials=6))


def trial(number: int, figure: float | None, seconds: float = 10.0, cost: float = 0.5, **parameters: Any) -> Trial:
    own = {"learning_rate": 0.1, "max_depth": 4, "max_bin": 256} | parameters
    return Trial(
        number=number,
        parameters=own,
        state="failed" if figure is None else "finished",
        average_precision=figure,
        seconds=seconds,
        cost=cost,
        reason="it diverged" if figure is None else None,
    )


def figure(run: TrainingRun) -> float:
    """A landscape with one top, at a learning rate of 0.2 and a depth of 5."""
    assert isinstance(run.recipe, Trees)
    return 0.9 - abs(run.recipe.learning_rate - 0.2) - 0.01 * abs(run.recipe.max_depth - 5)


class Clock:
    """Stands still but for the trials, which take ten seconds each."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def searched(folder: Path, measure: Callable[[Path, TrainingRun], float] | None = None, price: float = 0.0, code: str = "c") -> TrainingRun:
    clock = Clock()

    def in_ten_seconds(place: Path, run: TrainingRun) -> float:
        clock.now += 10
        return (measure or (lambda place, run: figure(run)))(place, run)

    return settled(folder, TrainingRun.load(folder), code, lambda trial_of: in_ten_seconds, price, clock)


def test_the_first_trial_is_the_recipe_itself_and_the_best_one_is_what_the_run_trains(make_run: Callable[..., Path]) -> None:
    folder = make_run(count=9, recipe=RECIPE)
    run, found = searched(folder), outcome(folder)
    assert dict(found.trials[0].parameters) == {"learning_rate": 0.1, "max_bin": 256, "max_depth": 4}
    best = max(found.trials, key=lambda trial: trial.average_precision)
    assert best.number > 0
    assert run == replace(TrainingRun.load(folder), recipe=found.recipe)
    assert found.recipe == RECIPE.varied(best.parameters)
    assert (found.average_precision, found.ended) == (best.average_precision, "all 6 trials are done")
    assert found.nights == ("2018-07-18", "2018-07-24")


def test_a_search_of_nothing_tells_what_the_recipe_itself_reaches(make_run: Callable[..., Path]) -> None:
    folder = make_run(count=9, recipe=replace(RECIPE, search=Search()))
    assert searched(folder).recipe == replace(RECIPE, search=None)
    assert outcome(folder).average_precision == pytest.approx(0.79)


def test_a_search_comes_closer_to_the_top_than_as_many_tries_at_random(make_run: Callable[..., Path]) -> None:
    folder = make_run(count=9, recipe=replace(RECIPE, search=Search(space=SPACE, trials=30)))
    searched(folder)
    figures = [trial.average_precision or 0.0 for trial in outcome(folder).trials]
    assert max(figures) > 0.88
    assert sum(figures[15:]) > sum(figures[:15])


told = st.lists(st.tuples(st.none() | st.floats(0, 1), st.floats(0.02, 0.4), st.integers(2, 6), st.sampled_from((64, 256))), max_size=15)


@given(told)
def test_what_is_tried_next_is_a_function_of_the_trials_before_it_and_lies_in_the_space(values: list[tuple[Any, ...]]) -> None:
    trials = [trial(n, value, learning_rate=a, max_depth=b, max_bin=c) for n, (value, a, b, c) in enumerate(values)]
    parameters = asked(RECIPE, trials)
    assert parameters == asked(RECIPE, trials)
    assert parameters.keys() == SPACE.keys()
    assert all(SPACE[name].holds(value) for name, value in parameters.items())
    assert type(parameters["max_depth"]) is int


def test_another_seed_tries_something_else() -> None:
    assert asked(replace(RECIPE, seed=1), [trial(0, 0.5)]) != asked(replace(RECIPE, seed=2), [trial(0, 0.5)])


@given(st.lists(st.none() | st.floats(0, 1), min_size=1))
def test_the_best_is_the_highest_and_of_equals_the_first(figures: list[float | None]) -> None:
    trials = [trial(n, value) for n, value in enumerate(figures)]
    reached = [value for value in figures if value is not None]
    if not reached:
        with pytest.raises(TrainingFailedError, match=r"none of the .* trials .*, the last because it diverged: mend the recipe"):
            best_of(trials)
        return
    assert best_of(trials).number == figures.index(max(reached))


@given(
    taken=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 5)), max_size=12),
    seconds=st.none() | st.floats(1, 200),
    money=st.none() | st.floats(0.1, 20),
)
def test_a_trial_begins_while_both_budgets_hold_one_more_like_those_before(
    taken: list[tuple[float, float]], seconds: float | None, money: float | None
) -> None:
    asks = Search(space=SPACE, trials=10, seconds=seconds, money=money)
    trials = [trial(n, 0.5, *spent) for n, spent in enumerate(taken)]
    ended = why_ended(asks, trials)
    if not trials:
        assert ended is None, "at least one trial always"
        return
    more = (len(trials) + 1) / len(trials)
    within = [
        len(trials) < 10,
        seconds is None or sum(spent for spent, _ in taken) * more <= seconds * (1 + 1e-9),
        money is None or sum(spent for _, spent in taken) * more <= money * (1 + 1e-9),
    ]
    assert (ended is None) == all(within)


@pytest.mark.parametrize(
    ("budget", "price", "trials", "why"),
    [
        ({"seconds": 35.0}, 0.0, 3, "seconds: 3 trials took 30 of 35, and another one like them would go beyond"),
        ({"seconds": 1.0}, 0.0, 1, "seconds: 1 trials took 10 of 1, and another"),
        ({"money": 4.0}, 360.0, 4, "money: 4 trials took 4 of 4, and another"),
        ({"money": 4.0, "seconds": 25.0}, 360.0, 2, "seconds: 2 trials took 20 of 25"),
        ({"money": 4.0}, 0.0, 6, "all 6 trials are done"),
    ],
)
def test_time_and_money_end_a_search(make_run: Callable[..., Path], budget: dict[str, float], price: float, trials: int, why: str) -> None:
    folder = make_run(count=9, recipe=replace(RECIPE, search=Search(space=SPACE, trials=6, **budget)))
    searched(folder, price=price)
    assert len(outcome(folder).trials) == trials
    assert outcome(folder).ended.startswith(why)
    assert json.loads((folder / "search.json").read_text())["cost"] == trials * 10 * price / 3600


@pytest.mark.parametrize(
    ("budget", "left"),
    [({}, [None, 50.0, 40.0, 30.0, 20.0, 10.0]), ({"seconds": 35.0}, [None, 20.0, 10.0]), ({"money": 4.0}, [None, 30.0, 20.0, 10.0])],
)
def test_while_it_goes_on_it_tells_the_trial_and_what_is_left_by_those_that_are_done(
    make_run: Callable[..., Path], budget: dict[str, float], left: list[float | None]
) -> None:
    """Trials of ten seconds, for 1 each: where a budget ends the search, no more of them are counted than it lets begin."""
    folder = make_run(count=9, recipe=replace(RECIPE, search=Search(space=SPACE, trials=6, **budget)))
    run, seen = TrainingRun.load(folder), []
    assert stand(folder, run) is None, "it has not begun"
    searched(folder, lambda place, trial: (seen.append(stand(folder, run)), figure(trial))[1], price=360.0)
    assert seen == [Stand(number, 6, seconds) for number, seconds in enumerate(left)]
    assert stand(folder, run) is None, "it has ended"


@pytest.mark.parametrize(("stands", "left"), [(4.0, 16.0), (25.0, 10.0)])
def test_what_stands_of_a_trial_is_not_left_and_one_that_takes_longer_shortens_no_other(
    make_run: Callable[..., Path], stands: float, left: float
) -> None:
    folder = make_run(count=9, recipe=replace(RECIPE, search=Search(space=SPACE, trials=3)))
    run, seen = TrainingRun.load(folder), []

    def halfway(place: Path, trial: TrainingRun) -> float:
        if place.name == "1":
            (place / "progress.jsonl").write_text(json.dumps({"seconds": stands}) + "\n")
            seen.append(stand(folder, run))
        return figure(trial)

    searched(folder, halfway)
    assert seen == [Stand(1, 3, left)]


def test_until_it_is_trained_a_run_needs_its_trials_and_the_longest_of_them_again_on_more_nights(make_run: Callable[..., Path]) -> None:
    folder = make_run(count=9, recipe=replace(RECIPE, search=Search(space=SPACE, trials=4)))
    run, seen = TrainingRun.load(folder), []
    nights = [(part.train_last - part.train_first).days + 1 for part in (run, held_back(run, 7))]
    searched(folder, lambda place, trial: (seen.append(seconds_left(folder, run)), figure(trial))[1])
    training = 10 * nights[0] / nights[1]
    assert training > 10
    assert seen == [None, *(pytest.approx(to_come + training) for to_come in (30, 20, 10))]
    assert seconds_left(folder, run) == pytest.approx(training), "the search has ended"
    shutil.rmtree(folder / "trials/3")
    (folder / "search.json").unlink()
    assert seconds_left(folder, run) == pytest.approx(10 + training), "between two trials nothing runs, and one is still to come"


def test_a_run_without_a_search_has_none_that_stands_anywhere(make_run: Callable[..., Path]) -> None:
    folder = make_run(count=9)
    assert stand(folder, TrainingRun.load(folder)) is None
    assert seconds_left(folder, TrainingRun.load(folder)) is None


def test_a_money_budget_on_a_machine_of_unknown_price_is_warned_of(make_run: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    searched(make_run(count=9, recipe=replace(RECIPE, search=Search(space=SPACE, trials=2, money=3.0))))
    assert "the search may cost 3, but nobody says what this machine costs: give --price-per-hour" in caplog.text


def test_a_trial_that_fails_is_told_with_its_reason_and_the_next_one_begins(make_run: Callable[..., Path]) -> None:
    def fails_twice(place: Path, run: TrainingRun) -> float:
        if place.name in "02":
            raise TrainingFailedError("the training loss is inf after round 3: the trees diverge")
        return figure(run)

    folder = make_run(count=9, recipe=RECIPE)
    searched(folder, fails_twice)
    states = [(trial.state, trial.average_precision is None, trial.reason) for trial in outcome(folder).trials]
    assert states[0] == states[2] == ("failed", True, "the training loss is inf after round 3: the trees diverge")
    assert {state for n, state in enumerate(states) if n not in (0, 2)} == {("finished", False, None)}
    assert all(trial.seconds == 10 for trial in outcome(folder).trials)


def test_values_that_cannot_be_together_are_a_failed_trial_that_costs_nothing(make_run: Callable[..., Path]) -> None:
    space = {"rounds": OneOf((12, 20)), "rounds_per_chunk": OneOf((4, 12))}
    folder = make_run(count=9, recipe=replace(RECIPE, rounds=20, search=Search(space=space, trials=6)))
    searched(folder)
    # Alone each of them is possible, so the space was not refused.
    space = {"rounds": OneOf((8, 20)), "rounds_per_chunk": OneOf((4, 8, 20))}
    folder = make_run("other", count=9, recipe=replace(RECIPE, rounds=20, search=Search(space=space, trials=20)))
    searched(folder)
    clash = [trial for trial in outcome(folder).trials if trial.parameters == {"rounds": 8, "rounds_per_chunk": 20}]
    assert clash
    assert {(trial.state, trial.seconds) for trial in clash} == {("failed", 0.0)}
    assert "1 <= rounds_per_chunk <= rounds, not 20 and 8" in (clash[0].reason or "")


def test_what_was_tried_before_is_not_trained_again(make_run: Callable[..., Path]) -> None:
    trained: list[str] = []
    folder = make_run(count=9, recipe=replace(RECIPE, search=Search(space={"max_bin": OneOf((64, 256))}, trials=8)))
    searched(folder, lambda place, run: (trained.append(place.name), 0.5)[1])
    trials = outcome(folder).trials
    assert len(trained) == 2
    assert {trial.reason for trial in trials if trial.seconds == 0} == {"as trial 0", f"as trial {trained[1]}"}
    assert {trial.average_precision for trial in trials} == {0.5}


def test_too_little_memory_ends_the_search_by_its_own_name_and_the_trials_before_it_stand(make_run: Callable[..., Path]) -> None:
    def swollen(place: Path, run: TrainingRun) -> float:
        if place.name == "2":
            raise TrainingOutOfMemoryError("the memory does not hold the rows")
        return figure(run)

    folder = make_run(count=9, recipe=RECIPE)
    with pytest.raises(TrainingOutOfMemoryError):
        searched(folder, swollen)
    assert [(folder / "trials" / name / "result.json").exists() for name in "012"] == [True, True, False]
    assert not (folder / "search.json").exists()


def test_too_few_nights_are_said_before_anything_is_read(make_run: Callable[..., Path]) -> None:
    folder = make_run(count=9, recipe=replace(RECIPE, search=Search(validation_nights=50)))
    with pytest.raises(NotMaturedError, match="the training nights 2018-06-01 to 2018-07-24 are too few for a search: 50 judge its trials"):
        searched(folder)


def test_a_search_of_other_code_or_another_recipe_is_refused(make_run: Callable[..., Path]) -> None:
    def dies(place: Path, run: TrainingRun) -> float:
        if place.name == "1":
            raise KeyboardInterrupt
        return figure(run)

    folder = make_run(count=9, recipe=RECIPE)
    with pytest.raises(KeyboardInterrupt):
        searched(folder, dies)
    with pytest.raises(CheckpointError, match=r"trials/0/result.json was made with other code: going on would mix two searches"):
        searched(folder, code="another")
    replace(TrainingRun.load(folder), recipe=replace(RECIPE, seed=1)).save(folder)
    with pytest.raises(CheckpointError, match="was made with other search"):
        searched(folder)
    replace(TrainingRun.load(folder), recipe=RECIPE).save(folder)
    searched(folder)
    with pytest.raises(CheckpointError, match=r"search.json was made with other code"):
        searched(folder, code="another")


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def test_a_search_that_dies_before_any_of_its_writes_comes_to_the_same_end(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial's variant, its result, and what was found: four trials write nine times."""
    recipe = replace(RECIPE, search=Search(space=SPACE, trials=4))
    undisturbed, write, left = make_run("undisturbed", count=9, recipe=recipe), search.write_durably, [99]
    searched(undisturbed)

    def mortal(path: Path, content: bytes) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write(path, content)

    for module in (search, run_module):
        monkeypatch.setattr(module, "write_durably", mortal)
    for survives in range(9):
        left[0] = 99
        folder = make_run(f"killed-{survives}", count=9, recipe=recipe)
        left[0] = survives
        with pytest.raises(Killed):
            searched(folder)
        left[0] = 99
        searched(folder)
        assert (folder / "search.json").read_bytes() == (undisturbed / "search.json").read_bytes()


# With the real trainer


@pytest.fixture
def make_search(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a run whose 54 training nights have 30 rows each."""
    # Threads that wait for each other's few microseconds of work are slower than one.
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def make(name: str, **fields: Any) -> Path:
        recipe = replace(RECIPE, search=Search(**{"space": SPACE, "trials": 4} | fields))
        return make_run(name, count=1620, nights=54, recipe=recipe)

    return make


def apart_from_clocks(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "search.json").read_text())
    clocks = ("seconds", "cost")
    trials = [{name: value for name, value in trial.items() if name not in clocks} for trial in told["trials"]]
    return {name: value for name, value in told.items() if name not in clocks} | {"trials": trials}


def train(folder: Path) -> int:
    return trainer.main(["--run", str(folder), "--at-risk-seconds", "0", "--price-per-hour", "3.6"])


def test_the_best_recipe_is_trained_on_all_rows_as_if_it_had_been_pinned_and_is_named_wherever_the_model_is(
    make_search: Callable[..., Path], make_run: Callable[..., Path]
) -> None:
    folder = make_search("searched")
    assert train(folder) == 0
    found = outcome(folder)
    assert len({trial.average_precision for trial in found.trials}) > 1
    plain = make_run("plain", count=1620, nights=54, recipe=found.recipe)
    assert train(plain) == 0
    model = (folder / "model/model.ubj").read_bytes()
    assert model == (plain / "model/model.ubj").read_bytes()
    result = json.loads((folder / "result.json").read_text())
    assert (result["train_rows"], result["search"]) == (1620, json.loads((folder / "search.json").read_text()))
    assert json.loads((folder / "model/features.json").read_text())["recipe"] == found.recipe.told()
    assert [trial.cost for trial in found.trials] == [pytest.approx(trial.seconds / 1000, abs=1e-5) for trial in found.trials]
    assert all(trial.seconds > 0 for trial in found.trials)
    assert not list(folder.glob("trials/*/checkpoints"))


def test_under_notice_a_trial_is_saved_and_the_same_command_goes_on(make_search: Callable[..., Path]) -> None:
    folder, undisturbed = make_search("warned"), make_search("undisturbed")
    (folder / "notice").touch()
    assert [train(folder) for _ in range(2)] == [75, 75]
    assert complete(folder / "trials/0/checkpoints") == [4, 8]
    (folder / "notice").unlink()
    assert train(folder) == train(undisturbed) == 0
    assert apart_from_clocks(folder) == apart_from_clocks(undisturbed)


def test_all_trainings_of_a_search_do_as_the_first_machine_does(make_search: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_search("moved")
    (folder / "notice").touch()
    assert train(folder) == 75
    (folder / "notice").unlink()
    monkeypatch.setattr(trees, "machine", lambda: {"threads": 3, "device": "NVIDIA L4"})
    assert train(folder) == 0
    assert json.loads((folder / "checkpoints/00000012.json").read_text())["body"]["machine"] == {"threads": 1, "device": "cpu"}


def test_a_search_does_not_go_on_with_another_gpu(
    make_search: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its next trial begins from nothing, and is not refused for a checkpoint's sake."""
    folder, boost, begun = make_search("moved"), trees.boost, []

    def mortal(margins: Any, matrix: Any, recipe: Trees, chunk: int, *rest: Any) -> Any:
        begun.extend([chunk] * (chunk == 0))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return boost(margins, matrix, recipe, chunk, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trees, "boost", mortal)
        with pytest.raises(KeyboardInterrupt):
            train(folder)
    kept = folder / "began.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"device": "NVIDIA L4"}))
    assert train(folder) == 1
    assert "CheckpointError: this training began on device NVIDIA L4, here is device cpu" in caplog.records[-1].getMessage()


def test_of_several_processes_the_first_one_searches_alone_and_the_others_wait_for_what_it_finds(
    make_search: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, boost, seen = make_search("ranks"), trees.boost, []

    def watched(margins: Any, matrix: Any, recipe: Trees, *rest: Any) -> Any:
        seen.append((bool((folder / "search.json").exists()), Ranks.here().size))
        return boost(margins, matrix, recipe, *rest)

    monkeypatch.setattr(trees, "boost", watched)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "sleep", lambda seconds: (monkeypatch.setenv("RANK", "0"), train(folder), monkeypatch.setenv("RANK", "1")))
    assert train(folder) == 0
    assert set(seen) == {(False, 1), (True, 2)}
    assert json.loads((folder / "model/features.json").read_text())["recipe"] == outcome(folder).recipe.told()


@pytest.mark.processes
def test_a_search_that_is_killed_again_and_again_finds_the_same_and_makes_the_same_model(
    make_search: Callable[..., Path], nursery: Any
) -> None:
    undisturbed, killed = make_search("undisturbed"), make_search("killed")
    began = time.monotonic()
    nursery.begin(undisturbed)
    assert nursery.end() == 0
    whole = time.monotonic() - began

    dice, at = np.random.default_rng(5), []
    while True:
        process = nursery.begin(killed)
        # Longer and longer: on a machine that is busy now, no trainer might ever get as far as to save.
        time.sleep(dice.uniform(0, whole / 8 * 1.03 ** len(at)))
        os.kill(process, signal.SIGKILL)
        if nursery.end() == 0:
            break
        at.append(len(list(killed.glob("trials/*/result.json"))))
    assert len(at) > 4, f"killed {len(at)} times only, when so many trials had ended: {at}"
    assert len(set(at)) > 1, at
    assert apart_from_clocks(killed) == apart_from_clocks(undisturbed)
    assert (killed / "model/model.ubj").read_bytes() == (undisturbed / "model/model.ubj").read_bytes()
