"""Watch: the night held against what its champion was promised on; the verdict may ask for a new model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift.lakehouse import tables, writes
from include.nightshift.lakehouse.session import rows, where
from include.nightshift.monitor import drift, requests, trigger
from include.nightshift.promote import registry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


def measure_drift(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> list[drift.ColumnDrift]:
    """Hold features and scores of the nights against their champion's held-out rows; writes `ops.drift_metrics`.

    Nights that nobody scored have no reference and no rows. Returns the last night's verdicts.
    """
    table = session.sql(
        f"select f.*, s.score, s.model_version from {tables.features(use_case)} f "
        f"join {tables.scores(use_case)} s on s.{use_case.events.key} = f.{use_case.events.key} and s.day = f.day "
        f"where s.role = 'champion' and f.{where({'day': nights})}"
    ).toArrow()
    days = table.column("day").to_numpy(zero_copy_only=False).astype("datetime64[D]")
    columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in (*use_case.feature_names, "score", "model_version")}
    judged: list[drift.ColumnDrift] = []
    records: list[dict[str, Any]] = []
    for night in sorted(set(days.tolist())):
        tonight = {name: values[days == night] for name, values in columns.items()}
        version = str(tonight.pop("model_version")[0])
        reference = json.loads((registry.local_copy(settings, use_case, version) / "reference.json").read_text())
        judged = drift.judge(reference, tonight, use_case.drift.psi_threshold)
        records += [
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
    if records:
        writes.replace_rows(session, tables.DRIFT_METRICS, records, {"day": sorted(set(days.tolist())), "use_case": [use_case.name]})
    return judged


def decide(session: SparkSession, use_case: UseCase, night: date) -> trigger.RetrainVerdict:
    """Whether what matured in this night's run asks for a new model. Reads only; `requests.file` writes."""
    delay = timedelta(days=use_case.label_delay_days)
    matured = night - delay
    reign = registry.reign_on(session, use_case, night)
    weeks = rows(
        session,
        f"select day, model_version, value from {tables.PERFORMANCE} where use_case = :name and cohort = 'week' "
        "and metric = 'average_precision' and value is not null and day <= :matured order by day",
        name=use_case.name,
        matured=matured,
    )
    # A week counts for the champion only when it scored all of it.
    own = [
        trigger.JudgedNight(week["day"], week["model_version"], week["value"])
        for week in weeks
        if reign and week["day"] - timedelta(days=6) >= reign["from_night"]
    ]
    past = [
        trigger.Request(request["night"] - delay, request["cause"], request["state"] in ("open", "claimed"))
        for request in requests.of(session, use_case)
    ]
    return trigger.decide(
        use_case.drift,
        night=matured,
        champion=reign["model_version"] if reign else None,
        promised=registry.promised(session, reign).get("candidate_average_precision") if reign else None,
        judged=own,
        requests=past,
    )
