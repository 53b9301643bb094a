"""Retrain requests: a ledger, because asset events coalesce. Filed once per night and cause, claimed once, closed with an outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from include.nightshift.lakehouse import tables, writes
from include.nightshift.lakehouse.session import literal, rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.usecase import UseCase

TABLE = tables.RETRAIN_REQUESTS


def of(session: SparkSession, use_case: UseCase) -> list[dict[str, Any]]:
    """All requests of a use case, oldest night first."""
    return rows(session, f"select * from {TABLE} where use_case = :name order by night, requested_at", name=use_case.name)


def file(session: SparkSession, use_case: UseCase, night: date, cause: str, evidence: Mapping[str, Any]) -> str:
    """File a request; a second one of the same night and cause is the same request. Returns its id."""
    request_id = hashlib.sha256(f"{use_case.name} {night} {cause}".encode()).hexdigest()[:16]
    columns = ", ".join(column.name for column in TABLE.columns)
    values = {
        "request_id": literal(request_id),
        "use_case": literal(use_case.name),
        "night": literal(night),
        "cause": literal(cause),
        "evidence": literal(json.dumps(evidence, default=str, sort_keys=True)),
        "state": "'open'",
        "requested_at": _now(),
    }
    source = ", ".join(f"{values.get(column.name, 'null')} as {column.name}" for column in TABLE.columns)
    _write(
        session,
        f"merge into {TABLE} as old using (select {source}) as new on old.request_id = new.request_id "
        f"when not matched then insert ({columns}) values ({', '.join(f'new.{column.name}' for column in TABLE.columns)})",
    )
    return request_id


def claim(session: SparkSession, use_case: UseCase, as_of: date) -> list[str]:
    """Take all open requests of nights up to `as_of`: one training run answers them all. Returns their ids."""
    condition = f"use_case = {literal(use_case.name)} and state = 'open' and night <= {literal(as_of)}"
    ids = [row["request_id"] for row in rows(session, f"select request_id from {TABLE} where {condition}")]
    if ids:
        _write(session, f"update {TABLE} set state = 'claimed', claimed_at = {_now()} where {condition}")
    return ids


def close(session: SparkSession, request_ids: list[str], *, done: bool, outcome: str) -> None:
    """Say what became of claimed requests."""
    if request_ids:
        ids = ", ".join(literal(request_id) for request_id in request_ids)
        state = "'done'" if done else "'refused'"
        _write(
            session,
            f"update {TABLE} set state = {state}, outcome = {literal(outcome)}, closed_at = {_now()} "
            f"where request_id in ({ids}) and state = 'claimed'",
        )


def _write(session: SparkSession, statement: str) -> None:
    writes.retried(lambda: session.sql(statement), str(TABLE))


def _now() -> str:
    return literal(datetime.now(UTC).replace(tzinfo=None))
