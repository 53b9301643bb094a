"""What features cost: beside the same definitions in DuckDB and in plain Spark SQL, with history, and in memory.

`make bench NAME=features`: everything. `ARGS="windows"`, `"quantiles"`, `"nights"` or `"memory"` measures one part. A home and a server of
its own, and simulated days (`include/usecases/card_fraud/world.py`).

| figure | target |
|---|---|
| sums and counts of 183 days, beside the same definitions by hand in DuckDB | 2 x |
| plain `RANGE` windows in Spark SQL, beside ours | 4 x at least |
| medians of 183 days, beside DuckDB | 4 x |
| a night's build after 365 nights of history, beside one after 30 | 1.2 x |
| heap of the server while features and training set of 10 million rows are made | 4 GiB |

All engines read the same Parquet and write files, one after the other, in turns: Spark those of a build's steps (ORC), ours and others
alike, DuckDB Parquet. What they bring is compared row for row before any time counts. One row in five hundred comes late, so that both
clocks matter. For quantiles DuckDB has no way to leave out of a frame what a row's own night did not know, so there the late rows are
left out for both.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import duckdb
import numpy as np
import psutil
import pyarrow as pa
from pyarrow import parquet
from pyspark.sql import SparkSession

from bench import Figure, report, tell
from include.nightshift import nights as nights_module
from include.nightshift.features import build, project, training_set
from include.nightshift.lakehouse import catalog, log, tables
from include.nightshift.operate.served import connected
from include.nightshift.settings import Ports, Settings
from include.usecases.card_fraud.usecase import USE_CASE
from include.usecases.card_fraud.windows import DELAY, WINDOWS
from include.usecases.card_fraud.world import Simulator, World

FIRST = date(2026, 1, 1)
DAYS, A_DAY = 183, 9_700
NAMES = ("transactions", "fraud_labels")
ROUNDS = 5
DAY = 86_400_000_000
INSTANT = pa.timestamp("us", tz="UTC")
LATE = 500
"""One row in so many comes later than its day."""
HEAP = "4g"


@dataclass(frozen=True)
class Bench:
    session: SparkSession
    settings: Settings
    gc_log: Path

    @property
    def home(self) -> Path:
        return self.settings.home


def main() -> int:
    parts: dict[str, Callable[[Bench], list[Figure]]] = {
        "windows": measure_windows,
        "quantiles": measure_quantiles,
        "nights": measure_nights,
        "memory": measure_memory,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=[], help="what to measure")
    asked = parser.parse_args().parts or list(parts)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, DuckDB {duckdb.__version__}")
    figures: list[Figure] = []
    for name in asked:
        # A server for each part: what one leaves in the heap is not the next one's.
        with serving() as bench:
            print(f"\n{name}", flush=True)
            figures += parts[name](bench)
    return report("features", figures)


@contextmanager
def serving() -> Iterator[Bench]:
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    settings = Settings(home=home, clock=False, ports=Ports.free(), lakehouse_memory=HEAP)
    gc_log = home / "gc.log"
    try:
        with connected(settings, JDK_JAVA_OPTIONS=f"-Xlog:gc:file={gc_log}:none") as session:
            catalog.create(session, settings)
            yield Bench(session, settings, gc_log)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def simulated(folder: Path, days: Sequence[int], a_day: int, late: int = LATE) -> Path:
    """`transactions.parquet` and `fraud_labels.parquet` of those days, with silver's columns; a verdict on each, seven days later."""
    folder.mkdir()
    simulator = Simulator(World.of_size(a_day, seed=7))
    dice = np.random.default_rng(7)
    writers: dict[str, parquet.ParquetWriter] = {}
    for number in days:
        day = simulator.day(FIRST + timedelta(days=number))
        order = np.argsort(day.transaction_id)
        night = np.datetime64(FIRST, "D") + number
        brought = np.full(len(day), night)
        if late:
            brought[dice.random(len(day)) < 1 / late] += dice.integers(1, 30)
        happened = day.tx_datetime[order].astype("datetime64[us]")
        events = {
            "transaction_id": day.transaction_id[order],
            "tx_datetime": pa.array(happened).cast(INSTANT),
            "customer_id": day.customer_id[order],
            "terminal_id": day.terminal_id[order],
            "tx_amount": decimals(day.cents[order]),
            "day": brought,
        }
        verdicts = {
            "transaction_id": events["transaction_id"],
            "tx_fraud": (day.fraud[order] > 0).astype(np.int32),
            "reported_at": pa.array(happened + np.timedelta64(7, "D")).cast(INSTANT),
            "day": np.full(len(day), night + 7),
        }
        for name, columns in zip(NAMES, (events, verdicts), strict=True):
            table = pa.table(columns)
            if name not in writers:
                writers[name] = parquet.ParquetWriter(folder / f"{name}.parquet", table.schema)
            writers[name].write_table(table)
    for writer in writers.values():
        writer.close()
    return folder


def decimals(cents: np.ndarray) -> pa.Array:
    """Amounts as silver has them, decimal(12,2), without a detour over text."""
    low = cents.astype(np.int64)
    unscaled = np.stack([low, low >> 63], axis=1)
    return pa.Array.from_buffers(pa.decimal128(12, 2), len(low), [None, pa.py_buffer(np.ascontiguousarray(unscaled))])


def views(bench: Bench, folder: Path) -> None:
    """The simulated tables as silver has them, for Spark: `silver_transactions` and `silver_fraud_labels`."""
    for name in NAMES:
        silver = f"select *, cast(date_add(day, 1) as timestamp) as known_at from parquet.`{folder}/{name}.parquet`"
        bench.session.sql(f"create or replace temporary view silver_{name} as {silver}")


def fill(bench: Bench, folder: Path) -> None:
    """Put the simulated tables into silver."""
    views(bench, folder)
    for feed, name in zip((USE_CASE.events, USE_CASE.labels), NAMES, strict=True):
        bench.session.sql(f"insert into {tables.silver(feed)} by name select * from silver_{name} distribute by day")


def measure_windows(bench: Bench) -> list[Figure]:
    folder = simulated(bench.home / "days", range(DAYS), A_DAY)
    views(bench, folder)
    ours = our_windows(bench)
    ways: dict[str, Callable[[Path], None]] = {
        "Nightshift": ours,
        "DuckDB, by hand": lambda out: in_duckdb(folder, by_hand("epoch_us({})"), out),
        "Spark SQL, plain RANGE": lambda out: write(bench, by_hand("unix_micros({})"), out),
    }
    taken = in_turns(bench, ways)
    figure = {way: median(seconds) for way, seconds in taken.items()}
    return [
        Figure("sums and counts, beside DuckDB by hand", figure["Nightshift"] / figure["DuckDB, by hand"], 2.0, "x"),
        Figure("plain RANGE windows in Spark SQL, beside ours", figure["Spark SQL, plain RANGE"] / figure["Nightshift"], 4.0, "x", True),
    ]


def our_windows(bench: Bench) -> Callable[[Path], None]:
    """The shipped models of sums and counts, as a build runs them: each laid in a folder before the next reads it."""
    wanted = ("card_fraud_reach", "card_fraud_history", "card_fraud_windows")
    models = project.compiled(bench.session, bench.settings, USE_CASE).models
    plan = project.Compiled(tuple((name, query) for name, query in models if name in wanted))
    nights = [FIRST, FIRST + timedelta(days=DAYS + 30)]

    def run(out: Path) -> None:
        with plan.over(bench.session, bench.settings, nights, SOURCES) as frame:
            shutil.copytree(frame.inputFiles()[0].removeprefix("file://").rsplit("/", 1)[0], out)

    return run


SOURCES = {"silver.transactions": "silver_transactions", "silver.fraud_labels": "silver_fraud_labels"}


def by_hand(micros: str) -> str:
    """Sums and counts as one would write them with `RANGE` windows; what a row's night did not know is taken off again."""
    at, reported = micros.format("tx_datetime"), micros.format("l.reported_at")

    def frame(key: str, first: int, last: int) -> str:
        end = f"{last * DAY} preceding" if last else "current row"
        return f"over (partition by {key} order by moment range between {first * DAY - 1} preceding and {end})"

    windows = ", ".join(
        f"count(*) {frame('customer_id', n, 0)} as count_{n}d, sum(cents) {frame('customer_id', n, 0)} as cents_{n}d, "
        f"count(*) {frame('terminal_id', n + DELAY, DELAY)} as terminal_count_{n}d"
        for n in WINDOWS
    )
    unseen_own = ", ".join(
        f"count(*) filter (where l.moment > e.moment - {n * DAY}) as count_{n}d, "
        f"coalesce(sum(l.cents) filter (where l.moment > e.moment - {n * DAY}), 0) as cents_{n}d"
        for n in WINDOWS
    )
    unseen_there = ", ".join(f"count(*) filter (where l.moment > e.moment - {(n + DELAY) * DAY}) as terminal_count_{n}d" for n in WINDOWS)
    frauds = ", ".join(f"count(*) filter (where v.moment > e.moment - {(n + DELAY) * DAY}) as terminal_frauds_{n}d" for n in WINDOWS)
    known = [
        f"cast(w.{figure}_{n}d - coalesce({unseen}.{figure}_{n}d, 0) as bigint) as {figure}_{n}d"
        for figure, unseen in (("count", "o"), ("cents", "o"), ("terminal_count", "u"))
        for n in WINDOWS
    ]
    figures = ", ".join([*known, *(f"cast(coalesce(f.terminal_frauds_{n}d, 0) as bigint) as terminal_frauds_{n}d" for n in WINDOWS)])
    return f"""
with t as (
  select day, transaction_id, customer_id, terminal_id, {at} as moment, cast(tx_datetime as date) as own_day,
    cast(tx_amount * 100 as bigint) as cents
  from silver_transactions
),
late as (select * from t where day > own_day),
verdicts as (
  select t.terminal_id, t.moment, {reported} as reported, greatest(l.day, t.day) as day
  from silver_fraud_labels l join t on t.transaction_id = l.transaction_id where l.tx_fraud = 1
),
w as (select transaction_id, {windows} from t),
o as (
  select e.transaction_id, {unseen_own}
  from t e join late l on e.customer_id = l.customer_id and l.day > e.day and l.moment <= e.moment group by e.transaction_id
),
u as (
  select e.transaction_id, {unseen_there}
  from t e join late l on e.terminal_id = l.terminal_id and l.day > e.day and l.moment <= e.moment - {DELAY * DAY} group by e.transaction_id
),
f as (
  select e.transaction_id, {frauds}
  from t e join verdicts v on e.terminal_id = v.terminal_id
    and v.moment <= e.moment - {DELAY * DAY} and v.reported <= e.moment and v.day <= e.day
  group by e.transaction_id
)
select w.transaction_id, {figures}
from w left join o on w.transaction_id = o.transaction_id left join u on w.transaction_id = u.transaction_id
  left join f on w.transaction_id = f.transaction_id
"""


def measure_quantiles(bench: Bench) -> list[Figure]:
    folder = simulated(bench.home / "days", range(DAYS), A_DAY, late=0)
    views(bench, folder)
    models = dict(project.compiled(bench.session, bench.settings, USE_CASE).models)
    columns = "customer_id, transaction_id, unix_micros(tx_datetime) as at, day, cast(tx_amount * 100 as bigint) as cents"
    history = f"select {columns}, true as is_event, cast(null as date) as fraud_told from silver_transactions"
    bench.session.sql(f"create or replace temporary view bench_history as {history}")
    habits = models["card_fraud_customer_habits"].replace("card_fraud_history", "bench_history")
    frame = f"over (partition by customer_id order by moment range between {30 * DAY - 1} preceding and current row exclude current row)"
    duck = f"""
select transaction_id, case when middle > 0 then cents / middle end as amount_to_median
from (select *, quantile_cont(cents, 0.5) {frame} as middle
  from (select *, epoch_us(tx_datetime) as moment, cast(tx_amount * 100 as bigint) as cents from silver_transactions))
"""
    ways: dict[str, Callable[[Path], None]] = {
        "Nightshift": lambda out: write(bench, f"select transaction_id, amount_to_median from ({habits})", out),
        "DuckDB": lambda out: in_duckdb(folder, duck, out),
    }
    taken = in_turns(bench, ways)
    ratio = median(taken["Nightshift"]) / median(taken["DuckDB"])
    return [Figure("medians, beside DuckDB", ratio, 4.0, "x")]


def write(bench: Bench, query: str, out: Path) -> None:
    bench.session.sql(query).write.orc(str(out))


def as_parquet(bench: Bench, out: Path) -> Path:
    """What Spark wrote, for DuckDB to read."""
    if not any(out.glob("*.orc")):
        return out
    copied = out / "parquet"
    bench.session.read.orc(str(out)).write.parquet(str(copied))
    return copied


def in_duckdb(folder: Path, query: str, out: Path) -> None:
    out.mkdir()
    with duckdb.connect() as connection:
        connection.execute(f"set threads = {os.cpu_count()}; set timezone = 'UTC'")
        for name in NAMES:
            connection.execute(f"create view silver_{name} as from '{folder}/{name}.parquet'")
        connection.execute(f"copy ({query}) to '{out}/rows.parquet' (format parquet)")


def in_turns(bench: Bench, ways: dict[str, Callable[[Path], None]]) -> dict[str, list[float]]:
    """Seconds of each way, in turns, after one round that is not counted but compared row for row."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(ROUNDS + 1):
        outs = {}
        for number, (way, act) in enumerate(ways.items()):
            out = bench.home / f"out-{round_}-{number}"
            started = time.monotonic()
            act(out)
            taken[way] += [time.monotonic() - started] if round_ else []
            outs[way] = out
        if not round_:
            compare({way: as_parquet(bench, out) for way, out in outs.items()})
        for out in outs.values():
            shutil.rmtree(out)
    tell(taken)
    return taken


def compare(outs: dict[str, Path]) -> None:
    (first, held), *others = outs.items()
    with duckdb.connect() as connection:
        rows = connection.execute(f"select count(*) from '{held}/*.parquet'").fetchone()
        for way, out in others:
            for one, other in ((held, out), (out, held)):
                differing = f"select * from '{one}/*.parquet' except all select * from '{other}/*.parquet'"
                found = connection.execute(f"{differing} limit 3").fetchall()
                assert not found, f"{first} and {way} differ, for instance in {found}"
    assert rows
    print(f"  {rows[0]:,} rows, equal row for row", flush=True)


def measure_nights(bench: Bench) -> list[Figure]:
    """Nights of 10,000 rows through the whole build, dbt included, in a warm process."""
    early, late = 30, 365
    loaded = 0
    medians = {}
    for after in (early, late):
        fill(bench, simulated(bench.home / f"until-{after}", range(loaded, after + 6), A_DAY))
        loaded = after + 6
        seconds = []
        for number in range(after, after + 6):
            started = time.monotonic()
            build.build(bench.session, bench.settings, USE_CASE, [FIRST + timedelta(days=number)])
            seconds.append(time.monotonic() - started)
        medians[after] = median(seconds[1:])
        print(f"  after {after:3} nights: {' '.join(f'{second:.2f}' for second in seconds)} (the first warms up)", flush=True)
    return [Figure(f"a night after {late} nights, beside one after {early}", medians[late] / medians[early], 1.2, "x")]


def measure_memory(bench: Bench) -> list[Figure]:
    """Features and training set of 10 million rows: 183 nights of 55,000."""
    fill(bench, simulated(bench.home / "days", range(DAYS), 55_000))
    before = len(bench.gc_log.read_text().splitlines())
    last = FIRST + timedelta(days=DAYS - 1)
    started = time.monotonic()
    with workers() as peaks:
        nights = list(nights_module.between(FIRST, last + timedelta(days=29)))
        built = build.build(bench.session, bench.settings, USE_CASE, nights)
        rows = sum(built.rows.values())
        print(f"  features of {rows:,} rows: {time.monotonic() - started:.0f} s", flush=True)
        split = training_set.split(USE_CASE, FIRST, last)
        versions = {str(table): log.version(bench.settings, table) for table in training_set.tables_read(USE_CASE)}
        started = time.monotonic()
        made = training_set.write(bench.session, bench.settings, USE_CASE, split, versions, bench.home / "set")
        print(f"  training set of {made.rows['train'] + made.rows['holdout']:,} rows: {time.monotonic() - started:.0f} s", flush=True)
    collections = bench.gc_log.read_text().splitlines()[before:]
    heap = max(int(match[1]) for match in (re.search(r"(\d+)M->\d+M\(\d+M\)", line) for line in collections) if match) / 1024
    held = ", ".join(f"{name} {peak / 2**30:.2f} GiB" for name, peak in peaks.items())
    print(f"  peak heap {heap:.2f} GiB of {HEAP}; peak resident: {held}", flush=True)
    return [Figure("heap of the server for features and training set of 10 million rows", heap, 4.0, "GiB")]


@contextmanager
def workers() -> Iterator[dict[str, float]]:
    """Peak resident bytes of the server and of its largest Python worker, and of this process, while the block lasts."""
    import threading

    peaks: dict[str, float] = {"server": 0, "a Python worker": 0, "this process": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for child in psutil.Process().children(recursive=True):
                try:
                    name = "server" if child.name() == "java" else "a Python worker"
                    peaks[name] = max(peaks[name], child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            peaks["this process"] = max(peaks["this process"], psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


if __name__ == "__main__":
    raise SystemExit(main())
