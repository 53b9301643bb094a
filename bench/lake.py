"""What the lakehouse costs: writes beside the same Parquet, a night's ingest, and whether it grows with history.

`make bench NAME=lake`: everything, about a quarter of an hour on two cores. `ARGS="writes"`, `"ingest"` or `"history"` measures one part,
`ARGS="history --nights 120"` a shorter history. A home and a server of its own.

| figure | target |
|---|---|
| writing 1,000,000 rows to Delta, beside the same Parquet by the same Spark | 2 x |
| replacing a night of 1,000,000 rows by as many others, beside the same Parquet | 2.5 x |
| writing 10,000 rows | 1 s |
| ingest of both feeds of a night with all checks, warm: 10,000 rows and 1,000,000 rows | 8 s, 30 s |
| a night's ingest after a year of nights, beside one after a month | 1.2 x |
| files by night of each table after `maintain` | 2 |
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from statistics import median

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from bench import Figure, report
from include.nightshift import ingest, usecase
from include.nightshift.ingest import landing
from include.nightshift.lakehouse import catalog, log, maintenance, storage, tables, writes
from include.nightshift.lakehouse.files import Folder
from include.nightshift.lakehouse.tables import Table, TableColumn
from include.nightshift.operate.served import connected
from include.nightshift.settings import Ports, Settings
from include.usecases.card_fraud.simulator import simulate
from include.usecases.card_fraud.usecase import USE_CASE
from include.usecases.card_fraud.world import World

FIRST = date(2026, 1, 1)
ROUNDS = 5
MILLION, SMALL = 1_000_000, 10_000
HISTORY_ROWS = 2_000
"""Rows of a night in the long history: what grows with it is the number of nights."""

TYPES = {"day": "date", "id": "bigint", "at": "timestamp", "who": "bigint", "place": "bigint", "amount": "decimal(12,2)"}
COLUMNS = tuple(TableColumn(name, type_, "Made up.") for name, type_ in TYPES.items())
SALES = Table(schema="bronze", name="sales", comment="Made up. One row per sale.", columns=COLUMNS)
PARQUET, NEW, OTHERS, SAME = "Parquet", "Delta, new night", "Delta, night replaced by other rows", "Delta, night replaced by the same rows"
NEXT = "Delta, new night right after a commit"
"""Delta reads its log anew after each commit, when it is next asked; before NEW somebody has asked."""
PLAIN = "Delta's own replaceWhere, nothing compared"
"""What a replacement costs at least: it begins right after a commit too."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["writes", "ingest", "history", []], default=[], help="what to measure")
    parser.add_argument("--nights", type=int, default=365, help="nights of the long history")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    settings = Settings(home=home, clock=False, ports=Ports.free(), lakehouse_memory="4g")
    parts: dict[str, Callable[[SparkSession, Settings], list[Figure]]] = {
        "writes": measure_writes,
        "ingest": measure_ingest,
        "history": lambda session, settings: measure_history(session, settings, arguments.nights),
    }
    figures: list[Figure] = []
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    try:
        with connected(settings) as session:
            catalog.create(session, settings)
            for name, measure in parts.items():
                if not arguments.parts or name in arguments.parts:
                    print(f"\n{name}", flush=True)
                    figures += measure(session, settings)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return report("lake", figures)


def measure_writes(session: SparkSession, settings: Settings) -> list[Figure]:
    """Delta through `writes.replace` and Parquet, in turns, from the same cached rows."""
    session.sql(SALES.ddl())
    timed: dict[tuple[int, str], list[float]] = {}
    for rows in (SMALL, MILLION):
        for round_ in range(ROUNDS + 1):
            night = FIRST + timedelta(days=round_ + (100 if rows == MILLION else 0))
            seconds = _round(session, settings, rows, night)
            for way, took in seconds.items() if round_ else ():  # the first round warms up
                timed.setdefault((rows, way), []).append(took)
    for (rows, way), taken in timed.items():
        print(f"  {rows:>9,} rows  {way:40} median {median(taken):5.2f} s   {_listed(taken)}")
    typical = {which: median(taken) for which, taken in timed.items()}
    plain = typical[MILLION, PARQUET]
    return [
        Figure("writing 1,000,000 rows to Delta, beside Parquet", typical[MILLION, NEW] / plain, 2.0, "x"),
        Figure("replacing a night of 1,000,000 rows, beside Parquet", typical[MILLION, OTHERS] / plain, 2.5, "x"),
        Figure("writing 10,000 rows to Delta", typical[SMALL, NEW], 1.0, "s"),
    ]


def _round(session: SparkSession, settings: Settings, rows: int, night: date) -> dict[str, float]:
    """Seconds of each way to write the rows, once."""
    held = [_sales(session, rows, night, salt).persist() for salt in (0, 1)]
    for frame in held:
        frame.count()
    next_ = night + timedelta(days=50)
    other_night = held[0].withColumn("day", F.lit(next_))
    ways: dict[str, Callable[[], object]] = {
        PARQUET: lambda: held[0].write.mode("overwrite").parquet(f"{settings.home}/parquet-{rows}"),
        NEW: lambda: _replace(session, settings, held[0], night, rows),
        OTHERS: lambda: _replace(session, settings, held[1], night, rows),
        PLAIN: lambda: _replace_where(settings, held[0], night),
        NEXT: lambda: _replace(session, settings, other_night, next_, rows),
        SAME: lambda: _replace(session, settings, held[0], night, rows),
    }
    seconds = {}
    for way, act in ways.items():
        started = time.monotonic()
        act()
        seconds[way] = time.monotonic() - started
    for frame in held:
        frame.unpersist()
    return seconds


def _sales(session: SparkSession, rows: int, night: date, salt: int) -> DataFrame:
    amount = f"cast(pmod(xxhash64(id, {salt}), 100000) / 100 as decimal(12,2)) as amount"
    at = "timestamp'2026-01-01 00:00:00' + make_interval(0, 0, 0, 0, 0, 0, pmod(id, 86400)) as at"
    who, place = "pmod(xxhash64(id), 5000) as who", "pmod(xxhash64(id, 7), 10000) as place"
    return session.range(rows).selectExpr(f"date'{night}' as day", "id", at, who, place, amount)


def _replace(session: SparkSession, settings: Settings, frame: DataFrame, night: date, rows: int) -> None:
    writes.replace(session, settings, SALES, frame, {"day": [night]}, rows_expected=rows)


def measure_ingest(session: SparkSession, settings: Settings) -> list[Figure]:
    """Both feeds of a night side by side, as the scheduler runs them, after a week of such nights."""
    figures = []
    for rows, target in ((SMALL, 8.0), (MILLION, 30.0)):
        first = FIRST if rows == SMALL else FIRST + timedelta(days=365)
        # A verdict follows each transaction, a week later. A server that has run for a week is warm; large nights take one more.
        warm, timed = 8, 3
        place = _dropped(settings, f"landing-{rows}", first, warm + timed, World.of_size(rows // 2, seed=7))
        feeds = usecase.load(USE_CASE.name, place).feeds
        seconds = []
        for number in range(0 if rows == SMALL else 7, warm + timed):
            started = time.monotonic()
            landed = _night(session, place, feeds, first + timedelta(days=number))
            if number >= warm:
                seconds.append(time.monotonic() - started)
        print(f"  {landed:,} rows: {_listed(seconds)}", flush=True)
        figures.append(Figure(f"ingest of a night of {rows:,} rows, both feeds", median(seconds), target, "s"))
    return figures


def measure_history(session: SparkSession, settings: Settings, nights: int) -> list[Figure]:
    """The same nights' cost after a month and at the end of the history; then what `maintain` leaves."""
    first = FIRST + timedelta(days=3650)
    place = _dropped(settings, "landing-history", first, nights + 10, World.of_size(HISTORY_ROWS, seed=7))
    feeds = usecase.load(USE_CASE.name, place).feeds
    early = _timed_nights(session, place, feeds, first, 30)
    rest = [first + timedelta(days=number) for number in range(36, nights)]
    for feed in feeds:
        ingest.ingest(session, place, feed, rest)
    late = _timed_nights(session, place, feeds, first, nights)
    print(f"  after 30 nights  {_listed(early)}\n  after {nights} nights {_listed(late)}")
    maintenance.maintain(session, place, USE_CASE, keep_days=0, in_flight=timedelta(0))
    most = 0.0
    for table in (*(table(feed) for feed in feeds for table in (tables.bronze, tables.silver)), tables.BATCHES, tables.CONTRACT_RESULTS):
        held = len(Folder(place, table).data())
        by_night = held / max(1, len(log.rows_by_night(place, table)))
        most = max(most, by_night)
        print(f"  {table}: {held} files, {by_night:.2f} a night")
    return [
        Figure(f"a night's ingest after {nights} nights, beside one after 30", median(late) / median(early), 1.2, "x"),
        Figure("files by night of the fullest table after maintain", most, 2.0, ""),
    ]


def _timed_nights(session: SparkSession, settings: Settings, feeds: Iterable[ingest.Feed], first: date, after: int) -> list[float]:
    """Bring the history up to that night, then time the five after it; the first of them warms up."""
    feeds = list(feeds)
    for feed in feeds:
        ingest.ingest(session, settings, feed, [first + timedelta(days=number) for number in range(after)])
    seconds = []
    for number in range(after, after + 6):
        started = time.monotonic()
        _night(session, settings, feeds, first + timedelta(days=number))
        seconds.append(time.monotonic() - started)
    return seconds[1:]


def _replace_where(settings: Settings, frame: DataFrame, night: date) -> None:
    options = {"replaceWhere": f"day = date'{night}'"}
    frame.coalesce(2).write.format("delta").mode("overwrite").options(**options).save(storage.location(settings, SALES))


def _dropped(settings: Settings, name: str, first: date, nights: int, world: World) -> Settings:
    """The settings of a landing folder with simulated nights in it."""
    place = replace(settings, landing=f"{settings.home}/{name}")
    simulate(place.landing_folder, first=first, nights=nights, world=world)
    return replace(place, feed_spans=landing.spans(place, USE_CASE.feeds))


def _night(session: SparkSession, settings: Settings, feeds: Iterable[ingest.Feed], night: date) -> int:
    with ThreadPoolExecutor(2) as both:
        done = list(both.map(lambda feed: ingest.ingest(session, settings, feed, [night]), feeds))
    return sum(sum(brought.landed.values()) for brought in done)


def _listed(seconds: Iterable[float]) -> str:
    return " ".join(f"{second:.2f}" for second in seconds)


if __name__ == "__main__":
    raise SystemExit(main())
