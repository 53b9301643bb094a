"""Features: one dbt build for the nights."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from nightshift_airflow.operators.night import NightOperator, by_night

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


class FeaturesOperator(NightOperator):
    """Builds and tests the nights' features with dbt, and publishes their version."""

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.features import build
        from include.nightshift.lakehouse import ledger
        from include.nightshift.lakehouse.session import connect

        built = build.build(connect(settings), settings, use_case, nights)
        seconds = built.seconds / len(nights)
        ledger.record(settings, use_case, [ledger.Entry(night, "features", rows, rows, 0, seconds) for night, rows in built.rows.items()])
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"version": built.version, "rows": sum(built.rows.values())}
        return {"rows": by_night(built.rows), "version": built.version, "seconds": built.seconds}
