"""Ingest under fire: tasks and the lakehouse server killed at random moments, until the tables must show it if anything can.

`make bench NAME=chaos_ingest`: 100 kills, about half an hour on two cores; `ARGS="--kills 20 --seed 3"` fewer. Nights with bad rows,
duplicates, late rows and a corrected file are ingested twice: once in peace, once while two of three attempts lose their task process
and the third the server, each by SIGKILL at a random moment. What was half done is run again until it ends. After every kill each table
holds the night as it was or as it will be; at the end both lakehouses hold the same, clocks apart.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from statistics import median

from include.nightshift import ingest, nights, usecase
from include.nightshift import settings as settings_module
from include.nightshift.ingest import landing
from include.nightshift.lakehouse import catalog, log, tables
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.lakehouse.tables import Table
from include.nightshift.operate.environment import environment
from include.nightshift.operate.served import served
from include.nightshift.settings import ROOT, Ports, Settings
from include.nightshift.usecase import Feed
from include.usecases.card_fraud.simulator import simulate
from include.usecases.card_fraud.usecase import USE_CASE
from include.usecases.card_fraud.world import World

FIRST, NIGHTS, ROWS = date(2026, 1, 1), 12, 500
CORRECTED = FIRST + timedelta(days=9)
"""A night whose file is landed again, with other rows, once all have been ingested."""
BEGUN = "begun"
ATTEMPTS = 40


@dataclass(frozen=True)
class Act:
    """One feed's night to ingest; `corrected` after the corrected file has landed."""

    feed: Feed
    night: date
    corrected: bool = False


Rows = dict[tuple[Act, str], int]
"""Rows of an act's night in a table, once it is done."""


@dataclass
class Lake:
    """A lakehouse whose server can be killed and comes back."""

    settings: Settings
    running: ExitStack = field(default_factory=ExitStack)
    server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.running.close()
        self.server = self.running.enter_context(served(self.settings))

    def work(self, act: Act) -> subprocess.Popen[str]:
        """A task process that ingests the act's night, as a scheduler would start it; returns once it is about to."""
        line = [sys.executable, "-m", "bench.chaos_ingest", "--work", act.feed.name, act.night.isoformat()]
        worker = subprocess.Popen(
            line,
            cwd=ROOT,
            env=environment(self.settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert worker.stdout is not None
        worker.stdout.readline()
        return worker


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how often something is killed")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed when")
    parser.add_argument("--work", nargs=2, metavar=("FEED", "NIGHT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return _work(*arguments.work)
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        return _run(folder, arguments.kills, random.Random(arguments.seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _work(feed: str, night: str) -> int:
    """What the task process does."""
    settings = settings_module.load()
    (wanted,) = (known for known in usecase.load(USE_CASE.name, settings).feeds if known.name == feed)
    session = lakehouse.connect(settings)
    print(BEGUN, flush=True)
    ingest.ingest(session, settings, wanted, [nights.parse(night)])
    return 0


def _run(folder: Path, kills: int, dice: random.Random) -> int:
    _drop(folder)
    started = time.monotonic()
    with _lake(folder, "calm") as calm:
        seconds, rows = _in_peace(calm, folder)
        wanted = _contents(calm)
    with _lake(folder, "chaos") as chaos:
        tally = _under_fire(chaos, folder, seconds, rows, kills, dice)
        seen = _contents(chaos)
    different = sorted(name for name in wanted if wanted[name] != seen[name])
    print(f"{tally} in {time.monotonic() - started:.0f} s")
    for name in different:
        print(f"  {name} differs: {seen[name]}, expected {wanted[name]}")
    bad = len(different) + tally.half + max(0, kills - tally.kills)
    print(
        f"chaos_ingest: {bad} (tables that differ or were seen half done after {tally.kills} kills, and kills of {kills} that were not "
        f"made) target 0 {'short' if bad else 'ok'}"
    )
    return 1 if bad else 0


@dataclass
class Tally:
    """What was killed, and how often a table was seen in between."""

    tasks: int = 0
    servers: int = 0
    missed: int = 0
    half: int = 0

    @property
    def kills(self) -> int:
        return self.tasks + self.servers

    def __str__(self) -> str:
        killed = f"{self.tasks} tasks and {self.servers} servers killed ({self.missed} attempts ended before they were)"
        return f"{killed}, {self.half} half-done nights"


def _under_fire(lake: Lake, folder: Path, seconds: dict[Act, float], rows: Rows, kills: int, dice: random.Random) -> Tally:
    """Every act, attacked so often that `kills` come together, then run to its end."""
    tally, acts = Tally(), list(seconds)
    for number, act in enumerate(acts):
        _land(act, folder)
        before = _night(lake, act)
        whole = False
        while not whole and tally.kills < kills * (number + 1) // len(acts):
            whole = not _attack(lake, act, seconds[act], tally, dice)
            for table, found in _night(lake, act).items():
                # As it was, or as the calm run says it will be.
                tally.half += found not in (before[table], rows[act, table])
        _to_the_end(lake, act)
        print(f"  {act.feed.name} {act.night}{' corrected' if act.corrected else ''}: {tally.kills} kills so far", flush=True)
    return tally


def _attack(lake: Lake, act: Act, seconds: float, tally: Tally, dice: random.Random) -> bool:
    """Start the act and kill something at a random moment of it; False where it had ended by itself, and nothing is left to kill."""
    worker = lake.work(act)
    time.sleep(dice.uniform(0, seconds))
    if worker.poll() is not None:
        tally.missed += 1
        return False
    if dice.random() < 2 / 3:
        os.killpg(worker.pid, signal.SIGKILL)
        tally.tasks += 1
    else:
        assert lake.server is not None
        os.kill(lake.server.pid, signal.SIGKILL)
        tally.servers += 1
        # The task must see its server gone before it is back, or not: both happen.
        time.sleep(dice.uniform(0, 1))
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        lake.start()
    worker.wait()
    return True


def _to_the_end(lake: Lake, act: Act) -> None:
    for _ in range(ATTEMPTS):
        if lake.work(act).wait(300) == 0:
            return
    raise SystemExit(f"{act} did not end in {ATTEMPTS} attempts: see {lake.settings.home / 'server.log'}")


def _in_peace(lake: Lake, folder: Path) -> tuple[dict[Act, float], Rows]:
    """Ingest everything undisturbed; returns the acts in order with the seconds each took, and the rows each left in every table."""
    feeds = usecase.load(USE_CASE.name, lake.settings).feeds
    days = [FIRST + timedelta(days=number) for number in range(NIGHTS)]
    acts = [Act(feed, day) for day in days for feed in feeds if feed.drops_on(day)]
    acts.append(Act(feeds[0], CORRECTED, corrected=True))
    seconds: dict[Act, float] = {}
    rows: Rows = {}
    for act in acts:
        _land(act, folder)
        worker, started = lake.work(act), time.monotonic()
        if worker.wait(300) != 0:
            raise SystemExit(f"{act} failed undisturbed: see {lake.settings.home / 'server.log'}")
        seconds[act] = time.monotonic() - started
        rows |= {(act, table): found for table, found in _night(lake, act).items()}
    # The first ones met a cold server, and would be aimed at too late.
    typical = median(seconds.values())
    return {act: min(typical, taken) for act, taken in seconds.items()}, rows


def _land(act: Act, folder: Path) -> None:
    """Put the file in place that the act is about: only one night has two."""
    if act.night == CORRECTED and act.feed.name == USE_CASE.events.name:
        which = "corrected" if act.corrected else "original"
        shutil.copy(folder / which, folder / "landing" / "transactions" / f"{act.night}.csv.gz")


def _night(lake: Lake, act: Act) -> dict[str, int]:
    """Rows of the act's night in each table."""
    slices: dict[str, dict[str, Sequence[object]]] = {"silver.quarantine": {"day": [act.night], "feed": [act.feed.name]}}
    found = (tables.bronze(act.feed), tables.silver(act.feed), tables.QUARANTINE)
    return {
        str(table): sum(log.rows_by_night(lake.settings, table, slices.get(str(table), {"day": [act.night]})).values()) for table in found
    }


def _contents(lake: Lake) -> dict[str, str]:
    """A digest of each table's rows, clocks left out, in no order."""
    per_feed = [table(feed) for feed in USE_CASE.feeds for table in (tables.bronze, tables.silver)]
    return {str(table): _digest(lake.settings, table) for table in (*per_feed, tables.QUARANTINE, tables.BATCHES, tables.CONTRACT_RESULTS)}


def _digest(settings: Settings, table: Table) -> str:
    rows = log.dataset(log.opened(settings, table)).to_table(columns=table.content).to_pylist()
    text = "\n".join(sorted(repr(sorted(row.items())) for row in rows))
    return f"{len(rows)} rows, {hashlib.sha256(text.encode()).hexdigest()[:12]}"


@contextmanager
def _lake(folder: Path, name: str) -> Iterator[Lake]:
    home = folder / name
    settings = Settings(home=home, landing=f"{folder}/landing", clock=False, ports=Ports.free(), lakehouse_memory="2g")
    lake = Lake(replace(settings, feed_spans=landing.spans(settings, USE_CASE.feeds)))
    kept = Settings().home / "jars"
    if kept.exists():
        shutil.copytree(kept, home / "jars")
    with lake.running:
        lake.start()
        session = lakehouse.connect(lake.settings)
        catalog.create(session, lake.settings)
        session.stop()
        yield lake


def _drop(folder: Path) -> None:
    """A landing folder with dirt in it; beside it the two files of one night."""
    simulate(folder / "landing", first=FIRST, nights=NIGHTS, world=World.of_size(ROWS, seed=7))
    dice, before = random.Random(5), list[str]()
    for path in sorted((folder / "landing" / "transactions").glob("*.csv.gz")):
        header, *rows = gzip.decompress(path.read_bytes()).decode().splitlines()
        night = path.name.split(".")[0]
        dirt = [dice.choice(rows), *dice.sample(before, min(3, len(before))), "not,a,row", f"x,{night} 08:00:00,1,2,3.00"]
        dirt += [row.rsplit(",", 1)[0] + ",-1" for row in dice.sample(rows, 3)]
        _write(path, [header, *rows, *dirt])
        if night == CORRECTED.isoformat():
            shutil.copy(path, folder / "original")
            _write(folder / "corrected", [header, *(row.rsplit(",", 1)[0] + ",7.77" for row in rows[:50]), *rows[60:]])
        before = rows


def _write(path: Path, lines: list[str]) -> None:
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode(), mtime=0))


if __name__ == "__main__":
    raise SystemExit(main())
