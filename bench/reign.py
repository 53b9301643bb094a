"""Whether the champion history tells the truth whenever the process that promotes or rolls back is killed.

`make bench NAME=reign`. A process judges, answers, promotes and rolls back, one after the other, and is killed by SIGKILL: every second
time at a random moment, else at a step that it was told (`PLACES`), right there in its own code. After each kill everything is looked at
that a night looks at: one open reign, no gap, no overlap, a chain that holds, evidence for each row, a model that scores without a mark,
and an alias that follows. Then the next process takes the killed one's work up where it lies.

Then the same with a planted defect, a history that closes the old reign in one commit and opens the new one in the next: the same look
must find it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from bench import Figure, report
from bench.courts import DAY, START, Court
from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import chain, log, tables
from include.nightshift.promote import acts, history, registry, trust
from include.nightshift.promote.proof import Papers
from include.nightshift.settings import ROOT

PLACES = ("before the answer", "after the answer", "after the history", "after the alias", "after the act", "after the rollback")
"""Where a process kills itself: in the middle of promoting, and of rolling back."""
AT_RANDOM, BETWEEN_COMMITS = "at a random moment", "between two commits"
ROLLED_BACK_EVERY = 3
"""Promotions per rollback."""
PATIENCE = 120.0
"""Seconds that a process may take."""


@dataclass
class Tally:
    """What was done, and what was found."""

    kills: int = 0
    where: Counter[str] = field(default_factory=Counter)
    reigns: int = 0
    faults: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=120, help="SIGKILLs, at least")
    parser.add_argument("--seed", type=int, default=1, help="of when the processes are killed")
    parser.add_argument("--live", nargs=2, metavar=("HOME", "PLACE"), help="be the process that is killed")
    asked = parser.parse_args(arguments)
    if asked.live:
        live(Path(asked.live[0]), asked.live[1])
        return 0
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, seed {asked.seed}", flush=True)
    dice = random.Random(asked.seed)
    sound = _court([AT_RANDOM if kill % 2 else PLACES[kill // 2 % len(PLACES)] for kill in range(asked.kills)], dice)
    planted = _court([BETWEEN_COMMITS], dice)
    for what, tally in (("as it is", sound), ("planted defect", planted)):
        print(f"{what:16} {tally.kills:4} kills, {tally.reigns:4} reigns begun, {len(tally.faults)} faults", flush=True)
        print("\n".join(f"{'':16} {where}: {count}" for where, count in sorted(tally.where.items())))
        for fault in tally.faults[:5]:
            print(f"{'':16} {fault}")
    return report(
        "reign",
        [
            Figure("kills of a process that promotes and rolls back", sound.kills, asked.kills, "", at_least=True),
            Figure("faults after them", len(sound.faults), 0, ""),
            Figure("planted defects that the same look found", float(bool(planted.faults)), 1, "", at_least=True),
        ],
    )


def _court(places: Sequence[str], dice: random.Random) -> Tally:
    home, tally = Path(tempfile.mkdtemp(prefix="bench-")), Tally()
    try:
        under_fire(Court(home).open(), tally, places, dice)
    finally:
        shutil.rmtree(home)
    return tally


def under_fire(court: Court, tally: Tally, places: Sequence[str], dice: random.Random | None = None) -> None:
    """Let one process after the other live in the court's home until it is killed at its place, and look at what each leaves."""
    dice = dice or random.Random(1)
    for place in places:
        line = [sys.executable, "-m", "bench.reign", "--live", str(court.home), place]
        process = subprocess.Popen(line, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # its libraries are there, and it begins
        if place == AT_RANDOM:
            time.sleep(dice.random())
            process.kill()
        killed = process.wait(PATIENCE) == -signal.SIGKILL
        process.stdout.close()
        tally.kills += killed
        tally.where[place] += killed
        tally.faults += [f"{place}: {fault}" for fault in faults(court)]
    tally.reigns = len(history.reigns(court.settings, court.use_case))


def live(home: Path, place: str) -> None:
    """Promote and roll back until killed; first, what an earlier process began."""
    court = Court(home)
    court.presides()
    _prepare(place)
    print("begun", flush=True)
    settings, use_case = court.settings, court.use_case
    while True:
        papers = Papers.read(settings, use_case)
        done = {row["report_digest"] for row in papers.history}
        digest = next((row["report_digest"] for row in papers.reports if row["report_digest"] not in done), None)
        version = len(papers.reports)
        if digest is None and version and version % ROLLED_BACK_EVERY == 0:
            history.rollback(settings, use_case, None, "ann", "for the bench", act_id=f"rollback {version}")
        if digest is None:
            reigning = history.champions(settings, use_case, [date.max]).get(date.max)
            digest = court.judged(str(version + 1), reigning)
        if not any(answer["report_digest"] == digest for answer in papers.answers):
            _step("before the answer", place)
            court.answered(digest)
            _step("after the answer", place)
        history.crown(settings, use_case, digest, why="gates passed")
        published = log.extent(settings, tables.alerts(use_case))
        court.published(published[1] + DAY if published else START)


def faults(court: Court) -> list[str]:
    """What a look at the court finds that should not be."""
    settings, use_case = court.settings, court.use_case
    found = [str(fault) for fault in chain.verify(settings)]
    try:
        papers = Papers.read(settings, use_case)
        for row in papers.history:
            found += papers.against_reign(row)
        reigning = [row["model_version"] for row in papers.history if row["until_night"] is None]
        if len(reigning) != bool(papers.history):
            found.append(f"{len(reigning)} reigns are open")
        here, registry.client = registry.client, lambda settings: court.alias
        try:
            history.reconcile(settings, use_case)
        finally:
            registry.client = here
        if reigning != [court.alias.champion][: len(reigning)]:
            found.append(f"the alias is at {court.alias.champion}, not at {reigning}")
        published = log.extent(settings, tables.alerts(use_case))
        tonight = trust.reigning(settings, use_case, published[1] + DAY if published else START)
        if papers.history and (tonight is None or tonight.mark):
            found.append(f"tonight is scored by {tonight}")
    except RegistryError as error:
        found.append(str(error))
    return found


def _prepare(place: str) -> None:
    """Have the process kill itself at the place, the second time that it comes there: the first champion is no change of champion."""
    places: dict[str, tuple[Any, str, bool]] = {
        "after the history": (history, "_follow", True),
        "after the alias": (history, "_follow", False),
        "after the act": (acts, "record", False),
    }
    if place in places:
        _mined(*places[place], place)
    if place == "after the rollback":
        amend = history._amend

        def rolled(settings: Any, use_case: Any, change: Callable[[list[Any]], list[Any]]) -> list[Any]:
            rows = amend(settings, use_case, change)
            if rows[-1]["act"] == "rollback":
                _die()
            return rows

        history._amend = rolled
    if place == BETWEEN_COMMITS:
        whole = chain.amend

        def torn(settings: Any, table: tables.Table, change: Callable[[list[Any]], list[Any]]) -> Any:
            """A history that takes two commits: the old reign is closed in the first."""
            if table is tables.CHAMPION_HISTORY:
                whole(settings, table, lambda rows: [row for row in change(rows) if row.get("seal")])
                _step(BETWEEN_COMMITS, place)
            return whole(settings, table, change)

        chain.amend = torn


def _mined(module: Any, name: str, before: bool, place: str) -> None:
    """Have a function's call end the process, before or after it does its work."""
    works = getattr(module, name)

    def mined(*told: Any, **named: Any) -> Any:
        if before:
            _step(place, place)
        done = works(*told, **named)
        if not before:
            _step(place, place)
        return done

    setattr(module, name, mined)


_passed: Counter[str] = Counter()


def _step(here: str, place: str) -> None:
    _passed[here] += 1
    if here == place and (_passed[here] > 1 or place == "after the act"):
        _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
