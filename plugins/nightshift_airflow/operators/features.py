"""Features: one dbt build for the nights."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import NightshiftError
from nightshift_airflow.links import DbtResultsLink
from nightshift_airflow.operators.night import NightOperator, by_night

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.features.project import Node
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


class FeaturesOperator(NightOperator):
    """Builds and tests the nights' features with dbt, and publishes their version.

    What each model and test did is in the log, in `ops.dbt_nodes` and on the page that the link leads to, also when the build failed.
    """

    operator_extra_links = (DbtResultsLink(),)

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.features import build
        from include.nightshift.features.project import BuildError
        from include.nightshift.lakehouse import ledger
        from include.nightshift.lakehouse.session import connect

        try:
            built = build.build(connect(settings), settings, use_case, nights)
        except BuildError as error:
            self._tell_of_failed(settings, use_case, nights, error.nodes)
            raise
        self._log(built.nodes)
        ledger.record_nodes(settings, use_case, nights, built.nodes)
        seconds = built.seconds / len(nights)
        ledger.record(settings, use_case, [ledger.Entry(night, "features", rows, rows, 0, seconds) for night, rows in built.rows.items()])
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"version": built.version, "rows": sum(built.rows.values())}
        return {"rows": by_night(built.rows), "version": built.version, "seconds": built.seconds}

    def _tell_of_failed(self, settings: Settings, use_case: UseCase, nights: list[date], ran: Sequence[Node]) -> None:
        from include.nightshift.lakehouse import ledger

        if not ran:
            # dbt could not even read the project: what is recorded is still the last build.
            return
        self._log(ran)
        try:
            ledger.record_nodes(settings, use_case, nights, ran)
        except NightshiftError:
            # Why the build failed is what the task must end with.
            self.log.exception("the nodes of the failed build could not be recorded")

    def _log(self, ran: Sequence[Node]) -> None:
        from include.nightshift.features import nodes

        # One entry: a logger may put its own words before each.
        self.log.info("what dbt did:\n%s", "\n".join(nodes.lines(ran)))
