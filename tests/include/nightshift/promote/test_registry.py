"""The registry's local copies; what needs no model server."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.nightshift.errors import RegistryError
from include.nightshift.promote import registry
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase


def test_a_local_copy_is_fetched_once_and_then_kept(tmp_path: Path, use_case: UseCase) -> None:
    folder = tmp_path / "models" / use_case.name / "4"
    folder.mkdir(parents=True)
    assert registry.local_copy(Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:1"), use_case, "4") == folder


def test_a_registry_whose_token_is_gone_is_one_that_cannot_be_asked(tmp_path: Path, use_case: UseCase) -> None:
    with pytest.raises(RegistryError, match=r"mlflow\.token is missing"):
        registry.local_copy(Settings(home=tmp_path), use_case, "4")
