"""What MLflow is told: everything once, and a model that scores as its file does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from include.nightshift.errors import TrainingFailedError
from include.nightshift.train import __main__ as trainer
from include.nightshift.train import models, tracking, trees
from include.nightshift.train.recipes import Linear
from include.nightshift.train.run import TrainingRun, read_rows
from include.nightshift.train.search import outcome
from include.nightshift.train.space import Between, Search


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("mlflow")
    url = f"sqlite:///{home}/mlflow.db"
    # The experiment is made here, to have its artifacts beside the database; a server decides that by itself.
    mlflow.MlflowClient(url, url).create_experiment("card_fraud", artifact_location=(home / "artifacts").as_uri())
    return url


@pytest.fixture
def trained(make_run: Callable[..., Path], store: str) -> Path:
    """A run that its trainer has finished."""
    folder = make_run(mlflow_url=store)
    assert trainer.main(["--run", str(folder)]) == 0
    return folder


def test_one_run_holds_parameters_losses_tags_files_and_model(trained: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingRun.load(trained)
    model, matrix = (trained / "model/model.ubj").read_bytes(), read_rows(trained / "data/holdout", run).matrix
    client = mlflow.MlflowClient(store, store)

    # The worker dies with everything but the model told.
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_log_model", die)
        with pytest.raises(KeyboardInterrupt):
            tracking.track(trained)
    run_id = tracking.track(trained)
    assert tracking.track(trained) == run_id
    assert [found.info.run_id for found in client.search_runs([client.get_experiment_by_name("card_fraud").experiment_id])] == [run_id]

    told = client.get_run(run_id)
    assert told.info.status == "FINISHED"
    assert told.data.params["recipe"] == "trees"
    assert told.data.params["subsample"] == "0.7"
    assert told.data.params["train_last"] == "2018-07-24"
    assert told.data.params["version.gold.card_fraud_features"] == "12"
    assert told.data.tags["nightshift.run_id"] == run.run_id
    assert told.data.tags["nightshift.data_digest"] == "d1"
    assert told.data.tags["nightshift.model_sha256"] == models.sha256(trained / "model")
    assert told.data.tags["mlflow.source.git.commit"] == "0123abc"
    lines = [json.loads(line) for line in (trained / "progress.jsonl").read_text().splitlines()]
    losses = [(point.step, point.value) for point in client.get_metric_history(run_id, "train_logloss")]
    assert losses == [(line["step"], pytest.approx(line["loss"])) for line in lines] != []
    files = {file.path for file in client.list_artifacts(run_id, tracking.ARTIFACTS)}
    assert files == {f"training/{name}" for name in ("model.ubj", "features.json", "reference.json", "example.json")}

    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    uri = f"runs:/{run_id}/{tracking.MODEL_NAME}"
    wanted = trees.predict(trees.load_booster(model), matrix, run.features)
    np.testing.assert_array_equal(trees.predict(mlflow.xgboost.load_model(uri), matrix, run.features), wanted)
    frame = pd.DataFrame(matrix.astype("float64"), columns=list(run.features))
    served = mlflow.pyfunc.load_model(uri)
    np.testing.assert_array_equal(served.predict(frame), wanted.astype("float32"))
    assert served.metadata.get_input_schema().input_names() == list(run.features)
    assert served.input_example is not None
    assert [tracked.name for tracked in mlflow.search_logged_models(output_format="list", experiment_ids=[told.info.experiment_id])].count(
        "model"
    ) == 1


def test_a_server_that_cannot_be_reached_is_an_error_and_not_a_silence(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    replace(TrainingRun.load(trained), mlflow_url="http://127.0.0.1:9").save(trained)
    with pytest.raises(mlflow.exceptions.MlflowException):
        tracking.track(trained)


def test_a_run_that_is_not_finished_is_not_told_of(make_run: Callable[..., Path], store: str) -> None:
    with pytest.raises(TrainingFailedError, match="train it to its end"):
        tracking.track(make_run(mlflow_url=store))


def test_of_a_searched_run_the_recipe_that_was_found_is_told_also_where_nothing_but_its_result_came_home(
    make_run: Callable[..., Path], store: str
) -> None:
    search = Search(space={"reg_lambda": Between(0.01, 1000.0, log=True)}, trials=3)
    folder = make_run(
        count=1620, nights=54, run_id="searched", mlflow_url=store, recipe=Linear(name="linear", reg_lambda=1000, search=search)
    )
    assert trainer.main(["--run", str(folder)]) == 0
    found = outcome(folder)
    (folder / "search.json").unlink()
    told = mlflow.MlflowClient(store, store).get_run(tracking.track(folder)).data
    assert found.recipe != Linear(name="linear", reg_lambda=1000)
    assert told.params["reg_lambda"] == str(found.recipe.told()["reg_lambda"])
    assert "search" not in told.params
    assert told.metrics["validation_average_precision"] == pytest.approx(found.average_precision)
