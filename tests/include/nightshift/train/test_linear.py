"""The linear model: the optimum that scikit-learn finds, exact when resumed, and the same score whoever stands beside a row."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from include.nightshift.errors import TrainingFailedError
from include.nightshift.train import linear, models
from include.nightshift.train.recipes import Linear
from include.nightshift.train.rows import Rows

NAMES = ["up", "down", "holes"]
RECIPE = Linear(name="linear", steps=8, reg_lambda=2.0)


@pytest.fixture(scope="module")
def rows() -> Rows:
    random = np.random.default_rng(5)
    matrix = (random.normal(size=(2000, 3)) * [1, 100, 1] + [0, 1000, 0]).astype("float32")
    odds = matrix[:, 0] - matrix[:, 1] / 100 + 10 + 2 * (np.arange(2000) % 7 == 0) + random.normal(size=2000)
    matrix[::7, 2] = np.nan
    return Rows(matrix, (odds > 1).astype("float32"), np.arange(2000), np.arange(2000.0))


def fit(rows: Rows, recipe: Linear = RECIPE, *, resume_at: tuple[int, ...] = ()) -> tuple[bytes, list[float]]:
    learning, losses = linear.Fitting(rows, NAMES, recipe, 1), []
    while learning.step < learning.steps:
        if learning.step in resume_at:
            step, state = learning.step, b"".join(map(bytes, learning.state()))
            learning = linear.Fitting(rows, NAMES, recipe, 1)
            learning.restore(step, state)
        losses.append(learning.advance(lambda left: None))
    return learning.model(), losses


def table(rows: Rows) -> pa.Table:
    return pa.table({name: rows.matrix[:, place].astype("float64") for place, name in enumerate(NAMES)})


@pytest.mark.parametrize("resume_at", [(1,), (3, 4), tuple(range(1, 8))])
def test_where_a_training_was_resumed_leaves_no_trace(rows: Rows, resume_at: tuple[int, ...]) -> None:
    assert fit(rows, resume_at=resume_at)[0] == fit(rows)[0]


def test_a_learner_that_forgets_its_weights_fails_that_comparison(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted defect: the comparison above must be able to fail."""
    short = Linear(name="linear", steps=3, reg_lambda=2.0)
    whole = fit(rows, short)[0]
    monkeypatch.setattr(linear.Fitting, "restore", lambda self, step, state: setattr(self, "_step", step))
    assert fit(rows, short, resume_at=(2,))[0] != whole


def test_the_weights_are_those_that_scikit_learn_finds_for_the_same_loss(rows: Rows) -> None:
    content, losses = fit(rows)
    told = json.loads(content)
    values = np.column_stack([[term["mean"], term["scale"], term["median"]] for term in told["terms"]])
    standard = (np.where(np.isnan(rows.matrix), values[2], rows.matrix) - values[0]) / values[1]
    design = np.column_stack([standard, np.isnan(rows.matrix)])
    theirs = LogisticRegression(C=1 / RECIPE.reg_lambda, tol=1e-10, max_iter=1000).fit(design, rows.target)
    ours = [term["weight"] for term in told["terms"]] + [term["missing"] for term in told["terms"]]
    np.testing.assert_allclose(ours, theirs.coef_[0], rtol=1e-4, atol=1e-5)
    assert told["intercept"] == pytest.approx(theirs.intercept_[0], rel=1e-4)
    np.testing.assert_allclose(models.loads(content, {"kind": "linear"}).score(table(rows)), theirs.predict_proba(design)[:, 1], atol=1e-5)
    assert losses == sorted(losses, reverse=True) or max(np.diff(losses)) < 1e-9
    assert told["terms"][2]["missing"] > 1, "being missing told nothing, though every seventh row's odds hang on it"


def test_a_score_hangs_on_nothing_but_the_row_and_reasons_are_the_largest_pushes(rows: Rows) -> None:
    model = models.loads(fit(rows)[0], {"kind": "linear"})
    whole = model.score(table(rows))
    assert model.context is None
    assert model.rounding == 0
    for begin, end in ((0, 1), (3, 20), (1000, 1999)):
        np.testing.assert_array_equal(model.score(table(rows).slice(begin, end - begin)), whole[begin:end])
    asked = np.arange(2000) % 5 == 0
    np.testing.assert_array_equal(model.score(table(rows), asked), whole[asked])
    row = pa.table({"up": [3.0], "down": [950.0], "holes": [0.0]})
    assert model.reasons(row, 3)[0].tolist()[:2] == ["up", "down"]
    assert model.reasons(pa.table({"up": [0.5], "down": [1300.0], "holes": [None]}).cast(row.schema), 2)[0].tolist() == ["holes", "up"]


def test_columns_that_say_nothing_do_no_harm() -> None:
    random = np.random.default_rng(1)
    matrix = np.column_stack([random.normal(size=500), np.full(500, 7.0), np.full(500, np.nan)]).astype("float32")
    made = Rows(matrix, (matrix[:, 0] > 0.5).astype("float32"), np.arange(500), np.arange(500.0))
    terms = json.loads(fit(made)[0])["terms"]
    assert terms[1]["weight"] == 0
    assert terms[2]["weight"] == 0


def test_what_is_no_model_is_refused_with_advice() -> None:
    with pytest.raises(TrainingFailedError, match="take it from its MLflow run again"):
        models.loads(b'{"terms": []}', {"kind": "linear"})


def test_the_command_trains_it_and_resumes_it(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from include.nightshift.train import __main__ as trainer
    from include.nightshift.train import run as folders

    quiet, killed = (make_run(name, recipe=RECIPE) for name in ("quiet", "killed"))
    assert trainer.main(["--run", str(quiet)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(linear.Fitting, "model", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trainer.main(["--run", str(killed)])
    assert trainer.main(["--run", str(killed)]) == 0
    assert (killed / "model/model.json").read_bytes() == (quiet / "model/model.json").read_bytes()
    assert json.loads((killed / "model/features.json").read_text())["kind"] == "linear"
    assert folders.finished(killed)
