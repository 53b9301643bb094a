"""The registry: model versions in MLflow, their local copies, and who reigns over which nights.

MLflow keeps the models; `ops.champion_history` says who scores. The alias `champion` follows the history.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import log, records, tables
from include.nightshift.train import models
from include.nightshift.train.tracking import ARTIFACTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from include.nightshift.lakehouse.records import Record
    from include.nightshift.settings import Settings
    from include.nightshift.train.models import Model
    from include.nightshift.usecase import UseCase

ALIAS = "champion"


def client(settings: Settings) -> MlflowClient:
    """A client of the installation's MLflow server that gives up within a minute rather than hanging."""
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
    """The folder with the version's model, `features.json` and `reference.json`; fetched once, then kept.

    Raises:
        RegistryError: the registry lacks the version, or its bytes are not those that were registered.
    """
    folder = settings.home / "models" / use_case.name / version
    if folder.exists():
        return folder
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        registered = client(settings).get_model_version(use_case.name, version)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            uri = f"runs:/{registered.run_id}/{ARTIFACTS}"
            fetched = Path(download_artifacts(artifact_uri=uri, dst_path=temporary, tracking_uri=settings.mlflow_url))
            seen = models.sha256(fetched)
            wanted = registered.tags.get("nightshift.model_sha256")
            if seen != wanted:
                raise RegistryError(
                    f"model {use_case.name} version {version}: its bytes have the hash {seen}, registered was {wanted}. "
                    "Somebody changed the artifact: roll back to the version before, and find out who"
                )
            if not folder.exists():
                shutil.move(str(fetched), folder)
    except MlflowException as error:
        raise RegistryError(
            f"model {use_case.name} version {version} cannot be had from {settings.mlflow_url}: {error}. "
            "See that MLflow runs (`make status`) and run the task again"
        ) from error
    return folder


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


def champions(settings: Settings, use_case: UseCase, nights: Sequence[date]) -> dict[date, str]:
    """The version that reigns over each of the nights; nights over which nobody does are left out.

    Raises:
        RegistryError: more than one reigns over a night.
    """
    history = records.read(settings, tables.CHAMPION_HISTORY, use_case=use_case.name)
    reigns = {night: _over(history, night) for night in nights}
    return {night: reign["model_version"] for night, reign in reigns.items() if reign}


def reign_on(settings: Settings, use_case: UseCase, night: date) -> Record | None:
    """The row of the champion history whose nights contain the night, or None.

    Raises:
        RegistryError: more than one row does.
    """
    return _over(records.read(settings, tables.CHAMPION_HISTORY, use_case=use_case.name), night)


def _over(history: Sequence[dict[str, Any]], night: date) -> Record | None:
    reigning = [reign for reign in history if reign["from_night"] <= night and (reign["until_night"] or night) >= night]
    if len(reigning) > 1:
        seen = ", ".join(reign["model_version"] for reign in reigning)
        raise RegistryError(f"{tables.CHAMPION_HISTORY}, night {night}: versions {seen} reign, expected one at most. Mend the table first")
    return reigning[0] if reigning else None


def promised(settings: Settings, reign: Mapping[str, Any]) -> dict[str, float]:
    """The figures on its held-out rows that the reigning champion was promoted on."""
    found = records.read(settings, tables.GATE_REPORTS, report_digest=reign["report_digest"])
    return dict(json.loads(found[0]["figures"])) if found else {}


def first_free_night(settings: Settings, use_case: UseCase, as_of: date) -> date:
    """The night from which a model trained `as_of` may reign: after all it knew, and after every list that is out."""
    published = log.extent(settings, tables.alerts(use_case))
    return max(as_of, published[1] if published else as_of) + timedelta(days=1)


def promote(settings: Settings, use_case: UseCase, *, version: str, from_night: date, why: str, by: str, report_digest: str) -> bool:
    """Let the version reign from a night on: close the open reign and open the new one in one commit, then move the alias.

    Promoting the same report twice changes nothing. Returns whether the history changed.

    Raises:
        RegistryError: the open reign begins on or after `from_night`: history is not rewritten.
    """
    new = {
        "use_case": use_case.name,
        "model_version": version,
        "from_night": from_night,
        "until_night": None,
        "why": why,
        "by": by,
        "at": datetime.now(UTC),
        "report_digest": report_digest,
    }

    def crown(history: list[Record]) -> list[Record]:
        if any(reign["report_digest"] == report_digest for reign in history):
            return history
        return [*(_until(reign, new) if reign in _open(use_case, history) else reign for reign in history), new]

    changed = records.amend(settings, tables.CHAMPION_HISTORY, crown).changed
    [reign] = _open(use_case, records.read(settings, tables.CHAMPION_HISTORY))
    client(settings).set_registered_model_alias(use_case.name, ALIAS, reign["model_version"])
    return changed


def _open(use_case: UseCase, history: Sequence[Record]) -> list[Record]:
    return [reign for reign in history if reign["use_case"] == use_case.name and reign["until_night"] is None]


def _until(reign: Record, new: Record) -> Record:
    """The open reign, ended by the new one."""
    if reign["from_night"] >= new["from_night"]:
        raise RegistryError(
            f"{tables.CHAMPION_HISTORY}: version {reign['model_version']} reigns from {reign['from_night']} on, so version "
            f"{new['model_version']} cannot from {new['from_night']}. Train as of a later night"
        )
    return reign | {"until_night": new["from_night"] - timedelta(days=1)}
