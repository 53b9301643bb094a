"""Steering: look how a run stands, and do the one thing that is to be done now: start a machine, wait, move, stop, or call it done.

Everything it knows is in the run folder and with the pool, so any process can take the next turn: a worker that died, a scheduler that
restarted or a trigger that was moved change nothing. A machine that lives is found again and never doubled.
"""

from __future__ import annotations

import fcntl
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from include.nightshift.errors import (
    ConfigurationError,
    NoCapacityError,
    SpotTermsError,
    TrainingFailedError,
    TrainingOutOfMemoryError,
    TrainingStalledError,
)
from include.nightshift.spot import attempts
from include.nightshift.spot.attempts import Attempt
from include.nightshift.spot.policy import ON_DEMAND, Market, Planner
from include.nightshift.spot.pools import Machine, Order, Pool, Prices
from include.nightshift.train import search
from include.nightshift.train.pace import AT_RISK_SECONDS
from include.nightshift.train.run import BEGAN, RUN, TrainingRun, begun, finished

log = logging.getLogger(__name__)

ASKED = "asked.jsonl"
"""Every time that the pool was asked for a machine and what it answered, relative to the run folder."""

LOCK = "steering.lock"

BOOTS = 3
"""So many machines in a row that never began are no weather."""

STALLS = 2
"""So many stalled trainers in a row are no hung GPU."""

_LAST_WORD_SECONDS = 10.0
_CALM_TICKS = 10
_USUAL_SHARE = 0.3
_REMEMBERED = 50
"""Runs whose machines tell of the market, the newest."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a run may take."""

    deadline: datetime
    """No machine works beyond it."""
    work_hours: float = 1.0
    """What a machine is expected to need, until its progress says."""
    at_risk_seconds: float = AT_RISK_SECONDS
    """Work that losing a machine may cost; 0 saves as often as the recipe can."""
    max_preemptions: int = 10
    """After so many lost machines the rest is done on demand."""
    max_cost: float | None = None
    """In the currency of the bills; None: whatever it takes."""
    price_ceiling: float | None = None
    """No spot machine that costs more an hour."""
    tick_seconds: float = 60.0
    """How often places are asked while there is nothing to be had."""

    def told(self) -> dict[str, Any]:
        """As JSON takes it; `of` reads it."""
        return asdict(self) | {"deadline": self.deadline.isoformat()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Terms:
        return cls(**{**told, "deadline": datetime.fromisoformat(told["deadline"])})

    def __post_init__(self) -> None:
        if self.deadline.tzinfo is None:
            raise ConfigurationError(f"deadline {self.deadline.isoformat()} has no zone: give an aware moment")
        if self.at_risk_seconds < 0 or self.max_preemptions < 0 or min(self.work_hours, self.tick_seconds) <= 0:
            raise ConfigurationError(
                f"terms: work_hours {self.work_hours} and tick_seconds {self.tick_seconds} must be above 0, "
                f"at_risk_seconds {self.at_risk_seconds} and max_preemptions {self.max_preemptions} not below"
            )
        for name, money in (("max_cost", self.max_cost), ("price_ceiling", self.price_ceiling)):
            if money is not None and money <= 0:
                raise ConfigurationError(f"terms: {name} {money} must be above 0; leave it out where there is no limit")


@dataclass(frozen=True)
class Standing:
    """How a run stands after a turn."""

    finished: bool
    machine: Machine | None
    """What trains now; None where the run is finished or nothing is to be had."""
    look_at: datetime
    """When the next turn is due, should nothing happen before."""


def turn(pool: Pool, run_folder: Path, terms: Terms, on_attempt: Callable[[Attempt], None] = lambda attempt: None) -> Standing:
    """Do what is to be done now.

    Args:
        pool: gives the machines.
        run_folder: made by the pin step.
        terms: what the run may take.
        on_attempt: called with each attempt as it ends, before an error is raised about it.

    Raises:
        ConfigurationError: the run folder holds no usable `run.json`.
        TrainingFailedError: the program failed by its own fault, or machines never begin; the message ends with the last log lines.
        TrainingOutOfMemoryError: also the larger type had too little memory, or there is none.
        TrainingStalledError: it stopped getting on, again and again.
        SpotTermsError: the deadline has passed or the money is spent; nothing runs any more and the checkpoints stand.
        PoolError: the pool does not answer or refuses.
    """
    run_folder = run_folder.resolve()
    run = TrainingRun.load(run_folder)
    with _alone(run_folder):
        return _Turn(pool, run, run_folder, terms, on_attempt).taken()


def cancel(pool: Pool, run_folder: Path, on_attempt: Callable[[Attempt], None] = lambda attempt: None) -> list[Machine]:
    """End every machine of a run; returns those that lived. The checkpoints stand."""
    run_folder = run_folder.resolve()
    run = TrainingRun.load(run_folder)
    with _alone(run_folder):
        ended = []
        for machine in pool.find(run.run_id, run_folder):
            if pool.look(machine, run_folder).alive:
                _stop(pool, run_folder, machine, on_attempt)
                ended.append(machine)
        return ended


def train_on(
    pool: Pool,
    run_folder: Path,
    terms: Terms,
    *,
    poll_seconds: float = 0.5,
    on_attempt: Callable[[Attempt], None] = lambda attempt: None,
    on_progress: Callable[[Mapping[str, Any]], None] = lambda line: None,
) -> list[Attempt]:
    """Take turns until the run is finished, and watch in between; returns all its attempts. Raises what `turn` raises.

    A caller that dies leaves the machine at work, and the next call goes on with it.
    """
    news = Progress(run_folder)
    while not (standing := turn(pool, run_folder, terms, on_attempt)).finished:
        while not due(pool, run_folder, standing):
            for line in news.lines():
                on_progress(line)
            time.sleep(poll_seconds)
    for line in news.lines():
        on_progress(line)
    return attempts.ledger(run_folder)


def due(pool: Pool, run_folder: Path, standing: Standing) -> bool:
    """Whether the next turn is due: its time has come, or the machine has ended."""
    if datetime.now(UTC) >= standing.look_at:
        return True
    return standing.machine is not None and not pool.look(standing.machine, run_folder).alive


def usual_hours(run_folder: Path) -> float | None:
    """What the newest finished run of the same recipe and use case has worked, and a fifth on top; None where there is none."""
    run = TrainingRun.load(run_folder)
    newest: tuple[float, float] | None = None
    for result in run_folder.resolve().parent.glob("*/result.json"):
        try:
            told = json.loads((result.parent / RUN).read_text())
            if (told["use_case"], told["recipe"]["name"]) == (run.use_case, run.recipe.name):
                newest = max(newest or (0.0, 0.0), (result.stat().st_mtime, json.loads(result.read_text())["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a run of other code, or one that is being cleared: it tells nothing, and nothing hangs on it
    return newest and max(newest[1], 1.0) * 1.2 / 3600


class Progress:
    """What is news of a run: the trial that its search has come to, and the lines of `progress.jsonl`."""

    def __init__(self, run_folder: Path) -> None:
        self._folder, self._run = run_folder, TrainingRun.load(run_folder)
        self._trial = -1
        self._step = max((line["step"] for line in attempts.progress(run_folder)), default=0)

    def trial(self) -> search.Stand | None:
        """How far the search is, once for each trial that begins."""
        stand = search.stand(self._folder, self._run)
        if stand is None or stand.trial <= self._trial:
            return None
        self._trial = stand.trial
        return stand

    def lines(self) -> Iterator[dict[str, Any]]:
        """Those that nobody has seen yet."""
        for line in attempts.progress(self._folder):
            if line["step"] > self._step:
                self._step = line["step"]
                yield line


def seconds_left(run_folder: Path) -> float | None:
    """Seconds of work that a run still needs, by the pace of its last stretches, and before these by the trials of its search; None
    before anything tells."""
    done = attempts.progress(run_folder)
    if not done or "of" not in done[-1]:
        return search.seconds_left(run_folder, TrainingRun.load(run_folder))
    steps = [0, *(line["step"] for line in done)]
    pace = statistics.median(line["seconds"] / (step - before) for line, before, step in zip(done, steps, steps[1:], strict=False))
    return float((done[-1]["of"] - done[-1]["step"]) * pace)


class _Turn:
    """One turn; made and taken under the run's lock."""

    def __init__(self, pool: Pool, run: TrainingRun, folder: Path, terms: Terms, on_attempt: Callable[[Attempt], None]) -> None:
        self.pool, self.run, self.folder, self.terms, self.on_attempt = pool, run, folder, terms, on_attempt
        self.now = datetime.now(UTC)
        self.attempt = 0
        """The highest that the pool knows."""
        self.like: str | None = None
        """The type of the machine that this pool gave to begin on; None before there is anything to go on with."""

    def taken(self) -> Standing:
        machines = self.pool.find(self.run.run_id, self.folder)
        if machines:
            self.pool.fetch(self.run.run_id, self.folder)
        self.attempt = max((machine.attempt for machine in machines), default=0)
        self.like = self._begun_on(machines)
        running = self._settled(machines)
        # There should be one at most. Should a pool have been slow to tell of one, the newest is the one that is waited for.
        for earlier in running[:-1]:
            self._stop(earlier)
        if finished(self.folder):
            if running:
                self._see_off(running[-1])
            return Standing(True, None, self.now)
        machine = running[-1] if running else None
        self._check_terms(machine)
        return self._planned(machine)

    def _settled(self, machines: list[Machine]) -> list[Machine]:
        """Close those that have ended; returns those that live."""
        closed = {attempt.attempt for attempt in attempts.ledger(self.folder)}
        alive = []
        for machine in machines:
            if machine.attempt in closed:
                continue
            sight = self.pool.look(machine, self.folder)
            if sight.alive:
                alive.append(machine)
                continue
            attempt = attempts.closed(self.pool.name, self.folder, machine, sight, self.now)
            self.on_attempt(attempt)
            if attempt.outcome == "failed":
                raise TrainingFailedError(attempts.reason(machine, sight))
            if attempt.outcome == "out_of_memory" and (not self.pool.has_larger or self._out_of_memory() > 1):
                raise TrainingOutOfMemoryError(
                    f"{attempts.reason(machine, sight)}\nMemory ran out on {machine.kind}"
                    f"{', the larger type' if self.pool.has_larger else ''}: train on fewer nights, or give the pool a larger type"
                )
            if attempt.outcome == "stalled" and self._in_a_row("stalled") >= STALLS:
                raise TrainingStalledError(f"{attempts.reason(machine, sight)}\nIt stalled {STALLS} times in a row: look at its last lines")
            if attempt.on_demand and attempt.outcome == "preempted" and self._idle_on_demand() >= BOOTS:
                raise TrainingFailedError(
                    f"{attempts.reason(machine, sight)}\n{BOOTS} on-demand machines in a row left without getting on: "
                    "look at what ends them"
                )
            if attempt.outcome == "never_began" and self._in_a_row("never_began") >= BOOTS:
                raise TrainingFailedError(
                    f"run {self.run.run_id}: {BOOTS} machines in a row never began, the last one {machine.name} in {machine.place}. "
                    "Look at its console output: image, code bundle, permissions or network"
                )
        return alive

    def _see_off(self, machine: Machine) -> None:
        """The result is there; the machine is about to say its last word."""
        until = time.monotonic() + _LAST_WORD_SECONDS
        while self.pool.look(machine, self.folder).alive and time.monotonic() < until:
            time.sleep(0.1)
        self._stop(machine)

    def _begun_on(self, machines: list[Machine]) -> str | None:
        if not begun(self.folder):
            return None
        try:
            began = json.loads((self.folder / BEGAN).read_text())["attempt"]
        except FileNotFoundError:
            return None  # what to make of such a checkpoint is the trainer's to say
        kinds = {attempt.attempt: attempt.kind for attempt in attempts.ledger(self.folder) if attempt.pool == self.pool.name}
        return (kinds | {machine.attempt: machine.kind for machine in machines}).get(began)

    def _out_of_memory(self) -> int:
        return sum(attempt.outcome == "out_of_memory" for attempt in attempts.ledger(self.folder))

    def _in_a_row(self, outcome: str) -> int:
        """So many of the newest attempts ended like that."""
        count = 0
        for attempt in reversed(attempts.ledger(self.folder)):
            if attempt.outcome != outcome:
                break
            count += 1
        return count

    def _idle_on_demand(self) -> int:
        """So many of the newest attempts were on demand, left before their time and saved nothing."""
        saved = [datetime.fromisoformat(line["at"]) for line in attempts.progress(self.folder)[-1:]]
        count = 0
        for attempt in reversed(attempts.ledger(self.folder)):
            if not attempt.on_demand or attempt.outcome != "preempted" or any(at > attempt.started_at for at in saved):
                break
            count += 1
        return count

    def _check_terms(self, machine: Machine | None) -> None:
        spent = self._spent(machine)
        over = None
        if self.now >= self.terms.deadline:
            over = f"its deadline {self.terms.deadline.isoformat(timespec='seconds')} has passed; give it more time"
        elif self.terms.max_cost is not None and spent >= self.terms.max_cost:
            over = f"it has cost {spent:.2f} and may cost {self.terms.max_cost:.2f}; raise max_cost"
        if over:
            if machine:
                self._stop(machine)
            raise SpotTermsError(f"run {self.run.run_id} may not go on: {over} and start it again. Its checkpoints stand")

    def _planned(self, machine: Machine | None) -> Standing:
        # Its luck has run out: what is left is done where nobody takes the machine away.
        for_good = self._lost() > self.terms.max_preemptions
        if machine and (machine.on_demand if for_good else not machine.on_demand and not self._starting_hours(machine)):
            # Where it works already, nothing beats staying: moving costs a changeover.
            return self._standing(machine, settled=True)
        prices = self.pool.prices(like=self.like, larger=self._out_of_memory() > 0)
        if for_good:
            return self._moved(machine, (), prices)
        market = learnt(self.pool.name, self.folder.parent, prices, self.terms.tick_seconds)
        running = None if machine is None else ON_DEMAND if machine.on_demand else machine.place
        work_hours = self._work_hours()
        wish = self._planner(market, work_hours).wish(self._hours_left(), work_hours, running, self._starting_hours(machine))
        places = tuple(place for place in wish.places if self._affordable(prices.spot[place]))
        if places or (wish.places and wish.otherwise != "on_demand"):
            moved = self._asked(places, wish.places, prices, instead_of=machine)
            if moved:
                return self._standing(moved)
        if wish.otherwise == "on_demand":
            return self._moved(machine, (), prices)
        return self._standing(machine)

    def _planner(self, market: Market, work_hours: float) -> Planner:
        return Planner(
            market=market,
            hours=max(self._hours_left(), self.terms.tick_seconds / 3600) * 1.01,
            work_hours=max(work_hours, self.terms.work_hours) * 1.01,
            changeover_hours=self.pool.changeover_seconds / 3600,
            tick_hours=self.terms.tick_seconds / 3600,
        )

    def _hours_left(self) -> float:
        """Until the deadline, less what a machine that goes now would take with it and what passes until somebody notices."""
        margin = self.terms.at_risk_seconds + self.terms.tick_seconds
        return ((self.terms.deadline - self.now).total_seconds() - margin) / 3600

    def _work_hours(self) -> float:
        left = seconds_left(self.folder)
        return self.terms.work_hours if left is None else max(left, 1.0) / 3600

    def _starting_hours(self, machine: Machine | None) -> float:
        """Until it works, as far as one can tell: none once it has said that it began."""
        if machine is None or self.pool.look(machine, self.folder).word is not None:
            return 0.0
        age = (self.now - machine.started_at).total_seconds()
        return max(self.pool.changeover_seconds - age, self.terms.tick_seconds) / 3600

    def _affordable(self, price: float) -> bool:
        return self.terms.price_ceiling is None or price <= self.terms.price_ceiling

    def _lost(self) -> int:
        return sum(attempt.outcome == "preempted" for attempt in attempts.ledger(self.folder))

    def _moved(self, machine: Machine | None, places: tuple[str, ...], prices: Prices) -> Standing:
        return self._standing(self._asked(places, places, prices, instead_of=machine) or machine)

    def _asked(self, places: tuple[str, ...], wished: tuple[str, ...], prices: Prices, instead_of: Machine | None) -> Machine | None:
        """Ask for a machine; the one that runs is let go when another one is there. None: refused."""
        asked = attempts.lines(self.folder / ASKED)
        known = [self.attempt, *(attempt.attempt for attempt in attempts.ledger(self.folder))]
        known += [line["attempt"] for line in asked if line["machine"]]
        order = Order(
            run_id=self.run.run_id,
            run_folder=self.folder,
            attempt=max(known) + 1,
            places=places,
            until=self.terms.deadline,
            at_risk_seconds=self.terms.at_risk_seconds,
            price_per_hour=max((prices.spot[place] for place in places), default=prices.on_demand),
            max_price=self.terms.price_ceiling if places else None,
            ask=len(asked),
            larger=self._out_of_memory() > 0,
            like=self.like,
        )
        refused = dict.fromkeys(set(wished) - set(places), f"dearer than {self.terms.price_ceiling}")
        machine = None
        if places or not wished:
            try:
                machine = self.pool.start(order)
            except NoCapacityError as error:
                log.info("no machine: %s", error)
                refused |= error.refused
        attempts.append(
            self.folder / ASKED,
            {
                "attempt": order.attempt,
                "at": self.now.isoformat(),
                "on_demand": order.on_demand,
                "refused": refused,
                "machine": machine and machine.told(),
            },
        )
        if machine:
            if instead_of:
                # Not before the other one is ours. It waits for this one to leave.
                self._stop(instead_of)
            log.info(
                "run %s, attempt %d: %s in %s at %.4f an hour, %s",
                self.run.run_id,
                order.attempt,
                machine.name,
                machine.place,
                machine.price_per_hour,
                "on demand" if machine.on_demand else "spot",
            )
        return machine

    def _stop(self, machine: Machine) -> None:
        _stop(self.pool, self.folder, machine, self.on_attempt)

    def _standing(self, machine: Machine | None, *, settled: bool = False) -> Standing:
        """`settled`: there is nothing to decide until the machine ends, or time or money do."""
        seconds = (self.terms.deadline - self.now).total_seconds()
        if machine and self.terms.max_cost is not None and machine.price_per_hour:
            seconds = min(seconds, max(0.0, self.terms.max_cost - self._spent(machine)) / machine.price_per_hour * 3600)
        if not settled:
            # What runs on demand may go back to spot, and that is less urgent.
            seconds = min(seconds, self.terms.tick_seconds * (_CALM_TICKS if machine and machine.on_demand else 1))
        return Standing(False, machine, self.now + timedelta(seconds=seconds))

    def _spent(self, machine: Machine | None) -> float:
        ended = attempts.spent(attempts.ledger(self.folder))
        return ended + ((self.now - machine.started_at).total_seconds() / 3600 * machine.price_per_hour if machine else 0.0)


def _stop(pool: Pool, run_folder: Path, machine: Machine, on_attempt: Callable[[Attempt], None]) -> None:
    pool.stop(machine, run_folder)
    pool.fetch(machine.run_id, run_folder)
    on_attempt(attempts.closed(pool.name, run_folder, machine, pool.look(machine, run_folder), datetime.now(UTC), cancelled=True))


def learnt(pool: str, runs: Path, prices: Prices, tick_seconds: float) -> Market:
    """The market of a pool's places, by what the newest runs in a folder have met there."""
    # Where nothing costs anything, spot is dealt with as if it were cheaper.
    market = Market({place: price / prices.on_demand if prices.on_demand else _USUAL_SHARE for place, price in prices.spot.items()})
    folders = sorted((path.parent for path in runs.glob(f"*/{ASKED}")), key=lambda folder: (folder / ASKED).stat().st_mtime)
    for folder in folders[-_REMEMBERED:]:
        for attempt in attempts.ledger(folder):
            where = f"{attempt.zone}/{attempt.kind}"
            if attempt.pool == pool and not attempt.on_demand and where in market.prices:
                market.ran(where, attempt.hours)
                if attempt.outcome == "preempted":
                    market.lost(where)
        asked = [line for line in attempts.lines(folder / ASKED) if not line["on_demand"]]
        for line in asked:
            machine = line["machine"] and Machine.of(line["machine"])
            refused = {*line["refused"], *(machine.refused if machine else ())}
            market.asked(refused, machine.place if machine else None, tick_seconds / 3600)
    return market


@contextmanager
def _alone(run_folder: Path) -> Iterator[None]:
    """One turn at a time: a worker that was given up for dead may still be at it."""
    with (run_folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
