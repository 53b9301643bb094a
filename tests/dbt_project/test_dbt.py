"""dbt's own unit tests on the shared lakehouse, and what every model must say about itself."""

from __future__ import annotations

import re

import pytest
import yaml  # type: ignore[import-untyped]

from include.nightshift.features import build
from include.nightshift.settings import Settings

MODELS = build.PROJECT / "models"


def test_every_model_is_described_with_its_grain() -> None:
    described = {
        model["name"]: model["description"]
        for path in MODELS.rglob("*.yml")
        for model in yaml.safe_load(path.read_text()).get("models", [])
    }
    assert set(described) == {path.stem for path in MODELS.rglob("*.sql")}
    assert [name for name, text in described.items() if not re.search(r"\. One row per [^.]+\.$", text)] == []


@pytest.mark.lakehouse
def test_the_three_row_unit_tests_pass(installation: Settings) -> None:
    done = build.dbt(installation, ["test", "--select", "test_type:unit"])
    assert [result.status for result in done.result.results] == ["pass"] * 3
