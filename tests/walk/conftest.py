"""One whole installation for all walks: a small world of its own, loaded, trained, approved, with the real scheduler."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.nightshift import usecase
from include.nightshift.lakehouse import log, tables
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.operate import processes
from include.nightshift.operate.walk import Walk
from include.nightshift.settings import Ports, Settings
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.simulator import simulate
from include.usecases.card_fraud.world import World

FIRST = date(2026, 1, 1)
HISTORY = 60
LIVE = 8
AS_OF = FIRST + timedelta(days=HISTORY - 1)


class Walked(Walk):
    """A walk, and the ways to look at what it left."""

    def __init__(self, settings: Settings, use_case: UseCase) -> None:
        super().__init__(settings, use_case)
        self.settings = settings

    def live(self, number: int) -> date:
        """The number-th night after the history, from 1."""
        return AS_OF + timedelta(days=number)

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        return lakehouse.rows(lakehouse.connect(self.settings), query, **parameters)

    def versions(self) -> dict[str, int]:
        """The version of every table."""
        return {str(table): log.version(self.settings, table) for table in (*tables.SHARED, *tables.of(self.use_case))}


@pytest.fixture(scope="session")
def walk() -> Iterator[Walked]:
    """History loaded, the first model trained through two preemptions, judged, approved over REST and promoted."""
    home = Path(tempfile.mkdtemp(prefix="walk-"))
    landing = home / "landing"
    world = World.of_size(2_000, seed=7)
    simulate(landing, first=FIRST, nights=HISTORY + LIVE, world=world)
    settings = Settings(
        home=home,
        clock=False,
        ports=Ports.free(),
        feed_spans={"transactions": (FIRST, None), "fraud_labels": (FIRST + timedelta(days=7), None)},
        local_preemptions=2,
    )
    before = dict(os.environ)
    os.environ.update(processes.environment(settings))
    try:
        processes.up(settings)
        walk = Walked(settings, usecase.load("card_fraud", settings))
        walk.backfill(FIRST, AS_OF)
        walk.approve(walk.train(AS_OF))
        yield walk
    finally:
        processes.down(settings)
        os.environ.clear()
        os.environ.update(before)
        if "NIGHTSHIFT_KEEP_WALK" not in before:
            shutil.rmtree(home, ignore_errors=True)
