"""A small sample of `bench/chaos_ingest.py`: task processes killed at random moments of a night, on the lakehouse of the test run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from bench.chaos_ingest import Act, Lake
from include.nightshift.ingest import ingest
from include.nightshift.lakehouse.session import rows
from include.nightshift.settings import Settings
from include.nightshift.usecase import Feed, UseCase

NIGHT = date(1999, 4, 5)
KILLS, GOOD, BAD = 2, 40, 5
COLUMNS = "transaction_id, customer_id, cast(tx_amount as double) as amount"


@pytest.mark.lakehouse
def test_a_night_whose_task_was_killed_again_and_again_holds_each_row_once(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Callable[[Feed, date, Iterable[Sequence[object]]], Path]
) -> None:
    feed, dice = use_case.events, random.Random(1)  # noqa: S311
    lake, act = Lake(replace(installation, feed_spans={feed.name: (NIGHT, None)})), Act(feed, NIGHT)
    good = [(6_990_000_000 + number, f"{NIGHT} 08:00:00", number, 21, "9.50") for number in range(GOOD)]
    bad = [(6_990_100_000 + number, f"{NIGHT} 08:00:00", number, 21, "-1") for number in range(BAD)]
    land(feed, NIGHT, [*good, *bad, good[0]])

    def held() -> tuple[int, int]:
        counts = rows(
            session,
            "select (select count(*) from silver.transactions where day = :night) as accepted, "
            "(select count(*) from silver.quarantine where day = :night and feed = 'transactions') as rejected",
            night=NIGHT,
        )
        return counts[0]["accepted"], counts[0]["rejected"]

    killed = 0
    while killed < KILLS:
        worker = lake.work(act)
        # From its first step to about where it ends.
        time.sleep(dice.uniform(0, 4))
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            killed += 1
        worker.wait()
        # Each table holds nothing of the night, or all of it.
        accepted, rejected = held()
        assert accepted in (0, GOOD)
        assert rejected in (0, BAD + 1)
    assert lake.work(act).wait(300) == 0
    assert held() == (GOOD, BAD + 1)
    found = rows(session, f"select {COLUMNS} from silver.transactions where day = :night", night=NIGHT)
    assert sorted(tuple(row.values()) for row in found) == sorted((row[0], row[2], 9.5) for row in good)
    assert ingest(session, lake.settings, feed, [NIGHT]).unchanged == [NIGHT]
