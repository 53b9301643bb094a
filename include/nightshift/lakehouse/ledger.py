"""The ledger of nights: what each stage did with a night, in `ops.nights`, and each node of its dbt build, in `ops.dbt_nodes`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from include.nightshift.lakehouse import records, tables

if TYPE_CHECKING:
    from include.nightshift.features.project import Node
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


_MESSAGE = 1000
"""So many characters of a node's message are kept: Spark's can hold a whole plan."""


@dataclass(frozen=True)
class Entry:
    """What one stage did with one night."""

    night: date
    stage: str
    rows_in: int
    rows_out: int
    rejected: int
    seconds: float
    state: str = "done"


def record(settings: Settings, use_case: UseCase, entries: Sequence[Entry]) -> None:
    """Replace the entries of these nights and stages."""
    slice_: dict[str, Collection[object]] = {
        "day": sorted({entry.night for entry in entries}),
        "use_case": [use_case.name],
        "stage": sorted({entry.stage for entry in entries}),
    }
    entered = [
        {
            "day": entry.night,
            "use_case": use_case.name,
            "stage": entry.stage,
            "seconds": entry.seconds,
            "rows_in": entry.rows_in,
            "rows_out": entry.rows_out,
            "rejected": entry.rejected,
            "state": entry.state,
        }
        for entry in entries
    ]
    records.replace(settings, tables.NIGHTS, entered, slice_)


def record_nodes(settings: Settings, use_case: UseCase, nights: Collection[date], nodes: Sequence[Node]) -> None:
    """Replace what is recorded of the build that ends with the last of these nights."""
    first, last, now = min(nights), max(nights), datetime.now(UTC)
    ran = [
        {
            "day": last,
            "use_case": use_case.name,
            "first_night": first,
            "node": node.name,
            "kind": node.kind,
            "status": node.status,
            "seconds": node.seconds,
            "rows": node.rows,
            "message": node.message[:_MESSAGE],
            "built_at": now,
        }
        for node in nodes
    ]
    records.replace(settings, tables.DBT_NODES, ran, {"day": [last], "use_case": [use_case.name]})
