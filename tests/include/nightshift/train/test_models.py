"""Models read back: by the kind that their folder names, and none where it names one that nobody knows."""

import hashlib
import json
from pathlib import Path

import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.train import models
from include.nightshift.train.recipes import KINDS


def test_a_folder_without_a_kind_holds_trees(tmp_path: Path) -> None:
    assert models.file(tmp_path).name == "model.ubj"
    (tmp_path / "features.json").write_text(json.dumps(["a", "b"]))
    assert models.file(tmp_path).name == "model.ubj"
    (tmp_path / "features.json").write_text(json.dumps({"features": ["a"]}))
    assert models.file(tmp_path).name == "model.ubj"


def test_every_kind_of_recipe_has_a_file_of_its_own_which_is_no_pickle() -> None:
    assert list(models.FILES) == list(KINDS)
    assert len(set(models.FILES.values())) == len(KINDS)
    assert {Path(name).suffix for name in models.FILES.values()} == {".ubj", ".json", ".safetensors"}


def test_the_hash_is_of_the_models_file(tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text('{"kind": "linear"}')
    (tmp_path / "model.ubj").write_bytes(b"another")
    (tmp_path / "model.json").write_bytes(b"this")
    assert models.sha256(tmp_path) == hashlib.sha256(b"this").hexdigest()


def test_a_kind_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text('{"kind": "oracle"}')
    with pytest.raises(ConfigurationError, match="a model of kind 'oracle' is none of trees, linear, sequence"):
        models.load(tmp_path)
