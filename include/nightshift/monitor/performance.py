"""Performance: how the champion did, told when the verdicts are in, seven nights later.

Each matured night stands alone (cohort `night`) and as the last of a week (cohort `week`): a fold by the published
protocol, which leaves out what was known already (Fraud Detection Handbook, chapters 4 and 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import NotMaturedError
from include.nightshift.lakehouse import records, tables
from include.nightshift.lakehouse.session import literal
from include.nightshift.promote import metrics

if TYPE_CHECKING:
    import numpy as np
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

COHORTS = {"night": 1, "week": 7}
"""Nights of a cohort; it ends with the night it is filed under."""


@dataclass(frozen=True)
class Matured:
    """One cohort's figures; `metrics` is None where they are not defined (no fraud among the rows)."""

    night: date
    judged_on: date
    cohort: str
    model_version: str
    labels: int
    metrics: metrics.FoldMetrics | None


def measure(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> list[Matured]:
    """Measure what has matured in the runs of these nights, and write it to `ops.performance`.

    The run of night D looks at night D - delay with the verdicts known in D; replaying D gives D's figures again.
    """
    delay = timedelta(days=use_case.label_delay_days)
    seen = list(_cohorts(session, use_case, min(nights) - delay, max(nights) - delay))
    judged = [m for m in seen if m.judged_on in set(nights)]
    if judged:
        figures = [record for matured in judged for record in _records(use_case, matured)]
        slice_: dict[str, list[Any]] = {"day": sorted({m.night for m in judged}), "use_case": [use_case.name]}
        records.replace(settings, tables.PERFORMANCE, figures, slice_)
    return judged


def _cohorts(session: SparkSession, use_case: UseCase, first: date, last: date) -> Iterator[Matured]:
    import numpy as np

    scored = _scored(session, use_case, first - timedelta(days=max(COHORTS.values()) - 1), last)
    frauds = _frauds(session, use_case, first - timedelta(days=max(COHORTS.values()) - 1 + 2 * use_case.label_delay_days), last)
    for night in np.unique(scored["day"]).tolist():
        for cohort, length in COHORTS.items():
            begin = night - timedelta(days=length - 1)
            inside = (scored["day"] >= np.datetime64(begin)) & (scored["day"] <= np.datetime64(night))
            whole = len(np.unique(scored["day"][inside])) == length
            if not first <= night <= last or not whole:
                continue
            rows = {name: values[inside] for name, values in scored.items()}
            judged_on = night + timedelta(days=use_case.label_delay_days)
            model = str(rows["model_version"][rows["day"] == np.datetime64(night)][0])
            yield Matured(night, judged_on, cohort, model, len(rows["day"]), _fold(use_case, rows, frauds, np.datetime64(begin)))


def _fold(
    use_case: UseCase, rows: dict[str, np.ndarray], frauds: dict[str, np.ndarray], begin: np.datetime64
) -> metrics.FoldMetrics | None:
    try:
        return metrics.fold(
            rows["day"],
            rows["entity"],
            rows["target"],
            rows["score"],
            first_test_day=begin,
            known_fraud_day=frauds["day"],
            known_fraud_entity=frauds["entity"],
            label_delay_days=use_case.label_delay_days,
            list_size=use_case.list_size,
        )
    except NotMaturedError:
        return None  # one class only: the row counts are written, the figures are null


def _scored(session: SparkSession, use_case: UseCase, first: date, last: date) -> dict[str, np.ndarray]:
    """The champion's scores of the nights with the verdicts that were in when each had matured."""
    key = use_case.events.key
    return _columns(
        session,
        f"""
        select s.day, s.{use_case.entity} as entity, v.{use_case.target} as target, s.score, s.model_version
        from {tables.scores(use_case)} s join {tables.silver(use_case.labels)} v on v.{key} = s.{key}
        where s.role = 'champion' and s.day between {literal(first)} and {literal(last)}
          and v.day between {literal(first)} and {literal(last + timedelta(days=use_case.label_delay_days))}
          and v.day <= date_add(s.day, {use_case.label_delay_days})
        """,
    )


def _frauds(session: SparkSession, use_case: UseCase, first: date, last: date) -> dict[str, np.ndarray]:
    key = use_case.events.key
    return _columns(
        session,
        f"""
        select e.day, e.{use_case.entity} as entity
        from {tables.silver(use_case.events)} e join {tables.silver(use_case.labels)} v on v.{key} = e.{key}
        where v.{use_case.target} = 1 and e.day between {literal(first)} and {literal(last)}
          and v.day between {literal(first)} and {literal(last + timedelta(days=use_case.label_delay_days))}
        """,
    )


def _columns(session: SparkSession, query: str) -> dict[str, np.ndarray]:
    table = session.sql(query).toArrow()
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _records(use_case: UseCase, matured: Matured) -> Iterator[dict[str, Any]]:
    figures = asdict(matured.metrics) if matured.metrics else {}
    for metric in ("average_precision", "roc_auc", "card_precision", "rows", "frauds"):
        yield {
            "day": matured.night,
            "use_case": use_case.name,
            "judged_on": matured.judged_on,
            "model_version": matured.model_version,
            "cohort": matured.cohort,
            "metric": metric,
            "value": None if metric not in figures else float(figures[metric]),
            "labels_matured": matured.labels,
            "estimated": False,
        }
