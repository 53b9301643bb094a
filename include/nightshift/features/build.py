"""Build the features of some nights with dbt, in this process, on this process's Spark session."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift.features import project
from include.nightshift.features.nodes import counted
from include.nightshift.lakehouse import barrier, log, stale, tables, writes

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.features.project import Node
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


@dataclass(frozen=True)
class Built:
    """The features of some nights: rows by night, the version of the table that holds them, and how they were built."""

    rows: dict[date, int]
    version: int
    seconds: float
    nodes: tuple[Node, ...]
    """What each model and test of dbt did."""


def build(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> Built:
    """Replace the features of the nights, which must follow each other, and test them.

    Raises:
        BuildError: a model or a test failed, or the features lack rows that silver has.
        WriteConflictError: other writers won every attempt.
    """
    started = time.monotonic()
    first, last = min(nights), max(nights)
    table = tables.features(use_case)
    arguments = ["build", "--select", f"path:models/{use_case.name}", "--exclude-resource-type", "unit_test"]
    ends = {"first_night": first.isoformat(), "last_night": last.isoformat()}
    with barrier.passing(settings):
        nodes = writes.retried(lambda: project.dbt(session, settings, [use_case], arguments, **ends), str(table))
    built = log.rows_by_night(settings, table, {"day": nights})
    wanted = log.rows_by_night(settings, tables.silver(use_case.events), {"day": nights})
    if built != wanted:
        night = min(night for night in {*built, *wanted} if built.get(night) != wanted.get(night))
        raise project.BuildError(
            f"{table}, night {night}: {built.get(night, 0)} rows, expected {wanted.get(night, 0)}, one per row of "
            f"{tables.silver(use_case.events)}. Run the features of that night again; if it stays, a join loses or doubles rows",
            nodes,
        )
    stale.rebuilt(settings, table, nights)
    rows = {night: built.get(night, 0) for night in nights}
    told = counted(nodes, table.name, sum(rows.values()))
    return Built(rows, log.version(settings, table), time.monotonic() - started, told)
