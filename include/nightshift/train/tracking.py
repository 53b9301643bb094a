"""Tracking: a finished run told to MLflow, once, by whoever had it trained.

All it tells lies in the run folder: a training machine needs no way to MLflow, and is not paid for telling.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import TrainingFailedError
from include.nightshift.settings import ROOT
from include.nightshift.spot.attempts import ledger
from include.nightshift.train import certificate, children, environment, models, search
from include.nightshift.train import run as folders
from include.nightshift.train.run import TrainingRun
from include.nightshift.train.trees import Boosted

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from mlflow.models import ModelSignature

    from include.nightshift.train.models import Model

RUN_TAG = "nightshift.run_id"
"""The tag by which a restart finds the run that an earlier attempt began."""

MODEL_NAME = "model"
STORY = "story"
"""The folder with the resume certificate, the hashes of the rows, and what the model was made with."""

ARTIFACTS = "training"
"""The folder `model/` as it lies in the MLflow run; not called `model`, because `runs:/<id>/model` is the logged model."""

LOOKS_BACK = "The rows of one call see each other: give each entity's earlier rows too, and keep the scores of those that are asked for."
"""What a model that looks back says of its input."""

_QUIET = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Where this runs needs no probing; what is worth knowing, run.json says."""


def track(folder: Path) -> str:
    """Log parameters, loss by step, machines and trials, model and files of a finished run; returns the MLflow run id.

    One that is logged is left as it is.

    Raises:
        TrainingFailedError: the run is not finished, or its model is not the one that its result names.
        mlflow.exceptions.MlflowException: the tracking server refuses or cannot be reached; the same call tries again.
    """
    os.environ.update(_QUIET)
    import mlflow

    run, result = TrainingRun.load(folder), folders.finished(folder)
    if result is None:
        raise TrainingFailedError(f"{folder} has no result that matches its model: train it to its end, then track it")
    parts, run = children.of(folder, run), search.found(folder, run)
    mlflow.set_tracking_uri(run.mlflow_url)
    # Named too: else MLflow asks a Spark session that this process may have whether it knows one.
    mlflow.set_registry_uri(run.mlflow_url)
    client = mlflow.MlflowClient()
    mlflow_run = _run(client, run)
    run_id = str(mlflow_run.info.run_id)
    if mlflow_run.info.status == "FINISHED":
        return run_id
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(name, str(value)) for name, value in _parameters(run).items()]
    # Time stamps of the history, not of now: logging the same point twice then changes nothing.
    metrics = [
        Metric(name, point[column], int(datetime.fromisoformat(point["at"]).timestamp() * 1000), point["step"])
        for point in map(json.loads, (folder / folders.PROGRESS).read_text().splitlines())
        for name, column in (("train_logloss", "loss"), ("stretch_seconds", "seconds"))
    ]
    if "search" in result:
        ended = int((folder / folders.RESULT).stat().st_mtime * 1000)
        metrics.append(Metric("validation_average_precision", result["search"]["average_precision"], ended, metrics[-1].step))
    attempts = ledger(folder)
    if attempts:
        ended = max(children.milliseconds(attempt.ended_at) for attempt in attempts)
        metrics += [Metric(name, value, ended, 0) for name, value in children.sums(attempts).items()]
    metrics += children.points(children.unclaimed(folder))
    proven = certificate.certificate(folder, attempts)
    told = {
        "nightshift.model_sha256": result["model_sha256"],
        "nightshift.resume_certificate": "complete" if proven.complete else "; ".join(proven.reasons)[:5000],
    }
    tags = [RunTag(name, value) for name, value in told.items()]
    client.log_batch(run_id, params=params, tags=tags)
    client.log_inputs(run_id, _inputs(run))
    children.log(client, run_id, metrics)
    children.tell(client, mlflow_run, parts)
    client.log_artifacts(run_id, str(folder / folders.MODEL_FOLDER), ARTIFACTS)
    _log_story(client, run_id, folder, run, proven)
    with mlflow.start_run(run_id=run_id):  # closing it marks it FINISHED
        _log_model(run, folder)
    return run_id


def _log_story(client: Any, run_id: str, folder: Path, run: TrainingRun, proven: certificate.Certificate) -> None:
    """What the run proves, what it read, and what it was made with."""
    made = folder / folders.ENVIRONMENT
    said = {
        "certificate.json": json.dumps(proven.told(), indent=1),
        "certificate.md": proven.text(),
        "data.json": json.dumps(_data(folder, run), indent=1),
        "environment.json": json.dumps(
            {"trained": json.loads(made.read_text()) if made.exists() else None, "launched_sha256": environment.locks()}, indent=1
        ),
    }
    with tempfile.TemporaryDirectory() as place:
        for name, content in said.items():
            (Path(place) / name).write_text(content)
        client.log_artifacts(run_id, place, STORY)


def _data(folder: Path, run: TrainingRun) -> dict[str, Any]:
    """What the pin step says of the rows, as far as it wrote it down, and the SHA-256 of every file that they lie in."""
    manifest, files = folder / folders.MANIFEST, sorted((folder / "data").rglob("*.parquet"))
    return {
        "versions": dict(run.versions),
        "digest": run.data_digest,
        **(json.loads(manifest.read_text()) if manifest.exists() else {}),
        "files": {str(path.relative_to(folder)): _sha256(path) for path in files},
    }


def _inputs(run: TrainingRun) -> list[DatasetInput]:
    """The tables that the rows were read from, each at its version."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # The form of MLflow's own DeltaDatasetSource, which would ask a Spark session for the catalog, and Databricks for the table's id.
    return [
        DatasetInput(
            Dataset(table, str(version), "delta_table", json.dumps({"delta_table_name": table, "delta_table_version": version})),
            [InputTag("mlflow.data.context", "training")],
        )
        for table, version in run.versions.items()
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        "nightshift.git_dirty": "unknown" if run.git_dirty is None else json.dumps(run.git_dirty),
    }
    return client.create_run(experiment_id, tags=tags, run_name=run.run_id)


def _parameters(run: TrainingRun) -> dict[str, Any]:
    nights = {name: getattr(run, name) for name in ("train_first", "train_last", "holdout_first", "holdout_last", "as_of")}
    versions = {f"version.{table}": version for table, version in run.versions.items()}
    recipe = run.recipe.told()
    return {"recipe": recipe.pop("name"), **recipe, **nights, **versions, "features": ",".join(run.features)}


def _log_model(run: TrainingRun, folder: Path) -> None:
    """Trees in the form that MLflow has for them, any other kind as our own files with the code that reads them."""
    import mlflow.pyfunc
    import mlflow.xgboost
    import pandas as pd

    model, sample = models.load(folder / folders.MODEL_FOLDER), json.loads((folder / folders.EXAMPLE).read_text())
    example = pd.DataFrame([sample], columns=list(run.features), dtype="float64")
    if isinstance(model, Boosted):
        mlflow.xgboost.log_model(
            model.booster,
            name=MODEL_NAME,
            model_format="ubj",
            signature=_signature(run, model),
            input_example=example,
            # Named, so that MLflow does not load the model in yet another process to find out.
            pip_requirements=_pinned("xgboost", "numpy", "pandas"),
        )
        return
    looks_back = model.context is not None
    if looks_back:
        # Nobody's: a model that looks back wants to know whose row it is, and when it was.
        example = pd.DataFrame({run.key: [0], run.entity: [0], run.event_time: [pd.Timestamp(0)]}).join(example)
    mlflow.pyfunc.log_model(
        name=MODEL_NAME,
        loader_module="include.nightshift.train.served",
        data_path=str(folder / folders.MODEL_FOLDER),
        code_paths=[str(ROOT / "include")],
        signature=_signature(run, model),
        input_example=example,
        pip_requirements=_pinned("numpy", "pandas", "pyarrow", *(("torch", "safetensors") if looks_back else ())),
        metadata={"rows": "context" if looks_back else "alone", "context": LOOKS_BACK if looks_back else ""},
    )


def _signature(run: TrainingRun, model: Model) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    beside = [(DataType.long, run.key), (DataType.long, run.entity), (DataType.datetime, run.event_time)] if model.context else []
    columns = [*beside, *((DataType.double, name) for name in run.features)]
    scores = DataType.float if isinstance(model, Boosted) else DataType.double
    return ModelSignature(inputs=Schema([ColSpec(kind, name) for kind, name in columns]), outputs=Schema([ColSpec(scores)]))


def _pinned(*names: str) -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in names]
