"""Spot: takes a training run's turns while the task is deferred."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from include.nightshift import settings
from nightshift_airflow.pools import pool

if TYPE_CHECKING:
    from include.nightshift.spot.attempts import Attempt
    from include.nightshift.spot.pools import Pool
    from include.nightshift.spot.steering import Progress, Standing, Terms

LOOK_SECONDS = 1.0
"""How often a machine on this computer is looked at; one elsewhere at most every `REMOTE_LOOK_SECONDS`."""

REMOTE_LOOK_SECONDS = 5.0


class SpotTrigger(BaseTrigger):
    """Brings a run to its end: starts a machine after one was taken, waits where none is to be had, and tells of progress.

    Yields one event: `{"error": None}` when the run is finished, or the name and message of the error that ended it. All that it knows
    is in the run folder, so another triggerer goes on where this one died; the machine does not notice.

    :param run_folder: the pinned run.
    :param terms: what the run may take, as `Terms.told`.
    :param rehearsed: machines to take away on purpose.
    """

    def __init__(self, run_folder: str, terms: dict[str, Any], rehearsed: int = 0) -> None:
        super().__init__()
        self.run_folder = run_folder
        self.terms = terms
        self.rehearsed = rehearsed

    def serialize(self) -> tuple[str, dict[str, Any]]:
        kwargs = {"run_folder": self.run_folder, "terms": self.terms, "rehearsed": self.rehearsed}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from include.nightshift.errors import NightshiftError
        from include.nightshift.spot.steering import Progress, Terms

        folder, terms = Path(self.run_folder), Terms.of(self.terms)
        try:
            machines = await asyncio.to_thread(pool, settings.load(), self.rehearsed)
            news = Progress(folder)
            while not (standing := await asyncio.to_thread(self._turn, machines, folder, terms)).finished:
                await self._watch(machines, folder, standing, news)
            await asyncio.to_thread(self._tell, folder, news)
            yield TriggerEvent({"error": None})
        except NightshiftError as error:
            yield TriggerEvent({"error": type(error).__name__, "message": str(error)})

    async def on_kill(self) -> None:
        """A person marked or cleared the task: its machine must not go on alone."""
        from include.nightshift.spot import steering

        machines = await asyncio.to_thread(pool, settings.load(), self.rehearsed)
        ended = await asyncio.to_thread(steering.cancel, machines, Path(self.run_folder), self._ended)
        self.log.info("ended by hand: %s", ", ".join(machine.name for machine in ended) or "no machine was running")

    def _turn(self, machines: Pool, folder: Path, terms: Terms) -> Standing:
        from include.nightshift.spot import steering

        standing = steering.turn(machines, folder, terms, self._ended)
        if standing.machine is None and not standing.finished:
            self.log.info("no machine to be had; asking again at %s", standing.look_at.isoformat(timespec="seconds"))
        return standing

    async def _watch(self, machines: Pool, folder: Path, standing: Standing, news: Progress) -> None:
        """Until the next turn is due."""
        from include.nightshift.errors import PoolError
        from include.nightshift.spot import steering

        pause = LOOK_SECONDS if machines.name == "local" else REMOTE_LOOK_SECONDS
        while True:
            try:
                if await asyncio.to_thread(steering.due, machines, folder, standing):
                    return
                if standing.machine is not None:
                    await asyncio.to_thread(machines.fetch, standing.machine.run_id, folder)
            except PoolError as error:
                # The machine works on unseen, and what it does will be seen later; the deadline is a turn's business.
                self.log.warning("%s", error)
                if datetime.now(UTC) >= standing.look_at:
                    return
            await asyncio.to_thread(self._tell, folder, news)
            await asyncio.sleep(pause)

    def _tell(self, folder: Path, news: Progress) -> None:
        from include.nightshift.spot import steering

        if (stand := news.trial()) is not None:
            self.log.info(
                "trial %s runs, %s of at most %s are done%s",
                *(stand.trial, stand.trial, stand.of),
                "" if stand.seconds_left is None else f"; about {stand.seconds_left:.0f} s until the search ends (an estimate by these)",
            )
        for line in news.lines():
            left = steering.seconds_left(folder)
            self.log.info(
                "step %s of %s: training loss %.5f, %.1f s; about %s to go",
                *(line["step"], line["of"], line["loss"], line["seconds"], f"{left:.0f} s" if left is not None else "?"),
            )

    def _ended(self, attempt: Attempt) -> None:
        self.log.info(
            "attempt %s on %s in %s: %s after %.1f s, %.1f s of work lost, cost %.4f (on demand %.4f)",
            *(attempt.attempt, attempt.machine, attempt.zone, attempt.outcome),
            *(attempt.seconds, attempt.lost_seconds, attempt.cost, attempt.on_demand_cost),
        )
