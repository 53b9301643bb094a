"""Monitor: matured performance, drift, the verdict that may ask for a new model, and the night's page."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from nightshift_airflow import assets
from nightshift_airflow.operators.night import NightOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


class WatchOperator(NightOperator):
    """Measures what has matured and what has drifted, and judges whether that asks for a new model.

    With an outlet (an alias), a request is filed and, while it waits, its asset told; without one (`backfill`) the verdict is only
    logged: a past that is loaded today is no reason to train tonight.
    """

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        import time

        from include.nightshift.lakehouse import ledger
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.monitor import performance, requests, watch

        started, session = time.monotonic(), connect(settings)
        matured = performance.measure(session, settings, use_case, nights)
        drifted = [column for column in watch.measure_drift(session, settings, use_case, nights) if column.verdict == "drifted"]
        verdict = watch.decide(settings, use_case, nights[-1])
        self.log.info("asks for a new model: %s; %s", verdict.asked, "; ".join(verdict.reasons))
        request_id = None
        if verdict.asked and self.outlets:
            request = requests.file(settings, use_case, nights[-1], verdict.cause, verdict.question, verdict.evidence)
            # A night that runs again after its request was answered wakes nobody.
            request_id = request["request_id"] if request["state"] == "open" else None
        # Also of what was filed earlier and had to wait until more has matured.
        waiting = [request["request_id"] for request in requests.of(settings, use_case) if request["state"] == "open"]
        for outlet in self.outlets if waiting else []:
            filed = {"request_id": request_id or waiting[0], "night": nights[-1].isoformat()}
            context["outlet_events"][outlet].add(assets.retrain_requests(use_case), extra=filed)
        seconds = (time.monotonic() - started) / len(nights)
        labels = {m.judged_on: m.labels for m in matured if m.cohort == "night"}
        entries = [ledger.Entry(night, "monitor", labels.get(night, 0), labels.get(night, 0), 0, seconds) for night in nights]
        ledger.record(settings, use_case, entries)
        return {
            "matured": [str(m.night) for m in matured if m.cohort == "night"],
            "drifted": [column.column for column in drifted],
            "asked": verdict.asked,
            "reasons": list(verdict.reasons),
            "request_id": request_id,
        }


class ReportOperator(NightOperator):
    """Draws the last of the nights as an Evidently page beside its model in MLflow."""

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.monitor import report

        path = report.publish(connect(settings), settings, use_case, nights[-1])
        self.log.info("page: %s", path or "none, nobody scored this night")
        return path
