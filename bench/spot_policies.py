"""What a run costs when spot machines come and go as they did, by policy, beside the best that could have been done.

    python -m bench.spot_policies --traces DIR

Replays a folder of traces of `skypilot-org/spot-traces` (JSON, gzipped or not: `metadata.gap_seconds`, and `data`, machines to be had at
each tick). Zones of one date, GPU type and node count share a clock and are one group, in which any zone may be used. As the targets have
it: a run starts every six hours; spot costs 0.30 of on-demand; a machine takes 10 minutes, rounded up to ticks and paid for, until it
works; one machine does the work; costs are shares of what the bare work costs on demand.

The best is the exact optimum of one who knows the whole trace (dynamic programming over time, work left and what runs). *Greedy* waits
for spot as long as time allows, then stays on demand. *Uniform progress* (Wu et al., NSDI 2024) waits while it is ahead of the straight
line to the deadline, and leaves on-demand when it is ahead again. Ours remembers what earlier runs of its group met before it starts, as
a platform does that keeps a ledger, and nothing of what they met later.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bench import Figure, report
from include.nightshift.settings import ROOT
from include.nightshift.spot.policy import ON_DEMAND, Market, Planner, Wish

TRACES = ROOT.parent / "shared" / "data" / "spot_traces"
JOBS = ((4, 6), (8, 12), (48, 60))
"""Hours of work, hours to the deadline."""
JUDGED = JOBS[:2]
START_EVERY_SECONDS, CHANGEOVER_SECONDS, SPOT_PRICE = 6 * 3600, 600, 0.30
TARGET_MANY, TARGET_FEW, MANY_ZONES = 1.10, 1.18, 3
"""Times the optimum that ours may cost, with so many zones and with fewer."""


@dataclass(frozen=True)
class Group:
    """Zones on one clock."""

    name: str
    gap_seconds: int
    zones: tuple[str, ...]
    offered: np.ndarray
    """(zones, ticks), whether a machine was to be had."""

    def starts(self, ticks: int) -> list[int]:
        """Ticks at which a run of so many begins: every six hours, as long as the trace covers all of it."""
        return [round(at) for at in np.arange(0, self.offered.shape[1] - ticks + 1, START_EVERY_SECONDS / self.gap_seconds)]


@dataclass(frozen=True)
class Job:
    """One run, in ticks."""

    ticks: int
    """To the deadline."""
    work: int
    changeover: int

    @classmethod
    def of(cls, hours: tuple[int, int], gap_seconds: int) -> Job:
        work, deadline = hours
        return cls(int(deadline * 3600 // gap_seconds), math.ceil(work * 3600 / gap_seconds), math.ceil(CHANGEOVER_SECONDS / gap_seconds))


@dataclass(frozen=True)
class State:
    """What a policy is told at a tick."""

    left: int
    """Ticks to the deadline."""
    work: int
    """Ticks of work to do."""
    running: str | None
    starting: int
    """Ticks until what runs works."""


class Policy(Protocol):
    def wish(self, state: State) -> Wish: ...

    def asked(self, refused: Sequence[str], given: str | None) -> None:
        """What came of the wish."""

    def ran(self, zone: str) -> None: ...

    def lost(self, zone: str) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=TRACES, help="a folder; folders in it are looked through")
    folder = parser.parse_args(arguments).traces
    if not folder.is_dir():
        print(f"spot_policies: {folder} is missing: name a folder of traces with --traces")
        return 0 if folder == TRACES else 2
    groups = read(folder)
    if not groups:
        print(f"spot_policies: no *.json or *.json.gz below {folder}", file=sys.stderr)
        return 2
    print(f"{'group':34}{'zones':>6}{'job':>9}{'runs':>6}{'optimum':>9}" + "".join(f"{name:>18}" for name in POLICIES) + "   late")
    figures, late = [], 0
    for group in groups:
        for hours in JOBS:
            job = Job.of(hours, group.gap_seconds)
            starts = group.starts(job.ticks)
            if not starts:
                print(f"{group.name:34}{len(group.zones):6}{_job(hours):>9}   the trace is shorter than the job")
                continue
            best = _optimum(group, job, starts)
            costs = {name: _cost(group, job, starts, run) for name, run in POLICIES.items()}
            late += (lates := sum(late for _, late in costs.values()))
            line = "".join(f"{cost:9.3f} = {cost / best:5.3f}x" for cost, _ in costs.values())
            print(f"{group.name:34}{len(group.zones):6}{_job(hours):>9}{len(starts):6}{best:9.3f}{line}{lates:7}", flush=True)
            if hours in JUDGED:
                target = TARGET_MANY if len(group.zones) >= MANY_ZONES else TARGET_FEW
                figures.append(Figure(f"{group.name}, {_job(hours)}, times the optimum", costs["ours"][0] / best, target, ""))
    return report("spot_policies", [*figures, Figure("late runs", late, 0, "")])


def read(folder: Path) -> list[Group]:
    """The groups of a folder of traces, by name.

    Raises:
        SystemExit: a file is no trace.
    """
    found: dict[tuple[str, int], dict[str, np.ndarray]] = defaultdict(dict)
    for path in sorted(folder.rglob("*.json*")):
        if path.suffix not in (".json", ".gz"):
            continue
        try:
            raw = json.loads((gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes()))
            gap, offered = int(raw["metadata"]["gap_seconds"]), np.asarray(raw["data"], dtype="int64") >= 1
            assert gap > 0
            assert offered.ndim == 1
        except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
            raise SystemExit(
                f"spot_policies: {path} is no trace with metadata.gap_seconds and data, a number a tick ({error!r})"
            ) from error
        group, zone = _named(path.relative_to(folder))
        found[group, gap][zone] = offered
    groups = []
    for (name, gap), zones in found.items():
        ticks = min(map(len, zones.values()))
        groups.append(Group(name, gap, tuple(zones), np.stack([offered[:ticks] for offered in zones.values()])))
    return groups


def _named(path: Path) -> tuple[str, str]:
    """Group and zone of a trace: `availability/1-node/aws-02-15-2023/us-east-1a_v100_1.json`, or the same joined by `__`."""
    *folders, name = str(path).split(".json")[0].replace("/", "__").split("__")
    zone, _, machine = name.partition("_")
    return " ".join([*folders[-2:], machine]) if folders else name, zone


def _job(hours: tuple[int, int]) -> str:
    return f"{hours[0]}h/{hours[1]}h"


def _cost(group: Group, job: Job, starts: Sequence[int], policy: Policies) -> tuple[float, int]:
    """Mean cost as a share of the bare work on demand, and runs that came late."""
    costs, late = 0.0, 0
    for start, decides in zip(starts, policy(group, job, starts), strict=True):
        cost, done = replay(group.offered[:, start : start + job.ticks], group.zones, job, decides)
        costs += cost
        late += not done
    return costs / job.work / len(starts), late


def replay(offered: np.ndarray, zones: Sequence[str], job: Job, policy: Policy) -> tuple[float, bool]:
    """What one run costs, in ticks on demand, and whether it came in time."""
    running, starting, work, cost = None, 0, job.work, 0.0
    for tick in range(job.ticks):
        to_be_had = {zone for zone, offer in zip(zones, offered[:, tick], strict=True) if offer}
        if running not in (None, ON_DEMAND, *to_be_had):
            policy.lost(str(running))
            running = None
        wish = policy.wish(State(job.ticks - tick, work, running, starting if running else 0))
        given = next((zone for zone in wish.places if zone in to_be_had), None)
        if wish.places:
            policy.asked(wish.places[: wish.places.index(given)] if given else wish.places, given)
        moved = given or {"keep": running, "wait": None, "on_demand": ON_DEMAND}[wish.otherwise]
        if moved and moved != running:
            starting = job.changeover
        running = moved
        if running is None:
            continue
        if running != ON_DEMAND:
            policy.ran(running)
        cost += 1.0 if running == ON_DEMAND else SPOT_PRICE
        if starting:
            starting -= 1
        else:
            work -= 1
        if not work:
            return cost, True
    return cost, False


def _optimum(group: Group, job: Job, starts: Sequence[int]) -> float:
    return float(np.mean([clairvoyant(group.offered[:, start : start + job.ticks], job) for start in starts])) / job.work


def clairvoyant(offered: np.ndarray, job: Job) -> float:
    """The least cost, in ticks on demand, of a run that knows every offer ahead: backward induction, exact."""
    zones, ticks = offered.shape
    prices = [1.0] + [SPOT_PRICE] * zones
    there = np.vstack([np.ones((1, ticks), dtype=bool), offered])
    # Whether a machine that is started at a tick lives through its changeover.
    lasts = np.array(
        [[ticks >= t + job.changeover and there[m, t : t + job.changeover].all() for t in range(ticks)] for m in range(zones + 1)]
    )
    # By tick, what runs (on-demand, then each zone) and work left; `idle` where nothing runs.
    runs = np.full((ticks + 1, zones + 1, job.work + 1), np.inf)
    idle = np.full((ticks + 1, job.work + 1), np.inf)
    runs[:, :, 0] = idle[:, 0] = 0
    for tick in range(ticks - 1, -1, -1):
        best = idle[tick + 1].copy()
        for machine in np.flatnonzero(lasts[:, tick]):
            np.minimum(best, job.changeover * prices[machine] + runs[tick + job.changeover, machine], out=best)
        idle[tick, 1:] = best[1:]
        runs[tick, :, 1:] = best[1:]
        for machine in np.flatnonzero(there[:, tick]):
            np.minimum(runs[tick, machine, 1:], prices[machine] + runs[tick + 1, machine, :-1], out=runs[tick, machine, 1:])
    return float(idle[0, job.work])


class _Rule:
    """A policy that learns nothing: it asks all zones in their order."""

    def __init__(self, group: Group, job: Job) -> None:
        self.zones, self.job = group.zones, job

    def asked(self, refused: Sequence[str], given: str | None) -> None: ...

    def ran(self, zone: str) -> None: ...

    def lost(self, zone: str) -> None: ...

    def _must(self, state: State) -> bool:
        """Whether a fresh on-demand machine is needed now for the rest."""
        return state.left <= state.work + self.job.changeover

    def _may(self, state: State) -> bool:
        """Whether a spot machine could still start, be lost, and leave time for on-demand."""
        return state.left >= state.work + 2 * self.job.changeover

    def _on_spot(self, state: State) -> Wish:
        return Wish((), "on_demand" if state.starting and self._must(state) else "keep")


class OnDemand(_Rule):
    def wish(self, state: State) -> Wish:
        return Wish((), "on_demand")


class Greedy(_Rule):
    def wish(self, state: State) -> Wish:
        if state.running == ON_DEMAND:
            return Wish((), "keep")
        if state.running:
            return self._on_spot(state)
        if self._must(state):
            return Wish((), "on_demand")
        return Wish(self.zones if self._may(state) else (), "wait")


class UniformProgress(_Rule):
    def wish(self, state: State) -> Wish:
        if state.running not in (None, ON_DEMAND):
            return self._on_spot(state)
        if state.running is None and self._must(state):
            return Wish((), "on_demand")
        done, passed = self.job.work - state.work, self.job.ticks - state.left
        ask = self.zones if self._may(state) else ()
        if state.running is None:
            return Wish(ask, "wait" if self._ahead(done, passed) else "on_demand")
        if state.starting or not self._ahead(done, passed):
            return Wish((), "keep")
        # On demand and ahead: by how much, so that it does not fall behind while another machine starts.
        return Wish(ask, "wait" if self._ahead(done, passed + 2 * self.job.changeover) else "keep")

    def _ahead(self, done: int, passed: int) -> bool:
        return done * self.job.ticks >= passed * self.job.work


class Ours:
    """The product's planner, which tells a ledger what it meets and when."""

    def __init__(self, planner: Planner, start: int, met: Ledger) -> None:
        self._planner, self._now, self._met = planner, start - 1, met

    def wish(self, state: State) -> Wish:
        self._now += 1
        tick = self._planner.tick_hours
        return self._planner.wish(state.left * tick, state.work * tick, state.running, state.starting * tick)

    def asked(self, refused: Sequence[str], given: str | None) -> None:
        hours = self._planner.tick_hours
        self._tell(lambda market: market.asked(refused, given, hours))

    def ran(self, zone: str) -> None:
        hours = self._planner.tick_hours
        self._tell(lambda market: market.ran(zone, hours))

    def lost(self, zone: str) -> None:
        # Seen before the tick's wish.
        self._tell(lambda market: market.lost(zone), self._now + 1)

    def _tell(self, what: Callable[[Market], None], when: int | None = None) -> None:
        what(self._planner.market)
        self._met.append((self._now if when is None else when, what))


Ledger = list[tuple[int, Callable[[Market], None]]]
Policies = Callable[[Group, Job, Sequence[int]], Iterator[Policy]]


def _ours(group: Group, job: Job, starts: Sequence[int]) -> Iterator[Policy]:
    known, met = Market(dict.fromkeys(group.zones, SPOT_PRICE)), Ledger()
    tick = group.gap_seconds / 3600
    for start in starts:
        met.sort(key=lambda event: event[0])
        later = next((place for place, (when, _) in enumerate(met) if when >= start), len(met))
        for _, what in met[:later]:
            what(known)
        del met[:later]
        yield Ours(
            Planner(
                market=copy.deepcopy(known),
                hours=job.ticks * tick,
                work_hours=job.work * tick,
                changeover_hours=job.changeover * tick,
                tick_hours=tick,
            ),
            start,
            met,
        )


def _by_rule(rule: type[OnDemand | Greedy | UniformProgress]) -> Policies:
    def policies(group: Group, job: Job, starts: Sequence[int]) -> Iterator[Policy]:
        return (rule(group, job) for _ in starts)

    return policies


POLICIES: dict[str, Policies] = {
    "ours": _ours,
    "greedy": _by_rule(Greedy),
    "uniform progress": _by_rule(UniformProgress),
    "on demand": _by_rule(OnDemand),
}


if __name__ == "__main__":
    raise SystemExit(main())
