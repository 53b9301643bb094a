"""What MLflow is told: everything once, and a model that scores as its file does."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from include.nightshift.train import tracking, trees
from include.nightshift.train.checkpoint import Progress
from include.nightshift.train.run import TrainingRun, read_rows

HISTORY = (
    Progress(4, 0.5, 0.30, "2026-11-20T00:00:00+00:00"),
    Progress(8, 0.4, 0.25, "2026-11-20T00:00:01+00:00"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("mlflow")
    url = f"sqlite:///{home}/mlflow.db"
    # The experiment is made here, to have its artifacts beside the database; a server decides that by itself.
    mlflow.MlflowClient(url, url).create_experiment("card_fraud", artifact_location=(home / "artifacts").as_uri())
    return url


@pytest.fixture
def trained(make_run: Callable[..., Path], store: str) -> tuple[TrainingRun, Path, bytes, np.ndarray]:
    folder = make_run(mlflow_url=store)
    run = TrainingRun.load(folder)
    rows = read_rows(folder / "data/train", run)
    model, _, _ = trees.boost(None, trees.quantise(rows, run.features, run.recipe, 2), run.recipe, 0, 2)
    (folder / "model").mkdir()
    for name, content in (("model.ubj", model), ("features.json", b"[]"), ("reference.json", b"{}")):
        (folder / "model" / name).write_bytes(content)
    return run, folder, model, rows.matrix


def track(trained: tuple[TrainingRun, Path, bytes, np.ndarray]) -> str:
    run, folder, model, matrix = trained
    return tracking.track(run, folder, trees.Boosted.loads(model), HISTORY, matrix[:5], {"nightshift.model_sha256": "s"})


def test_one_run_holds_parameters_losses_tags_files_and_model(
    trained: tuple[TrainingRun, Path, bytes, np.ndarray], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, model, matrix = trained
    client = mlflow.MlflowClient(store, store)

    # The machine dies with everything but the model told.
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_log_model", die)
        with pytest.raises(KeyboardInterrupt):
            track(trained)
    run_id = track(trained)
    assert track(trained) == run_id
    assert [found.info.run_id for found in client.search_runs([client.get_experiment_by_name("card_fraud").experiment_id])] == [run_id]

    told = client.get_run(run_id)
    assert told.info.status == "FINISHED"
    assert told.data.params["recipe"] == "trees"
    assert told.data.params["subsample"] == "0.7"
    assert told.data.params["train_last"] == "2018-07-24"
    assert told.data.params["version.gold.card_fraud_features"] == "12"
    assert told.data.tags["nightshift.run_id"] == run.run_id
    assert told.data.tags["nightshift.data_digest"] == "d1"
    assert told.data.tags["nightshift.model_sha256"] == "s"
    assert told.data.tags["mlflow.source.git.commit"] == "0123abc"
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "train_logloss")] == [(4, 0.30), (8, 0.25)]
    files = {file.path for file in client.list_artifacts(run_id, tracking.ARTIFACTS)}
    assert files == {"training/model.ubj", "training/features.json", "training/reference.json"}

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


def test_a_server_that_cannot_be_reached_is_an_error_and_not_a_silence(
    trained: tuple[TrainingRun, Path, bytes, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run, *rest = trained
    from dataclasses import replace

    with pytest.raises(mlflow.exceptions.MlflowException):
        track((replace(run, mlflow_url="http://127.0.0.1:9"), *rest))
