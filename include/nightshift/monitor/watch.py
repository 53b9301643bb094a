"""Watch: the night held against what its champion was promised on; the verdict may ask for a new model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from include.nightshift import nights as nights_module
from include.nightshift.lakehouse import records, tables
from include.nightshift.lakehouse.session import where
from include.nightshift.monitor import drift, requests, trigger
from include.nightshift.promote import history, registry, trust

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


def measure_drift(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> list[drift.ColumnDrift]:
    """Hold features and scores of the nights against their champion's held-out rows; writes `ops.drift_metrics`.

    Nights that nobody scored have no reference and no rows. What the calendar alone sets is left out: a Sunday differs from
    the week it is held against, and nothing is wrong. Returns the last night's verdicts.
    """
    calendar = {feature.name for feature in use_case.features if feature.calendar}
    table = session.sql(
        f"select f.*, s.score, s.model_version from {tables.features(use_case)} f "
        f"join {tables.scores(use_case)} s on s.{use_case.events.key} = f.{use_case.events.key} and s.day = f.day "
        f"where s.role = 'champion' and f.{where({'day': nights})}"
    ).toArrow()
    days = table.column("day").to_numpy(zero_copy_only=False).astype("datetime64[D]")
    columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in (*use_case.feature_names, "score", "model_version")}
    judged: list[drift.ColumnDrift] = []
    figures: list[records.Record] = []
    for night in sorted(set(days.tolist())):
        tonight = {name: values[days == night] for name, values in columns.items()}
        version = str(tonight.pop("model_version")[0])
        champion = version.removesuffix(f"-{trust.BASELINE}")
        reference = json.loads((registry.local_copy(settings, use_case, champion) / "reference.json").read_text())
        if champion != version:  # its scores are others than those of the champion that it was judged beside
            reference |= json.loads((trust.verified(settings, use_case, version).folder / "reference.json").read_text())
        every = drift.judge(reference, tonight, use_case.drift.psi_threshold)
        judged = [verdict for verdict in every if verdict.column not in calendar]
        figures += [
            {
                "day": night,
                "use_case": use_case.name,
                "model_version": version,
                "column_name": column.column,
                "measure": column.measure,
                "value": column.value,
                "threshold": column.threshold,
                "verdict": column.verdict,
            }
            for column in judged
        ]
    if figures:
        records.replace(settings, tables.DRIFT_METRICS, figures, {"day": sorted(set(days.tolist())), "use_case": [use_case.name]})
    return judged


def decide(settings: Settings, use_case: UseCase, night: date) -> trigger.RetrainVerdict:
    """Whether what matured in this night's run asks for a new model. Reads only; `requests.file` writes."""
    delay = timedelta(days=use_case.label_delay_days)
    matured = night - delay
    reign = history.reign_on(settings, use_case, night)
    # A week counts for the champion only when it scored all of it.
    own = list(nights_module.between(reign["from_night"] + timedelta(days=6), matured)) if reign else []
    weeks = records.read(settings, tables.PERFORMANCE, day=own, use_case=use_case.name, cohort="week", metric="average_precision")
    judged = [trigger.JudgedNight(week["day"], week["model_version"], week["value"]) for week in weeks if week["value"] is not None]
    past = [
        trigger.Request(request["night"] - delay, request["cause"], request["state"] in ("open", "claimed"))
        for request in requests.of(settings, use_case)
    ]
    return trigger.decide(
        use_case.drift,
        night=matured,
        champion=reign["model_version"] if reign else None,
        promised=history.promised(settings, reign).get("candidate_average_precision") if reign else None,
        judged=judged,
        requests=past,
    )
