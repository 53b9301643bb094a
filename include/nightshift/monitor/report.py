"""Report: the night's Evidently page, kept beside the model that scored it in MLflow."""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift.lakehouse import records, tables
from include.nightshift.lakehouse.session import literal
from include.nightshift.promote import history, registry

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

SAMPLE = 5000
"""Rows of either side on the page; the verdicts in `ops.drift_metrics` rest on all rows."""


def publish(session: SparkSession, settings: Settings, use_case: UseCase, night: date) -> str | None:
    """Draw the night against the champion's held-out nights; returns the artifact's path, None where nobody scored the night."""
    reign = history.reign_on(settings, use_case, night)
    if reign is None:
        return None
    [judged] = records.read(settings, tables.GATE_REPORTS, report_digest=reign["report_digest"])
    reference = _sample(session, use_case, judged["holdout_first"], judged["holdout_last"])
    current = _sample(session, use_case, night, night)
    if reference.empty or current.empty:
        return None

    from evidently import Report
    from evidently.presets import DataDriftPreset

    snapshot = Report([DataDriftPreset()]).run(current, reference)
    mlflow = registry.client(settings)
    run_id = mlflow.get_model_version(use_case.name, reign["model_version"]).run_id
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / f"{night.isoformat()}.html"
        snapshot.save_html(str(page))
        mlflow.log_artifact(run_id, str(page), "nights")
    return f"nights/{night.isoformat()}.html"


def _sample(session: SparkSession, use_case: UseCase, first: date, last: date) -> pd.DataFrame:
    """Up to SAMPLE rows of the nights, the same ones each time (ordered by a hash of the key)."""
    names = ", ".join(use_case.feature_names)
    return session.sql(
        f"select {names} from {tables.features(use_case)} where day between {literal(first)} and {literal(last)} "
        f"order by xxhash64({use_case.events.key}) limit {SAMPLE}"
    ).toPandas()
