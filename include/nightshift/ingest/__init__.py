"""Ingest: landing → bronze → silver, for one feed and one or more nights, the same act however often it is done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift.ingest import bronze, landing, silver
from include.nightshift.lakehouse import log, tables

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed

NIGHTS_AT_ONCE = 50
"""Nights of one commit: a long history neither waits for its last night to be safe nor is held in memory whole."""


@dataclass(frozen=True)
class Ingested:
    """What one feed brought: rows landed by night, and the version of the silver table that holds them."""

    feed: str
    landed: dict[date, int]
    accepted: dict[date, int]
    version: int
    seconds: float

    @property
    def rejected(self) -> dict[date, int]:
        return {night: rows - self.accepted[night] for night, rows in self.landed.items()}


def ingest(session: SparkSession, settings: Settings, feed: Feed, nights: Sequence[date]) -> Ingested:
    """Bring the nights' drops of a feed to bronze and silver.

    Raises:
        LandingError: a drop is missing or cannot be trusted; nothing of the nights from there on was written.
        WriteConflictError: other writers won every attempt.
    """
    started = time.monotonic()
    landed, accepted = dict.fromkeys(nights, 0), dict.fromkeys(nights, 0)
    for begin in range(0, len(nights), NIGHTS_AT_ONCE):
        some = nights[begin : begin + NIGHTS_AT_ONCE]
        drops = [drop for night in some if (drop := landing.read(settings.landing_folder, feed, night))]
        bronze.write(session, settings, feed, some, drops)
        accepted |= silver.write(session, settings, feed, some, drops)
        landed |= {drop.night: drop.rows for drop in drops}
    version = log.version(settings, tables.silver(feed))
    return Ingested(feed.name, landed, accepted, version, time.monotonic() - started)
