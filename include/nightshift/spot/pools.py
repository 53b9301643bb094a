"""Pools: where a training run gets its machines. One interface, a module for each kind: `local`, `ec2`.

A pool starts machines, finds them again, looks at them and ends them; it decides nothing. A machine is known by run and attempt
alone, so whoever comes later, in whichever process, finds the same one. Every machine runs the same program (`agent`), which ends
with the attempt. A managed service fits where it can take an order, be found by a tag and say what became of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

LOG = "log.txt"
"""What the programs print, all attempts one after another, relative to the run folder."""

MACHINES = "machines"
"""What each machine says of itself, relative to the run folder: `<attempt>.json`, a `Word`."""


def place(zone: str, kind: str) -> str:
    """Where spot machines are had or refused together: a type in a zone has its own price and its own droughts."""
    return f"{zone}/{kind}"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A machine that is wanted for an attempt."""

    run_id: str
    run_folder: Path
    attempt: int
    """From 1. The same order again gives the same machine."""
    places: tuple[str, ...]
    """Spot places to take it from, the preferred one first; empty where it is to be on demand."""
    until: datetime
    """The machine ends itself by then, whoever has forgotten it."""
    at_risk_seconds: float
    """Work that losing it may cost; 0 saves as often as the recipe can."""
    price_per_hour: float = 0.0
    """What it will cost at most, as prices stand; a search with a budget counts with it."""
    max_price: float | None = None
    """Pay no more an hour."""
    ask: int = 0
    """How often the pool has been asked for this run before: what tells the same order again from the next one."""
    larger: bool = False
    """An attempt ran out of memory: take the larger type."""
    like: str | None = None
    """The type of the machine that the run began on: take one that adds up as that does. None: any."""

    @property
    def on_demand(self) -> bool:
        return not self.places


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine of ours: what its pool knew when it was started."""

    name: str
    run_id: str
    attempt: int
    zone: str
    kind: str
    """Its type."""
    on_demand: bool
    price_per_hour: float
    """What it costs."""
    on_demand_per_hour: float
    """What it would cost on demand."""
    started_at: datetime
    refused: tuple[str, ...] = ()
    """Places that had none when it was asked for."""

    @property
    def place(self) -> str:
        return place(self.zone, self.kind)

    def told(self) -> dict[str, Any]:
        """As JSON takes it; `of` reads it."""
        return asdict(self) | {"started_at": self.started_at.isoformat(), "refused": list(self.refused)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Machine:
        return cls(**{**told, "started_at": datetime.fromisoformat(told["started_at"]), "refused": tuple(told["refused"])})


@dataclass(frozen=True, kw_only=True)
class Word:
    """What a machine says of its attempt: once when it begins, and once more when it has ended well enough to speak."""

    attempt: int
    began_at: datetime
    ended_at: datetime | None = None
    status: int | None = None
    """The program's exit status, minus the signal's number where one killed it; None while it runs."""
    taken: bool = False
    """Its owner has said that it takes the machine away."""
    last_lines: str = ""
    """The end of what the attempt printed."""

    def told(self) -> dict[str, Any]:
        return asdict(self) | {"began_at": self.began_at.isoformat(), "ended_at": self.ended_at and self.ended_at.isoformat()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Word:
        ended_at = told["ended_at"] and datetime.fromisoformat(told["ended_at"])
        return cls(**{**told, "began_at": datetime.fromisoformat(told["began_at"]), "ended_at": ended_at})


@dataclass(frozen=True, kw_only=True)
class Sight:
    """How a machine stands."""

    alive: bool
    """Also while it starts or is being shut down."""
    taken: bool = False
    """The pool knows that it was taken away, or will be; False where it does not know."""
    ended_at: datetime | None = None
    """When it ended, where the pool can tell better than the machine's own word."""
    word: Word | None = None
    """None: it never began, or its words have not come through."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What an hour costs now, in the currency of the bills."""

    spot: Mapping[str, float]
    """By place."""
    on_demand: float
    """Of the type that an on-demand order gets."""


class Pool(Protocol):
    """Somewhere to get machines. Every method may be called by another process than the one before, and is safe to repeat."""

    @property
    def name(self) -> str: ...

    @property
    def changeover_seconds(self) -> float:
        """From an order until the machine trains, usually."""

    @property
    def tick_seconds(self) -> float:
        """How often it is worth asking for a machine while there is none."""

    @property
    def has_larger(self) -> bool:
        """Whether an order for a larger type means anything here."""

    def prices(self, *, like: str | None = None, larger: bool = False) -> Prices:
        """What the places cost now that an order may name which says the same of `like` and `larger`.

        Raises:
            PoolError: there are none, or the pool does not answer, or refuses.
        """

    def start(self, order: Order) -> Machine:
        """Give the run folder to a fresh machine, and have it trained there; or the machine that this very order has got already.

        Raises:
            NoCapacityError: no place has one; the error says which refused.
            PoolError: the pool does not answer, or refuses for another reason.
        """

    def find(self, run_id: str, run_folder: Path) -> list[Machine]:
        """The run's machines that are alive, and those that ended and are still known, oldest attempt first."""

    def look(self, machine: Machine, run_folder: Path) -> Sight:
        """How it stands, and what it last said. Cheap: called every few seconds."""

    def page(self, machine: Machine) -> str:
        """Where a person can look at it in a browser; empty where there is no such place."""

    def fetch(self, run_id: str, run_folder: Path) -> None:
        """Bring home what machines have left of the run: words, progress, log, checkpoints' manifests, and the result when it stands."""

    def stop(self, machine: Machine, run_folder: Path) -> None:
        """End it and all that runs on it; returns when it does no more work. Harmless when it has ended."""


def agent_options(order: Order) -> list[str]:
    """What the agent of an order's machine is told beside its run's folder."""
    return [
        "--attempt",
        str(order.attempt),
        "--until",
        order.until.isoformat(),
        "--at-risk-seconds",
        str(order.at_risk_seconds),
        "--price-per-hour",
        str(order.price_per_hour),
    ]
