"""The sequence model: what it learns from whom, what a row may look at, and that neither a kill nor a neighbour changes anything."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from safetensors.torch import load as tensors_of

from include.nightshift.errors import TrainingFailedError
from include.nightshift.promote import metrics
from include.nightshift.train import interruption, models, sequence
from include.nightshift.train.recipes import Attention
from include.nightshift.train.rows import Context, Rows
from include.nightshift.train.run import finished
from include.nightshift.train.sequence import Histories, Training

NAMES = ("amount", "holes")
RECIPE = Attention(name="sequence", width=16, heads=2, bins=8, past_rows=8, window=16, batch=8, epochs=3, dropout=0.2)
DESCRIBED = {"kind": "sequence", "key": "key", "entity": "who", "event_time": "at"}
HERE = {"threads": 1, "device": "cpu", "processes": 1}
Program = Callable[..., list[str]]


def made(people: int = 60, each: int = 40, seed: int = 1) -> Rows:
    """Rows, six hours apart, of people; fraud follows on a large amount, so that no row alone tells of it."""
    random = np.random.default_rng(seed)
    amount = random.normal(size=(people, each))
    fraud = np.zeros((people, each), dtype="float32")
    fraud[:, 1:] = amount[:, :-1] > 1
    holes = np.where(random.random((people, each)) < 0.2, np.nan, random.normal(size=(people, each)))
    # Keys go through time, not through people, as those of events do.
    order = np.arange(people * each).reshape(people, each).T.ravel()
    entity = np.repeat(np.arange(people), each)[order]
    seconds = np.tile(np.arange(each) * 21_600.0, people)[order] + 1.5e9
    matrix = np.column_stack([amount.ravel(), holes.ravel()])[order].astype("float32")
    return Rows(matrix, fraud.ravel()[order], entity, seconds)


def table(rows: Rows) -> pa.Table:
    features = {name: rows.matrix[:, place].astype("float64") for place, name in enumerate(NAMES)}
    at = pa.array((rows.seconds * 1e6).astype("int64"), pa.timestamp("us", "UTC"))
    return pa.table({"key": np.arange(len(rows)), "who": rows.entity, "at": at, **features})


def train(rows: Rows, recipe: Attention = RECIPE, *, resume_at: tuple[int, ...] = ()) -> bytes:
    """To the end; at some steps in a learner that knows nothing but the state of the one before."""
    learning = Training(rows, NAMES, recipe, HERE)
    while learning.step < learning.steps:
        if learning.step in resume_at:
            step, state = learning.step, b"".join(learning.state())
            torch.manual_seed(step)  # whatever else threw the process's dice meanwhile
            learning = Training(rows, NAMES, recipe, HERE)
            learning.restore(step, state)
        learning.advance(lambda left: None)
    return learning.model()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made()


@pytest.fixture(scope="module")
def content(rows: Rows) -> bytes:
    return train(rows)


@pytest.fixture(scope="module")
def model(content: bytes) -> models.Model:
    return models.loads(content, DESCRIBED)


# What is learnt


def test_it_learns_what_only_the_rows_before_tell_in_seconds_on_a_cpu() -> None:
    long = replace(RECIPE, epochs=20, batch=32, dropout=0.0, learning_rate=1e-2)
    fresh = made(seed=2)
    score = models.loads(train(made(people=200), long), DESCRIBED).score(table(fresh))
    assert metrics.average_precision(fresh.target, score) > 0.9, f"the base rate is {fresh.target.mean():.2f}"


@pytest.mark.parametrize("window", [5, 16, 64])
def test_an_epoch_has_each_told_row_once_whatever_the_window(rows: Rows, window: int) -> None:
    history = Histories.of(rows.entity, rows.seconds, np.arange(len(rows)))
    places = history.windows(np.ones(len(rows), dtype=bool), window, 8)
    own = places[:, 8:]
    assert sorted(own[own >= 0]) == list(range(len(rows)))
    for row in places:
        stands = row[row >= 0]
        assert len(set(rows.entity[history.order[stands]])) == 1
        assert (np.diff(stands) == 1).all()
        # Beside the rows of the window stand as many rows before them as there are, up to eight.
        first = row[8]
        assert (row[:8] >= 0).sum() == min(8, first - history.first[first])


def test_rows_of_which_nobody_told_the_end_are_looked_at_and_not_learnt_from(rows: Rows) -> None:
    untold = replace(rows, target=np.where(np.arange(len(rows)) % 7 == 0, np.nan, rows.target).astype("float32"))
    learning = Training(untold, NAMES, RECIPE, HERE)
    losses, counts = zip(*(learning._loss(learning._batch(step)) for step in range(learning._batches)), strict=True)
    assert sum(int(count) for count in counts) == untold.told.sum()
    assert all(torch.isfinite(loss) for loss in losses)
    # Other targets of the same rows are other content, other features of untold ones too: they are seen.
    moved = replace(untold, matrix=np.where(untold.told[:, None], untold.matrix, untold.matrix + 1))
    assert train(moved, replace(RECIPE, epochs=1)) != train(untold, replace(RECIPE, epochs=1))
    assert moved.digest != untold.digest


def test_a_window_of_told_rows_alone_is_cut_out_of_a_history_of_others(rows: Rows) -> None:
    history = Histories.of(rows.entity, rows.seconds, np.arange(len(rows)))
    told = rows.entity[history.order] == 7
    places = history.windows(told, 16, 8)
    assert set(rows.entity[history.order[places[places >= 0]]]) == {7}


def test_edges_lie_where_rows_and_where_frauds_lie_and_a_value_has_its_place_among_them() -> None:
    values = np.append(np.arange(1000.0), [5000.0] * 20).astype("float32")
    matrix = np.column_stack([values, values % 2, np.full(1020, np.nan)])
    found = sequence.edges_of(Rows(matrix, (values == 5000).astype("float32"), np.arange(1020), np.arange(1020.0)), 8)
    assert found[0].tolist() == [0, 254, 509, 764, 5000]
    assert found[1].tolist() == [0, 1]
    assert found[2].tolist() == [0]
    places = sequence.places_of(np.array([[found[0][1], 0.25, 3.0], [9e9, 1.0, np.nan], [-1.0, np.nan, 0.0]]), found)
    np.testing.assert_array_equal(places, np.array([[1, 0.25, 0], [4, 1, np.nan], [0, np.nan, 0]], dtype="float32"))


def test_a_token_is_piecewise_linear_in_a_feature_with_a_place_of_its_own_for_missing() -> None:
    network = sequence.network_type()(sequence.Shape(1, 4, 8, 2, 0, 4, 30))
    weight = network.token.weight
    at = network.encode(torch.tensor([[0.0], [1.0], [2.5], [4.0], [math.nan]])) - network.token.bias
    wanted = [torch.zeros(8), weight[:, 0], weight[:, 0] + weight[:, 1] + weight[:, 2] / 2, weight[:, :4].sum(1), weight[:, 4]]
    torch.testing.assert_close(at, torch.stack(wanted))
    torch.testing.assert_close(network.pushes(torch.tensor([2.5]))[0], wanted[2])


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [sequence.rate(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


# Resuming


@pytest.mark.parametrize("resume_at", [(1,), (7, 8), (20,)])
def test_where_a_training_was_resumed_leaves_no_trace(rows: Rows, content: bytes, resume_at: tuple[int, ...]) -> None:
    assert hashlib.sha256(train(rows, resume_at=resume_at)).digest() == hashlib.sha256(content).digest()


def test_a_learner_that_drops_its_dice_fails_that_comparison(rows: Rows, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted defect: dropout thrown anew from the seed after a restart."""
    restore = Training._restore

    def without(self: Training, step: int, state: bytes) -> None:
        thrown = self._dice
        restore(self, step, state)
        self._dice = thrown

    monkeypatch.setattr(Training, "_restore", without)
    assert train(rows, resume_at=(7,)) != content


@pytest.mark.parametrize("lost", ["mean", "square"])
def test_a_learner_that_drops_half_of_its_optimiser_fails_it_too(
    rows: Rows, content: bytes, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors.torch, "load", lambda state: {n: t * (not n.startswith(lost)) for n, t in tensors_of(state).items()})
    assert train(rows, resume_at=(7,)) != content


def test_a_loss_that_is_no_number_names_its_step_and_what_to_change(rows: Rows) -> None:
    learning = Training(rows, NAMES, RECIPE, HERE)
    learning.advance(lambda left: None)
    with torch.no_grad():
        learning._network.fade.fill_(math.nan)
    with pytest.raises(TrainingFailedError, match="the training loss is nan after step 2: lower learning_rate"):
        learning.advance(lambda left: None)


@pytest.fixture
def quick(make_run: Callable[..., Path]) -> Callable[[str], Path]:
    """Makes a run of a thousand rows and a dozen steps."""
    return lambda name: make_run(name, count=1000, recipe=replace(RECIPE, batch=32, window=32, epochs=2))


@pytest.mark.processes
def test_killed_between_any_two_stretches_in_processes_of_their_own_the_model_is_the_undisturbed_one(
    quick: Callable[[str], Path], program: Program
) -> None:
    whole, killed = quick("whole"), quick("killed")
    assert subprocess.run(program(whole), check=False, capture_output=True).returncode == 0
    # Each process dies when it has done three stretches and saved them.
    sabotage = """
from include.nightshift.train import sequence
done, stretch = [], sequence.Training._stretch
def mortal(self, after_step):
    if len(done) == 3:
        os._exit(9)
    done.append(stretch(self, after_step))
    return done[-1]
sequence.Training._stretch = mortal
"""
    codes = []
    while not finished(killed):
        codes.append(subprocess.run(program(killed, sabotage), check=False, capture_output=True).returncode)
        assert len(codes) < 10
    assert codes.count(9) >= 2
    assert sha(killed) == sha(whole)
    assert json.loads((killed / "result.json").read_text())["resumed_from_step"] > 0


@pytest.mark.processes
def test_two_processes_train_one_model_resume_it_exactly_and_only_the_first_writes(quick: Callable[[str], Path], tmp_path: Path) -> None:
    whole, killed = quick("whole"), quick("killed")
    assert together(whole, tmp_path) == 0
    assert together(killed, tmp_path, mortal=True) == 1, "torchrun's own"
    assert interruption.left_status(killed) == interruption.OUT_OF_MEMORY
    assert finished(killed) is None
    assert len(list((killed / "checkpoints").glob("*.json"))) == 2
    assert together(killed, tmp_path) == 0
    assert sha(killed) == sha(whole)
    assert json.loads((killed / "result.json").read_text())["resumed_from_step"] > 0
    writers = {line.split()[-1] for line in (tmp_path / "writers").read_text().splitlines()}
    assert writers == {"0"}


def together(folder: Path, tmp_path: Path, *, mortal: bool = False) -> int:
    """Two processes on one machine, as torchrun starts them; notes the rank of whoever puts a file in place."""
    path = tmp_path / "ranked.py"
    path.write_text(_RANKED.format(mortal=mortal, writers=tmp_path / "writers"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--", str(path)]
    done = subprocess.run([*command, "--run", str(folder), "--at-risk-seconds", "0"], env=environment, capture_output=True, check=False)
    return done.returncode


_RANKED = """
import os, sys
import torch
from include.nightshift import durable
from include.nightshift.train import sequence
from include.nightshift.train.__main__ import main

done, stretch, placed = [], sequence.Training._stretch, durable.placed

def mortal(self, after_step):
    if {mortal} and len(done) == 3 and os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory, planted")
    done.append(stretch(self, after_step))
    return done[-1]

def noted(path):
    with open("{writers}", "a") as file:
        file.write(f"{{path.name}} by {{os.environ['RANK']}}\\n")
    return placed(path)

sequence.Training._stretch, durable.placed = mortal, noted
sys.exit(main())
"""


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "model/model.safetensors").read_bytes()).hexdigest()


# Scoring


def test_scores_are_what_the_training_network_says_of_windows(rows: Rows, content: bytes, model: models.Model) -> None:
    learning = Training(rows, NAMES, RECIPE, HERE)
    learning._network.load_state_dict({name: t for name, t in tensors_of(content).items() if name not in ("edges", "typical")})
    learning._network.eval()
    history = Histories.of(rows.entity, rows.seconds, np.arange(len(rows)))
    wanted = np.full(len(rows), np.nan)
    with torch.inference_mode():
        windows = learning._windows
        hours, seen = learning._sight(learning._seconds[windows.clamp(min=0)], windows >= 0)
        said = learning._network(learning._places[windows.clamp(min=0)], hours, seen).sigmoid().numpy()
    own = windows[:, 8:].numpy()
    wanted[history.order[own[own >= 0]]] = said[own >= 0]
    np.testing.assert_allclose(model.score(table(rows)), wanted, atol=1e-6)


def test_a_score_hangs_neither_on_the_order_of_rows_nor_on_who_else_is_asked_for(rows: Rows, model: models.Model) -> None:
    whole, given = model.score(table(rows)), table(rows)
    assert model.context == Context(rows=8, days=30)
    shuffled = np.random.default_rng(3).permutation(len(rows))
    np.testing.assert_allclose(model.score(given.take(shuffled)), whole[shuffled], atol=model.rounding)
    asked = rows.entity % 7 == 0
    np.testing.assert_allclose(model.score(given, asked), whole[asked], atol=model.rounding)
    alone = given.filter(pa.array(rows.entity == 3))
    np.testing.assert_allclose(model.score(alone), whole[rows.entity == 3], atol=model.rounding)
    assert len(np.unique(whole)) > 100


def test_a_row_sees_its_own_past_up_to_the_bounds_and_nothing_else(rows: Rows, model: models.Model) -> None:
    mine = np.flatnonzero(rows.entity == 5)
    judged = mine[20]
    asked = np.arange(len(rows)) == judged
    before = model.score(table(rows), asked)

    def after(*changed: int, seconds: float = 0.0) -> bool:
        matrix, when = rows.matrix.copy(), rows.seconds.copy()
        matrix[list(changed), 0] += 3
        when[list(changed)] += seconds
        return bool(abs(model.score(table(replace(rows, matrix=matrix, seconds=when)), asked) - before)[0] > model.rounding)

    assert after(judged)
    assert after(mine[19])
    assert after(mine[13]), "the eighth row back, itself the first, is looked at"
    assert not after(mine[12])
    assert not after(*mine[21:])
    assert not after(*np.flatnonzero(rows.entity != 5))
    assert not after(mine[19], seconds=-31 * 86_400.0) or after(mine[18])
    far = replace(rows, seconds=np.where(np.isin(np.arange(len(rows)), mine[20:]), rows.seconds + 40 * 86_400, rows.seconds))
    only = table(far).filter(pa.array(np.arange(len(rows)) == judged))
    np.testing.assert_allclose(model.score(table(far), asked), model.score(only), atol=model.rounding)


def test_reasons_are_features_whose_median_would_have_lowered_the_score(rows: Rows, model: models.Model) -> None:
    given, medians = table(rows), np.nanmedian(rows.matrix, axis=0)
    asked = np.arange(len(rows)) % 211 == 0
    reasons, whole = model.reasons(given, 2, asked), model.score(given, asked)
    assert reasons.shape == (asked.sum(), 2)
    for place, row in enumerate(np.flatnonzero(asked)):
        lost = {}
        for column, name in enumerate(NAMES):
            matrix = rows.matrix.copy()
            matrix[row, column] = medians[column]
            lost[name] = whole[place] - model.score(table(replace(rows, matrix=matrix)), np.arange(len(rows)) == row)[0]
        told = [name for name in reasons[place] if name]
        assert all(lost[name] > -1e-6 for name in told)
        assert told == sorted(told, key=lambda name: -lost[name])
    assert any(reasons[:, 0] != None)  # noqa: E711 - numpy compares element by element


def test_nothing_is_a_night_too(rows: Rows, model: models.Model) -> None:
    assert model.score(table(rows).slice(0, 0)).shape == (0,)
    assert model.score(table(rows), np.zeros(len(rows), dtype=bool)).shape == (0,)
    assert model.reasons(table(rows).slice(0, 0), 3).shape == (0, 3)


def test_what_is_no_model_is_refused_with_advice() -> None:
    with pytest.raises(TrainingFailedError, match="take it from its MLflow run again"):
        models.loads(b"nonsense", DESCRIBED)
