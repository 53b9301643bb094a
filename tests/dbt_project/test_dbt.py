"""dbt's own unit tests on the shared lakehouse, and what every model must say about itself."""

from __future__ import annotations

import re

import pytest
import yaml  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from include.nightshift.features import project
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

MODELS = project.PROJECT / "models"


def test_every_model_is_described_with_its_grain() -> None:
    described = {
        model["name"]: model["description"]
        for path in MODELS.rglob("*.yml")
        for model in yaml.safe_load(path.read_text()).get("models", [])
    }
    assert set(described) == {path.stem for path in MODELS.rglob("*.sql")}
    assert [name for name, text in described.items() if not re.search(r"\. One row per [^.]+\.$", text)] == []


@pytest.mark.lakehouse
def test_the_three_row_unit_tests_pass(session: SparkSession, installation: Settings, use_case: UseCase) -> None:
    done = project.dbt(session, installation, [use_case], ["test", "--select", "test_type:unit"])
    written = [test["name"] for path in MODELS.rglob("*.yml") for test in yaml.safe_load(path.read_text()).get("unit_tests", [])]
    assert {node.name: node.status for node in done} == dict.fromkeys(written, "pass")
    assert len(written) >= 6
