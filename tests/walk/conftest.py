"""A world that changes for the worse, in the running installation, with the real scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from include.nightshift.lakehouse import log, tables
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.operate import processes
from include.nightshift.operate.walk import Walk
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.simulator import simulate
from include.usecases.card_fraud.usecase import USE_CASE
from include.usecases.card_fraud.world import World

if TYPE_CHECKING:
    from tests.conftest import Running


class Walked(Walk):
    """A walk, its days, and the ways to look at what it left."""

    first = date(2026, 1, 1)
    last = date(2026, 3, 9)
    """Of the history."""
    changes_on = date(2026, 2, 10)
    """The world: four weeks before the history ends, so that changed nights have matured to train on and, apart from them, to judge on."""
    as_of = changes_on - timedelta(days=1)
    """What the first champion knows ends here."""
    lives = 6
    """Nights that landed after the history."""

    def __init__(self, settings: Settings, use_case: UseCase) -> None:
        super().__init__(settings, use_case)
        self.settings = settings

    def live(self, number: int) -> date:
        """The number-th night after the history, from 1."""
        return self.last + timedelta(days=number)

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        return lakehouse.rows(lakehouse.connect(self.settings), query, **parameters)

    def versions(self) -> dict[str, int]:
        """The version of every table."""
        return {str(table): log.version(self.settings, table) for table in (*tables.SHARED, *tables.of(self.use_case))}


@pytest.fixture(scope="module")
def walk(running: Running) -> Iterator[Walked]:
    """History loaded, the first model trained, judged, approved over REST and promoted, and the nights since scored with it."""
    settings = running.settings
    nights = (Walked.last - Walked.first).days + 1 + Walked.lives
    world = World.of_size(4_000, seed=7, change="harmful", change_on=Walked.changes_on)
    simulate(settings.landing_folder, first=Walked.first, nights=nights, world=world)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in processes.environment(settings).items():
            patch.setenv(name, value)
        walk = Walked(settings, USE_CASE)
        walk.backfill(walk.first, walk.last)
        walk.approve(walk.train(walk.as_of, preemptions=0))
        walk.backfill(walk.changes_on, walk.last, "scores")
        yield walk
