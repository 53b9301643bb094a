"""Pins: table versions that `maintain` keeps, each with a reason and, mostly, a last day; in `ops.table_pins`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, records, tables, vacuum
from include.nightshift.lakehouse.files import Folder

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings


@dataclass(frozen=True, order=True)
class Pin:
    """A version that somebody needs."""

    table: str
    version: int
    why: str
    """Who needs it: a training run's id, or a person's word."""
    until: date | None = None
    """The last day (UTC) it is held; None until it is released."""


def pin(settings: Settings, table: Table, version: int, why: str, until: date | None = None) -> Pin:
    """Keep a version. Pinning it again for the same reason changes `until` at most.

    Raises:
        LakehouseError: there is no such version, or some of its files are gone: a pin brings nothing back.
    """
    wanted = Pin(str(table), version, why, until)
    _check_readable(settings, table, version)
    row = {"table_name": wanted.table, "version": version, "why": why, "until": until, "pinned_at": datetime.now(UTC)}
    records.replace(settings, tables.TABLE_PINS, [row], {"table_name": [wanted.table], "version": [version], "why": [why]})
    try:
        # A `maintain` that read the pins a moment before this one was written may have taken the files just now.
        _check_readable(settings, table, version)
    except LakehouseError:
        release(settings, [wanted])
        raise
    return wanted


def release(settings: Settings, pins: Collection[Pin]) -> None:
    """Give up pins, whatever their last day; those that are not there are none to worry about."""
    names = {(pin.table, pin.version, pin.why) for pin in pins}

    def without(held: list[Record]) -> list[Record]:
        return [row for row in held if (row["table_name"], row["version"], row["why"]) not in names]

    records.amend(settings, tables.TABLE_PINS, without)


def held(settings: Settings, table: Table, today: date) -> list[Pin]:
    """The pins of a table that hold today, in the order of their versions."""
    return sorted(
        (pin for pin in _all(settings, table_name=str(table)) if pin.until is None or pin.until >= today),
        key=lambda pin: (pin.version, pin.why),
    )


def expire(settings: Settings, today: date) -> list[Pin]:
    """Release the pins whose last day is over; returns them."""
    over = [pin for pin in _all(settings) if pin.until is not None and pin.until < today]
    if over:
        release(settings, over)
    return over


def _all(settings: Settings, **values: str) -> list[Pin]:
    rows = records.read(settings, tables.TABLE_PINS, **values)
    return [Pin(row["table_name"], row["version"], row["why"], row["until"]) for row in rows]


def lost(settings: Settings, table: Table, version: int) -> frozenset[str]:
    """Files of a version that are gone; none: it can be read."""
    return vacuum.paths(log.opened(settings, table, version)) - {file.path for file in Folder(settings, table).data()}


def _check_readable(settings: Settings, table: Table, version: int) -> None:
    if gone := lost(settings, table, version):
        raise LakehouseError(
            f"{table} version {version} cannot be pinned: {len(gone)} of its files are gone (the first: {min(gone)}). "
            "`maintain` took them because nobody had pinned the version; pin a newer one"
        )
