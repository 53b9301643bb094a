"""Build the features of some nights with dbt, in this process, on this process's Spark session."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import ContractError
from include.nightshift.lakehouse import barrier, log, stale, tables, writes
from include.nightshift.settings import ROOT

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

PROJECT = ROOT / "dbt_project"


@dataclass(frozen=True)
class Built:
    """The features of some nights: rows by night, and the version of the table that holds them."""

    rows: dict[date, int]
    version: int
    seconds: float


def build(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> Built:
    """Replace the features of the nights, which must follow each other, and test them.

    Raises:
        ContractError: a model or a test failed, or the features lack rows that silver has.
        WriteConflictError: other writers won every attempt.
    """
    started = time.monotonic()
    first, last = min(nights), max(nights)
    table = tables.features(use_case)
    variables = {"first_night": first.isoformat(), "last_night": last.isoformat()}
    arguments = [
        "build",
        "--select",
        f"path:models/{use_case.name}",
        "--exclude-resource-type",
        "unit_test",
        "--vars",
        json.dumps(variables),
    ]
    with barrier.passing(settings):
        writes.retried(lambda: dbt(settings, arguments), str(table))
    # dbt's Spark adapter turns ANSI mode off on the session it uses, and this process goes on with that session.
    session.conf.set("spark.sql.ansi.enabled", "true")
    built = log.rows_by_night(settings, table, {"day": nights})
    wanted = log.rows_by_night(settings, tables.silver(use_case.events), {"day": nights})
    if built != wanted:
        night = min(night for night in {*built, *wanted} if built.get(night) != wanted.get(night))
        raise ContractError(
            f"{table}, night {night}: {built.get(night, 0)} rows, expected {wanted.get(night, 0)}, one per row of "
            f"{tables.silver(use_case.events)}. Run the features of that night again; if it stays, a join loses or doubles rows"
        )
    stale.rebuilt(settings, table, nights)
    return Built({night: built.get(night, 0) for night in nights}, log.version(settings, table), time.monotonic() - started)


def dbt(settings: Settings, arguments: list[str]) -> Any:
    """Run a dbt command on the project; returns dbt's own result.

    Target and log folders are the call's own: two nights may build at once, and dbt locks nothing.

    Raises:
        ContractError: it failed; the message holds dbt's own words for each failed node.
    """
    from dbt.cli.main import dbtRunner

    os.environ["SPARK_REMOTE"] = settings.spark_url
    (settings.home / "dbt").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home / "dbt", prefix="run-") as folder:
        where = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target-path", folder]
        quiet = [
            "--no-write-json",
            "--log-path",
            str(Path(folder) / "logs"),
            "--no-partial-parse",
            "--no-populate-cache",
            "--no-use-colors",
        ]
        result = dbtRunner().invoke([*arguments, *where, *quiet])
    if not result.success:
        nodes = [
            f"{r.node.name}: {r.message}" for r in getattr(result.result, "results", []) if r.status in ("error", "fail", "runtime error")
        ]
        raise ContractError(f"dbt {arguments[0]} failed: " + ("; ".join(nodes) or str(result.exception)))
    return result
