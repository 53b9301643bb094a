"""The ledger of nights: what each stage did with a night, in `ops.nights`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift.lakehouse import records, tables

if TYPE_CHECKING:
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


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
