"""Tracking: the finished model told to MLflow, once, however often the program is restarted.

MLflow is imported here and only now: it costs seconds, and an attempt that will be preempted should not pay them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.train import run as folders
from include.nightshift.train.checkpoint import Progress
from include.nightshift.train.run import TrainingRun
from include.nightshift.train.trees import Boosted

if TYPE_CHECKING:
    import numpy as np
    import xgboost as xgb

    from include.nightshift.train.models import Model

RUN_TAG = "nightshift.run_id"
"""The tag by which a restart finds the run that an earlier attempt began."""

MODEL_NAME = "model"
ARTIFACTS = "training"
"""The folder `model/` as it lies in the MLflow run; not called `model`, because `runs:/<id>/model` is the logged model."""

_QUIET = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""A training machine has no git and needs no probing; what is worth knowing, run.json says."""


def track(run: TrainingRun, folder: Path, model: Model, history: Sequence[Progress], sample: np.ndarray, tags: dict[str, str]) -> str:
    """Log parameters, loss by round, model and files; returns the MLflow run id. A run that is logged already is left as it is.

    `sample`: a row like those of the matrix, kept with the model as its input example.

    Raises:
        mlflow.exceptions.MlflowException: the tracking server refuses or cannot be reached; the same command tries again.
    """
    os.environ.update(_QUIET)
    import mlflow

    mlflow.set_tracking_uri(run.mlflow_url)
    # Named too: else MLflow asks a Spark session that this process may have whether it knows one.
    mlflow.set_registry_uri(run.mlflow_url)
    client = mlflow.MlflowClient()
    mlflow_run = _run(client, run)
    run_id = mlflow_run.info.run_id
    if mlflow_run.info.status == "FINISHED":
        return run_id
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(name, str(value)) for name, value in _parameters(run).items()]
    # Time stamps of the history, not of now: logging the same point twice then changes nothing.
    metrics = [
        Metric(name, value, int(datetime.fromisoformat(point.at).timestamp() * 1000), point.step)
        for point in history
        for name, value in (("train_logloss", point.loss), ("stretch_seconds", point.seconds))
    ]
    client.log_batch(run_id, metrics=metrics, params=params, tags=[RunTag(name, value) for name, value in tags.items()])
    client.log_artifacts(run_id, str(folder / folders.MODEL_FOLDER), ARTIFACTS)
    with mlflow.start_run(run_id=run_id):  # closing it marks it FINISHED
        if isinstance(model, Boosted):  # MLflow has a form of its own for these; any other kind is its files
            _log_model(run, model.booster, sample)
    return run_id


def _run(client: Any, run: TrainingRun) -> Any:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(run.experiment)
    if experiment is None:
        try:
            experiment_id = client.create_experiment(run.experiment)
        except MlflowException:
            # Another run of the same use case may have made it a moment ago; any other trouble shows again here.
            experiment = client.get_experiment_by_name(run.experiment)
            if experiment is None:
                raise
    if experiment is not None:
        experiment_id = experiment.experiment_id
    found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{run.run_id}'", order_by=["attributes.start_time ASC"], max_results=1)
    if found:
        return found[0]
    tags = {
        RUN_TAG: run.run_id,
        "nightshift.use_case": run.use_case,
        "nightshift.data_digest": run.data_digest,
        "nightshift.as_of": run.as_of.isoformat(),
        "mlflow.source.git.commit": run.git_commit,
    }
    return client.create_run(experiment_id, tags=tags, run_name=run.run_id)


def _parameters(run: TrainingRun) -> dict[str, Any]:
    nights = {name: getattr(run, name) for name in ("train_first", "train_last", "holdout_first", "holdout_last", "as_of")}
    versions = {f"version.{table}": version for table, version in run.versions.items()}
    recipe = run.recipe.told()
    return {"recipe": recipe.pop("name"), **recipe, **nights, **versions, "features": ",".join(run.features)}


def _log_model(run: TrainingRun, booster: xgb.Booster, sample: np.ndarray) -> None:
    import mlflow.xgboost
    import numpy
    import pandas as pd
    import xgboost
    from mlflow.types import ColSpec, DataType, Schema

    example = pd.DataFrame(sample.astype("float64"), columns=list(run.features))
    signature = mlflow.models.ModelSignature(
        inputs=Schema([ColSpec(DataType.double, name) for name in run.features]),
        outputs=Schema([ColSpec(DataType.float)]),
    )
    mlflow.xgboost.log_model(
        booster,
        name=MODEL_NAME,
        model_format="ubj",
        signature=signature,
        input_example=example,
        # Named, so that MLflow does not load the model in yet another process to find out.
        pip_requirements=[f"xgboost=={xgboost.__version__}", f"numpy=={numpy.__version__}", f"pandas=={pd.__version__}"],
    )
