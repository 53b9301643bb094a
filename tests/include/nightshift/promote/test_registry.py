"""The registry's local copies; what needs no model server."""

from __future__ import annotations

from pathlib import Path

from include.nightshift.promote import registry
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase


def test_a_local_copy_is_fetched_once_and_then_kept(tmp_path: Path, use_case: UseCase) -> None:
    folder = tmp_path / "models" / use_case.name / "4"
    folder.mkdir(parents=True)
    assert registry.local_copy(Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:1"), use_case, "4") == folder
