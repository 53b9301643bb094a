"""The registry's local copies and its alias, with MLflow's own store where there is no way around it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from include.nightshift.errors import RegistryError
from include.nightshift.promote import copies, registry
from include.nightshift.settings import Settings
from include.nightshift.train.tracking import ARTIFACTS
from include.nightshift.usecase import UseCase

CONTENT = b"a model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory, use_case: UseCase) -> tuple[Settings, Path]:
    """An MLflow without a server that holds one version, and the model's file in it."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, mlflow_uri=f"sqlite:///{home}/mlflow.db")
    client = registry.client(settings)
    experiment = client.create_experiment("bench", artifact_location=str(home / "artifacts"))
    run = client.create_run(experiment).info
    trained = home / "trained"
    trained.mkdir()
    (trained / "model.ubj").write_bytes(CONTENT)
    (trained / "features.json").write_text("{}")
    client.log_artifacts(run.run_id, str(trained), ARTIFACTS)
    client.create_registered_model(use_case.name)
    tags = {"nightshift.model_sha256": SHA256}
    client.create_model_version(use_case.name, f"runs:/{run.run_id}/model", run_id=run.run_id, tags=tags)
    return settings, home / "artifacts" / run.run_id / "artifacts" / ARTIFACTS / "model.ubj"


def test_a_local_copy_is_fetched_once_and_then_kept(tmp_path: Path, use_case: UseCase) -> None:
    folder = tmp_path / "models" / use_case.name / "4"
    folder.mkdir(parents=True)
    assert registry.local_copy(Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:1"), use_case, "4") == folder


def test_a_registry_whose_token_is_gone_is_one_that_cannot_be_asked(tmp_path: Path, use_case: UseCase) -> None:
    with pytest.raises(RegistryError, match=r"mlflow\.token is missing"):
        registry.local_copy(Settings(home=tmp_path), use_case, "4")


def test_a_copy_that_was_changed_everywhere_on_this_machine_comes_from_mlflow_again(
    mlflow: tuple[Settings, Path], use_case: UseCase
) -> None:
    settings, _ = mlflow
    kept = copies.keep(settings, use_case, "1", SHA256, "digest")
    for folder in (kept.folder, registry.local_copy(settings, use_case, "1")):
        (folder / "model.ubj").write_bytes(b"forged")
    assert copies.kept(settings, use_case, "digest") is None
    again = copies.keep(settings, use_case, "1", SHA256, "digest")
    assert (again.folder / "model.ubj").read_bytes() == CONTENT
    assert (registry.local_copy(settings, use_case, "1") / "model.ubj").read_bytes() == CONTENT
    assert sorted(path.name for path in again.folder.parent.iterdir()) == ["digest"]


def test_bytes_that_mlflow_holds_by_now_and_nobody_judged_are_refused(mlflow: tuple[Settings, Path], use_case: UseCase) -> None:
    settings, artifact = mlflow
    with pytest.raises(RegistryError, match=f"its bytes have the hash {SHA256}, its report says {'0' * 64}"):
        copies.keep(settings, use_case, "1", "0" * 64, "another")
    artifact.write_bytes(b"forged")
    try:
        with pytest.raises(RegistryError, match=f"registered was {SHA256}"):
            registry.fetched(settings, use_case, "1")
    finally:
        artifact.write_bytes(CONTENT)
    # What lay here was sound, and stays.
    assert (registry.local_copy(settings, use_case, "1") / "model.ubj").read_bytes() == CONTENT


def test_the_alias_is_moved_where_it_points_elsewhere_and_a_missing_version_is_said(
    mlflow: tuple[Settings, Path], use_case: UseCase
) -> None:
    settings, _ = mlflow
    assert [registry.point(settings, use_case, "1") for _ in range(2)] == [None, "1"]
    assert registry.client(settings).get_model_version_by_alias(use_case.name, registry.ALIAS).version in (1, "1")
    with pytest.raises(RegistryError, match="cannot be moved to version 9 in sqlite"):
        registry.point(settings, use_case, "9")
    with pytest.raises(RegistryError, match="version 9 cannot be had from sqlite"):
        registry.local_copy(settings, use_case, "9")
