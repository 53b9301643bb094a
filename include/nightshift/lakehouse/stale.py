"""Stale nights: what was built on a night that has changed since. Marked before the change, rebuilt on request, in order."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from include.nightshift import usecase
from include.nightshift.lakehouse import log, records, tables

if TYPE_CHECKING:
    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed


def mark(settings: Settings, table: Table, nights: Collection[date], because: str) -> None:
    """Say that the table's nights must be rebuilt. Repeating it changes nothing."""
    if not nights:
        return

    def marked(held: list[records.Record]) -> list[records.Record]:
        still = {record["day"]: record for record in held if record["rebuilt_at"] is None}
        new = {"table_name": str(table), "because": because, "marked_at": datetime.now(UTC), "rebuilt_at": None}
        return [still.get(night, {"day": night} | new) for night in nights]

    records.amend(settings, tables.STALE_NIGHTS, marked, _slice(table, nights))


def mark_dependents(settings: Settings, feed: Feed, changed: Collection[date]) -> None:
    """Mark the nights, from the first changed one on, of every gold table that is built on the feed.

    From the first one on, because windows look back: a night sees what any night before it holds.
    """
    first = min(changed)
    because = f"silver.{feed.name} of {', '.join(map(str, sorted(changed)[:3]))}{' …' if len(changed) > 3 else ''} changed"
    for use_case in usecase.registered(settings):
        if feed.name not in [fed.name for fed in use_case.feeds]:
            continue
        for table in (tables.features(use_case), tables.scores(use_case), tables.alerts(use_case)):
            nights = [night for night in log.rows_by_night(settings, table) if night >= first]
            mark(settings, table, nights, because)


def mark_unfilled(settings: Settings, table: Table, columns: Collection[str]) -> None:
    """Mark all nights of a features table that is about to get columns: their rows will be null there until they are built again."""
    if table in [tables.features(use_case) for use_case in usecase.registered(settings)]:
        mark(settings, table, list(log.rows_by_night(settings, table)), f"it lacks {', '.join(columns)}")


def rebuilt(settings: Settings, table: Table, nights: Collection[date]) -> None:
    """Say that the table's nights were built again."""
    if not set(nights) & set(waiting(settings, table)):
        return

    def closed(held: list[records.Record]) -> list[records.Record]:
        now = datetime.now(UTC)
        return [record | {"rebuilt_at": record["rebuilt_at"] or now} for record in held]

    records.amend(settings, tables.STALE_NIGHTS, closed, _slice(table, nights))


def waiting(settings: Settings, table: Table | None = None) -> list[date]:
    """The nights, in order, that are stale in the table, or in any."""
    found = records.read(settings, tables.STALE_NIGHTS)
    return sorted({r["day"] for r in found if r["rebuilt_at"] is None and (table is None or r["table_name"] == str(table))})


def _slice(table: Table, nights: Collection[date]) -> dict[str, Collection[Any]]:
    return {"day": sorted(nights), "table_name": [str(table)]}
