"""The drops that a simulated world leaves in landing: what the demo, the tests and the drift studies run on.

`world` says what happens, `reporting` what of it is heard and when; `simulate` writes both as feeds. A night's file is the
same bytes whether it is written alone, in a range, or years later.

    python -m include.usecases.card_fraud.simulator --landing DIR --first 2026-01-01 --nights 135
"""

from __future__ import annotations

import argparse
import gzip
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np

from include.nightshift.errors import ConfigurationError, ContractError, NightshiftError
from include.nightshift.nights import between, parse
from include.usecases.card_fraud.reporting import AllAfter, Listed, Reporting, Verdicts, nobody
from include.usecases.card_fraud.world import Change, Day, Simulator, World

log = logging.getLogger(__name__)

GZIP_LEVEL = 2
"""A third of the time of level 6, for a tenth more bytes."""
TRANSACTION_COLUMNS = "transaction_id,tx_datetime,customer_id,terminal_id,tx_amount"
VERDICT_COLUMNS = "transaction_id,tx_fraud,reported_at"


@dataclass(frozen=True)
class Summary:
    """What `simulate` wrote, in numbers; frauds are the truth, whether reported or not."""

    first: date
    last: date
    transactions: int
    frauds: int
    verdicts: int
    files: int


def simulate(
    landing: Path,
    *,
    first: date,
    nights: int,
    world: World,
    reporting: Reporting | None = None,
    listed: Listed = nobody,
    since: date | None = None,
) -> Summary:
    """Write the drops of so many nights: `<landing>/transactions/<night>.csv.gz` and `<landing>/fraud_labels/<night>.csv.gz`.

    `since` is the first night that was ever dropped (default: `first`): nothing is reported about days before it, and
    no verdicts are owed until `reporting` begins. Name it to go on with a landing begun earlier. Files of those nights
    are replaced, each at once.

    Raises:
        ConfigurationError: no nights, `since` after `first`, or days too early to simulate.
        ContractError: `reporting` gave a verdict of another night, or asked for the future.
    """
    since, reporting = since or first, reporting or AllAfter()
    if nights < 1 or since > first:
        raise ConfigurationError(f"{nights} nights from {first}, known since {since}: at least one night, and since not after first")
    live = lru_cache(maxsize=64)(Simulator(world).day)
    last = first + timedelta(days=nights - 1)
    transactions = frauds = verdicts = files = 0
    for night in between(first, last):
        today = live(night)
        _drop(landing / "transactions", night, TRANSACTION_COLUMNS, _transaction_lines(today))
        transactions, frauds, files = transactions + len(today), frauds + int((today.fraud > 0).sum()), files + 1
        if night >= since + timedelta(days=reporting.first_after_days):
            heard = reporting.reported_on(night, _dropped(live, since, night), listed)
            _drop(landing / "fraud_labels", night, VERDICT_COLUMNS, _verdict_lines(heard, night))
            verdicts, files = verdicts + len(heard.transaction_id), files + 1
        if night == last or night.day % 15 == 0:
            log.info("%s: night %d of %d, %d transactions so far", night, (night - first).days + 1, nights, transactions)
    return Summary(first, last, transactions, frauds, verdicts, files)


def _dropped(live: Callable[[date], Day], since: date, night: date) -> Callable[[date], Day]:
    """The truth as a reporting may see it on `night`: days that were dropped, and never the future."""

    def truth(day: date) -> Day:
        if day > night:
            raise ContractError(f"a reporting asked on night {night} for the transactions of {day}: ask for days up to the night")
        return live(day) if day >= since else live(night).none()

    return truth


def _transaction_lines(day: Day) -> Iterable[str]:
    columns = (day.transaction_id, day.tx_datetime, day.customer_id, day.terminal_id, day.cents // 100, day.cents % 100)
    return map("%d,%s,%d,%d,%d.%02d".__mod__, zip(*map(_values, columns), strict=True))


def _verdict_lines(verdicts: Verdicts, night: date) -> Iterable[str]:
    stray = verdicts.reported_at.astype("datetime64[D]") != np.datetime64(night)
    if stray.any():
        raise ContractError(
            f"{stray.sum()} of {len(stray)} verdicts of night {night} are reported on another day, the first at "
            f"{verdicts.reported_at[stray][0]}: Reporting.reported_on returns those of the night it is asked for"
        )
    order = np.lexsort((verdicts.transaction_id, verdicts.reported_at))
    columns = (verdicts.transaction_id[order], verdicts.tx_fraud[order], verdicts.reported_at[order])
    return map("%d,%d,%s".__mod__, zip(*map(_values, columns), strict=True))


def _values(column: np.ndarray) -> list:
    if column.dtype.kind == "M":
        return [text.replace("T", " ") for text in np.datetime_as_string(column, unit="s").tolist()]
    return column.tolist()


def _drop(folder: Path, night: date, header: str, lines: Iterable[str]) -> None:
    """Write one file so that a reader sees all of it or none; equal rows are equal bytes (no name, no time in the header)."""
    content = gzip.compress("\n".join([header, *lines, ""]).encode(), compresslevel=GZIP_LEVEL, mtime=0)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{night}.csv.gz.{os.getpid()}"
    try:
        unfinished.write_bytes(content)
        unfinished.replace(folder / f"{night}.csv.gz")
    finally:
        unfinished.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; progress and errors go to stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m include.usecases.card_fraud.simulator", description="Write drops of a simulated world."
    )
    parser.add_argument("--landing", type=Path, required=True, help="folder of the feeds")
    parser.add_argument("--first", required=True, metavar="DAY", help="first night, YYYY-MM-DD")
    parser.add_argument("--nights", type=int, required=True)
    parser.add_argument("--since", metavar="DAY", help="first night ever dropped, when going on with an earlier landing (default: --first)")
    parser.add_argument("--transactions-per-day", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--change", choices=get_args(Change), help="what the world does on --change-on")
    parser.add_argument("--change-on", metavar="DAY")
    asked = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    started = time.monotonic()
    try:
        change_on = parse(asked.change_on, what="--change-on") if asked.change_on else None
        summary = simulate(
            asked.landing,
            first=parse(asked.first, what="--first"),
            nights=asked.nights,
            world=World.of_size(asked.transactions_per_day, seed=asked.seed, change=asked.change, change_on=change_on),
            since=parse(asked.since, what="--since") if asked.since else None,
        )
    except NightshiftError as error:
        parser.error(str(error))
    log.info("%s in %.1f s", summary, time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
