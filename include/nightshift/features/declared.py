"""The features that a use case's dbt model declares: name, meaning, owner, cost and worth, each said once, beside the SQL."""

from __future__ import annotations

from typing import Any

import yaml

from include.nightshift.errors import ConfigurationError
from include.nightshift.settings import ROOT
from include.nightshift.usecase import Feature


def features(name: str) -> tuple[Feature, ...]:
    """The features of the use case of that name, in the order in which models read them.

    They are the columns of `<name>_features` that have an owner (`config.meta.owner`).

    Raises:
        ConfigurationError: there is no such model, or a feature lacks what every feature says of itself.
    """
    path = ROOT / "dbt_project" / "models" / name / f"{name}_features.yml"
    try:
        models = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["models"]  # noqa: S506 - safe, in C
        columns = next(model["columns"] for model in models if model["name"] == f"{name}_features")
    except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration) as error:
        raise ConfigurationError(
            f"{path} must describe the model {name}_features with its columns ({type(error).__name__}: {error}): "
            "dbt_project/models/card_fraud/card_fraud_features.yml is the model to follow"
        ) from error
    found = tuple(_feature(path.name, column) for column in columns if "owner" in _meta(column))
    if not found:
        raise ConfigurationError(f"{path} declares no feature: a feature is a column with config.meta.owner")
    return found


def _feature(file: str, column: dict[str, Any]) -> Feature:
    said = {key: value for key, value in _meta(column).items() if key in ("owner", "calendar", "cost_seconds", "benefit")}
    missing = [what for what in ("name", "description") if not column.get(what)]
    if missing or column.get("data_type") != "double":
        raise ConfigurationError(
            f"{file}: feature {column.get('name', column)} needs {' and '.join(missing) or 'data_type: double'}, as every feature does"
        )
    return Feature(column["name"], column["description"], **said)


def _meta(column: dict[str, Any]) -> dict[str, Any]:
    meta: dict[str, Any] = (column.get("config") or {}).get("meta") or {}
    return meta
