"""Maintain: tables of few files, no version that nobody keeps, no checkpoint of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from include.nightshift import settings, usecase

if TYPE_CHECKING:
    from airflow.sdk import Context


class MaintainOperator(BaseOperator):
    """Compacts and vacuums the use case's tables and the shared ones; returns what was done to each.

    :param use_case: name of the use case.
    :param keep_days: how long a version stays readable after another took its place; templated.
    """

    template_fields: Sequence[str] = ("keep_days",)

    def __init__(self, *, use_case: str, keep_days: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.keep_days = keep_days

    def execute(self, context: Context) -> Any:
        from dataclasses import asdict

        from include.nightshift.lakehouse import maintenance
        from include.nightshift.lakehouse.session import connect

        installed = settings.load()
        use_case = usecase.load(self.use_case, installed)
        done = maintenance.maintain(connect(installed), installed, use_case, keep_days=int(self.keep_days))
        for table in done:
            self.log.info("%s", table)
        # XCom is JSON, whose keys are text.
        return [asdict(table) | {"kept": {str(version): why for version, why in table.kept.items()}} for table in done]


class PruneOperator(BaseOperator):
    """Clears the checkpoints of the use case's finished training runs.

    :param use_case: name of the use case.
    """

    def __init__(self, *, use_case: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case

    def execute(self, context: Context) -> Any:
        from include.nightshift.train import prune

        installed = settings.load()
        pruned = prune.prune(installed, usecase.load(self.use_case, installed))
        self.log.info("%s files, %s bytes of %s", pruned.files, pruned.bytes, ", ".join(pruned.runs) or "no run")
        return {"runs": list(pruned.runs), "files": pruned.files, "bytes": pruned.bytes}
