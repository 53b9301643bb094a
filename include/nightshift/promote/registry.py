"""The registry: model versions in MLflow, and their local copies.

MLflow keeps the models; who of them scores is said by the history (`promote.history`), which the alias `champion` follows.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift import doors
from include.nightshift.errors import ConfigurationError, RegistryError
from include.nightshift.train import models
from include.nightshift.train.tracking import ARTIFACTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from include.nightshift.settings import Settings
    from include.nightshift.train.models import Model
    from include.nightshift.usecase import UseCase

ALIAS = "champion"


def client(settings: Settings) -> MlflowClient:
    """A client of the installation's MLflow server, with its token, that gives up within a minute rather than hanging.

    Raises:
        RegistryError: the token cannot be read, so MLflow would let nobody in.
    """
    try:
        doors.introduce(settings)
    except ConfigurationError as error:
        raise RegistryError(f"MLflow cannot be asked: {error}") from error
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)


def register(settings: Settings, use_case: UseCase, run_id: str, mlflow_run_id: str, model_sha256: str) -> str:
    """Register a training run's model; returns its version, the same one when the run is registered already."""
    from mlflow.exceptions import MlflowException

    mlflow = client(settings)
    for version in mlflow.search_model_versions(f"name = '{use_case.name}'"):
        if version.tags.get("nightshift.run_id") == run_id:
            return str(version.version)
    try:
        mlflow.create_registered_model(use_case.name, description=f"{use_case.title}. Owner: {use_case.owner}.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"runs:/{mlflow_run_id}/model"
    tags = {"nightshift.run_id": run_id, "nightshift.model_sha256": model_sha256}
    return str(mlflow.create_model_version(use_case.name, source, run_id=mlflow_run_id, tags=tags).version)


def local_copy(settings: Settings, use_case: UseCase, version: str) -> Path:
    """The folder with the version's model, `features.json` and `reference.json`; fetched once, then kept, and believed from then on.

    Whoever scores takes a copy that is verified each time (`promote.copies`).

    Raises:
        RegistryError: see `fetched`.
    """
    folder = settings.home / "models" / use_case.name / version
    return folder if folder.exists() else fetched(settings, use_case, version)


def fetched(settings: Settings, use_case: UseCase, version: str) -> Path:
    """Fetch the version's files from MLflow, in place of the local copy where there is one; returns their folder.

    Raises:
        RegistryError: the registry lacks the version, or its bytes are not those that were registered.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    folder = settings.home / "models" / use_case.name / version
    try:
        registered = client(settings).get_model_version(use_case.name, version)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            uri = f"runs:/{registered.run_id}/{ARTIFACTS}"
            found = Path(download_artifacts(artifact_uri=uri, dst_path=temporary, tracking_uri=settings.mlflow_url))
            seen = models.sha256(found)
            wanted = registered.tags.get("nightshift.model_sha256")
            if seen != wanted:
                raise RegistryError(
                    f"model {use_case.name} version {version}: its bytes have the hash {seen}, registered was {wanted}. "
                    "Somebody changed the artifact: roll back to the version before, and find out who"
                )
            with suppress(FileNotFoundError):
                folder.rename(Path(temporary) / "before")
            # Where another process was quicker, what it fetched stands.
            with suppress(OSError):
                found.rename(folder)
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"model {use_case.name} version {version} cannot be had from {settings.mlflow_url}: {error}. "
            "See that MLflow runs (`make status`) and run the task again"
        ) from error
    return folder


def point(settings: Settings, use_case: UseCase, version: str) -> str | None:
    """Have the alias point at the version; returns where it pointed before: the same version where nothing was to do.

    Raises:
        RegistryError: the registry does not answer, or has no such version.
    """
    from mlflow.exceptions import MlflowException

    mlflow = client(settings)
    try:
        pointed = mlflow.get_registered_model(use_case.name).aliases.get(ALIAS)
        if pointed is None or str(pointed) != version:
            mlflow.set_registered_model_alias(use_case.name, ALIAS, version)
    except MlflowException as error:
        raise RegistryError(
            f"the alias {ALIAS} of {use_case.name} cannot be moved to version {version} in {settings.mlflow_url}: {error}. The history "
            "holds all the same, and the next score tries again; see that MLflow runs (`make status`)"
        ) from error
    return None if pointed is None else str(pointed)


def features_read(use_case: UseCase, version: str, model: Model) -> list[str]:
    """The features that a model reads, in its order: those of its own training, which may be fewer than there are by now.

    Raises:
        RegistryError: it reads one that is no longer built, and would be null in every new row.
    """
    names = list(model.features)
    if gone := [name for name in names if name not in use_case.feature_names]:
        raise RegistryError(
            f"model {use_case.name} version {version} reads {', '.join(gone)}, which the features no longer have: "
            f"train and promote a new one, or bring them back in dbt_project/models/{use_case.name}/{use_case.name}_features.yml"
        )
    return names
