"""A warm night by stage, from trigger to published list, and how much of it is Airflow's own.

`make bench NAME=night ARGS="--nights 3"`: a home of its own with 45 nights of history and a first champion, then live
nights of 10,000 transactions through the real scheduler; the first is the warm-up. Target: 60 seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import median

from include.nightshift.ingest import landing
from include.nightshift.operate import processes
from include.nightshift.operate.rest import Airflow
from include.nightshift.operate.walk import NIGHTLY, Walk
from include.nightshift.settings import Ports, Settings
from include.usecases.card_fraud.simulator import simulate
from include.usecases.card_fraud.usecase import USE_CASE
from include.usecases.card_fraud.world import World

FIRST, HISTORY, TARGET = date(2026, 1, 1), 45, 60.0
STAGES = NIGHTLY[:3]
"""Up to the list; the watch comes after it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=3, help="nights counted, after one warm-up")
    nights = parser.parse_args().nights
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    world = World.of_size(10_000, seed=7)
    simulate(home / "landing", first=FIRST, nights=HISTORY + nights + 1, world=world)
    spans = landing.spans(Settings(home=home), USE_CASE.feeds)
    settings = Settings(home=home, clock=False, ports=Ports.free(), feed_spans=spans)
    os.environ.update(processes.environment(settings))
    try:
        processes.up(settings)
        return _report(_run(Walk(settings, USE_CASE), nights))
    finally:
        processes.down(settings)
        shutil.rmtree(home, ignore_errors=True)


def _run(walk: Walk, nights: int) -> list[dict[str, float]]:
    last = FIRST + timedelta(days=HISTORY - 1)
    walk.backfill(FIRST, last)
    walk.approve(walk.train(last))
    timed = []
    for number in range(1, nights + 2):
        started = time.time()
        ran = walk.night(last + timedelta(days=number))
        work = {name: span for stem in STAGES for name, span in _work(walk.airflow, walk.dag(stem), ran.runs[stem]).items()}
        # When the list was out, by Airflow's own clock; the watch goes on.
        total = max(end for _, end in work.values()) - started
        # The next night begins when this one is quiet.
        walk.finish(ran)
        busy = _covered(list(work.values()))
        timed.append({name: end - begin for name, (begin, end) in work.items()} | {"airflow": total - busy, "total": total})
    return timed[1:]


def _work(airflow: Airflow, dag_id: str, run_id: str) -> dict[str, tuple[float, float]]:
    """When each task's process ran."""
    tasks = airflow.tasks(dag_id, run_id)
    return {name: (_seconds(task["start_date"]), _seconds(task["end_date"])) for name, task in tasks.items()}


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in which at least one task ran."""
    covered, reached = 0.0, 0.0
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _report(timed: list[dict[str, float]]) -> int:
    print(f"\n{'seconds':14}" + "".join(f"{f'night {n}':>10}" for n in range(1, len(timed) + 1)) + f"{'median':>10}")
    for name in timed[0]:
        values = [night[name] for night in timed]
        print(f"{name:14}" + "".join(f"{value:10.1f}" for value in values) + f"{median(values):10.1f}")
    total = median(night["total"] for night in timed)
    overhead = median(night["airflow"] for night in timed)
    print(f"Airflow's own share (no task running): {overhead / total:.0%}; the tasks' times include starting them")
    print(f"night: {total:.1f} target {TARGET:g} {'ok' if total <= TARGET else 'short'}")
    return 0 if total <= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
