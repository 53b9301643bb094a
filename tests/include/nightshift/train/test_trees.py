"""Boosted trees: chunks are pure, scores are XGBoost's own, reasons are the pushes upward."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import xgboost as xgb

from include.nightshift.errors import ConfigurationError, TrainingFailedError
from include.nightshift.train import gpus, trees
from include.nightshift.train.recipes import Trees
from include.nightshift.train.rows import Rows

NAMES = ["up", "down", "noise"]
RECIPE = Trees(name="trees", rounds=20, rounds_per_chunk=8, max_depth=3, subsample=0.7, colsample_bytree=0.7, max_bin=64)


@pytest.fixture(scope="module")
def rows() -> Rows:
    random = np.random.default_rng(5)
    matrix = random.normal(size=(2000, 3)).astype("float32")
    matrix[::7, 2] = np.nan
    return Rows(matrix, (matrix[:, 0] - matrix[:, 1] + random.normal(size=2000) > 1).astype("float32"), np.arange(2000), np.arange(2000.0))


def grow(rows: Rows, recipe: Trees = RECIPE, *, resume_at: tuple[int, ...] = (), threads: int = 1, device: str = trees.CPU) -> bytes:
    """Train to the end; at some chunks in a learner that knows nothing but the state of the one before."""
    learning = trees.Boosting(rows, NAMES, recipe, threads, device)
    chunk = 0
    while learning.step < learning.steps:
        if chunk in resume_at:
            step, state = learning.step, b"".join(learning.state())
            learning = trees.Boosting(rows, NAMES, recipe, threads, device)
            learning.restore(step, state)
        learning.advance(lambda rounds_left: None)
        chunk += 1
    return learning.model()


@pytest.fixture(scope="module")
def booster(rows: Rows) -> xgb.Booster:
    return trees.load_booster(grow(rows))


@pytest.mark.parametrize("resume_at", [(1,), (2,), (1, 2)])
def test_where_a_training_was_resumed_leaves_no_trace(rows: Rows, resume_at: tuple[int, ...]) -> None:
    assert hashlib.sha256(grow(rows, resume_at=resume_at)).digest() == hashlib.sha256(grow(rows)).digest()


@pytest.mark.parametrize("resume_at", [(1,), (2,), (1, 2)])
def test_nor_does_it_on_a_gpu(rows: Rows, resume_at: tuple[int, ...]) -> None:
    device = str(trees.machine()["device"])
    if device == trees.CPU:
        pytest.skip("XGBoost has no GPU here")
    assert grow(rows, resume_at=resume_at, device=device) == grow(rows, device=device)


def test_the_driver_may_have_a_gpu_that_xgboost_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for one all the same it would train on the cores, and the checkpoint would name the GPU."""
    if trees.machine()["device"] != trees.CPU:
        pytest.skip("XGBoost has a GPU here")
    monkeypatch.setattr(gpus, "name", lambda: "NVIDIA L4")
    assert trees.machine()["device"] == trees.CPU
    monkeypatch.setattr(trees, "_takes_a_gpu", lambda: True)
    assert trees.machine()["device"] == "NVIDIA L4"


def test_the_joined_model_says_of_the_rows_what_they_had_reached(rows: Rows) -> None:
    learning = trees.Boosting(rows, NAMES, RECIPE, 1)
    while learning.step < learning.steps:
        learning.advance(lambda rounds_left: None)
    (head, margins, *chunks) = learning.state()
    booster = trees.load_booster(learning.model())
    assert len(chunks) == 3
    said = booster.predict(xgb.DMatrix(rows.matrix, feature_names=NAMES), output_margin=True)
    np.testing.assert_array_equal(said, np.frombuffer(margins, dtype="float32"))
    assert json.loads(bytes(head)) == [4 * len(rows), *map(len, chunks)]


def test_a_chunk_by_itself_is_what_xgboost_makes_upon_the_model_before(rows: Rows) -> None:
    """Handing on the margins is XGBoost's own continuation with a seed of its own, without working out the margins again."""
    matrix, model = trees.quantise(rows, NAMES, RECIPE, 1), None
    for chunk in range(3):
        rounds = trees.rounds_done(RECIPE, chunk + 1) - trees.rounds_done(RECIPE, chunk)
        model = xgb.train(trees._parameters(RECIPE, chunk, 1), matrix, rounds, xgb_model=model)
    assert model is not None
    ours = trees.load_booster(grow(rows))
    assert ours.get_dump(with_stats=True) == model.get_dump(with_stats=True)
    np.testing.assert_array_equal(ours.inplace_predict(rows.matrix), model.inplace_predict(rows.matrix))


def test_the_number_of_threads_leaves_no_trace_in_a_small_model(rows: Rows) -> None:
    assert grow(rows, threads=2) == grow(rows, threads=1)


def test_rows_and_columns_really_are_sampled(rows: Rows) -> None:
    """Otherwise byte identity would be cheap."""
    assert grow(rows, replace(RECIPE, seed=1)) != grow(rows, replace(RECIPE, seed=2))


def test_the_last_chunk_takes_the_rounds_that_are_left(rows: Rows, booster: xgb.Booster) -> None:
    assert [trees.rounds_done(RECIPE, chunk) for chunk in range(4)] == [0, 8, 16, 20]
    assert booster.num_boosted_rounds() == 20


def test_every_chunk_has_its_own_seed() -> None:
    seeds = [trees.chunk_seed(seed, chunk) for seed in (1, 2) for chunk in range(100)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_loss_that_is_no_number_is_named_as_such(rows: Rows) -> None:
    recipe = replace(RECIPE, learning_rate=float("nan"))
    with pytest.raises(TrainingFailedError, match="the training loss is nan after round 1: the trees diverge"):
        grow(rows, recipe)


def test_scores_are_xgboosts_own_whatever_the_width_of_floats(rows: Rows, booster: xgb.Booster) -> None:
    wanted = booster.predict(xgb.DMatrix(rows.matrix, feature_names=NAMES)).astype("float64")
    for matrix in (rows.matrix, rows.matrix.astype("float64")):
        scores = trees.predict(booster, matrix, NAMES, threads=2)
        assert scores.dtype == np.float64
        np.testing.assert_array_equal(scores, wanted)


def test_contributions_add_up_to_the_log_odds(rows: Rows, booster: xgb.Booster) -> None:
    some = xgb.DMatrix(rows.matrix[:50], feature_names=NAMES)
    base = booster.predict(some, pred_contribs=True)[:, -1]
    total = trees.contributions(booster, rows.matrix[:50], NAMES).sum(axis=1) + base
    np.testing.assert_allclose(total, booster.predict(some, output_margin=True), atol=1e-4)


def test_reasons_are_the_strongest_pushes_upward_and_none_where_nothing_pushes(booster: xgb.Booster) -> None:
    matrix = np.array([[3, -3, 0], [3, 3, 0], [-3, 3, 0]], dtype="float64")
    reasons = trees.top_reasons(booster, matrix, NAMES, k=2)
    pushes = trees.contributions(booster, matrix, NAMES)
    assert set(reasons[0]) == {"up", "down"}
    assert reasons[1, 0] == "up"
    assert "down" not in reasons[1]
    assert not {"up", "down"} & set(reasons[2])
    for row, names in enumerate(reasons):
        given = [pushes[row, NAMES.index(name)] for name in names if name is not None]
        assert given == sorted(given, reverse=True)
        assert all(push > 0 for push in given)
        assert len(given) == min(2, (pushes[row] > 0).sum())


def test_more_reasons_than_features_leave_the_rest_empty(booster: xgb.Booster) -> None:
    assert trees.top_reasons(booster, np.zeros((4, 3)), NAMES, k=5).shape == (4, 5)
    assert list(trees.top_reasons(booster, np.zeros((4, 3)), NAMES, k=5)[:, 3]) == [None] * 4


def test_an_empty_batch_has_no_scores_and_no_reasons(booster: xgb.Booster) -> None:
    assert trees.predict(booster, np.zeros((0, 3)), NAMES).shape == (0,)
    assert trees.top_reasons(booster, np.zeros((0, 3)), NAMES, k=2).shape == (0, 2)


@pytest.mark.parametrize("names", [["down", "up", "noise"], ["up", "down"], ["up", "down", "other"]])
def test_columns_that_are_not_the_models_are_refused(booster: xgb.Booster, names: list[str]) -> None:
    matrix = np.zeros((2, len(names)))
    with pytest.raises(ConfigurationError, match=r"features\.json"):
        trees.predict(booster, matrix, names)
    with pytest.raises(ConfigurationError, match=r"features\.json"):
        trees.top_reasons(booster, matrix, names)


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(TrainingFailedError, match="cannot be read as a model"):
        trees.load_booster(b"nonsense")
