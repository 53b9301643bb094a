"""Landing to silver on the real lakehouse: what goes in comes out, in silver or in quarantine, however often it is done."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import ContractError, LandingError
from include.nightshift.ingest import ingest, release
from include.nightshift.lakehouse import log, records, tables
from include.nightshift.lakehouse.session import rows
from include.nightshift.rules import RowRule
from include.nightshift.settings import Settings
from include.nightshift.usecase import Feed, UseCase

Land = Callable[[Feed, date, Iterable[Sequence[object]]], Path]
UGLY = Path(__file__).parents[3] / "data" / "landing" / "ugly.csv"

MONDAY = date(2016, 5, 2)
TUESDAY = MONDAY + timedelta(days=1)


def good(number: int, night: date, amount: str = "9.50") -> tuple[object, ...]:
    return (number, f"{night} 08:00:00", 11, 21, amount)


def content(session: SparkSession, night: date) -> list[int]:
    query = "select transaction_id from silver.transactions where day = :night order by transaction_id"
    return [row["transaction_id"] for row in rows(session, query, night=night)]


def quarantine(session: SparkSession, night: date) -> list[dict[str, Any]]:
    return rows(session, "select * from silver.quarantine where day = :night and feed = 'transactions' order by _row", night=night)


def versions(installation: Settings, feed: Feed) -> dict[str, int]:
    return {str(table): log.version(installation, table) for table in (tables.bronze(feed), tables.silver(feed), tables.QUARANTINE)}


@pytest.mark.lakehouse
def test_each_broken_rule_sends_its_row_to_quarantine_and_a_rerun_commits_nothing(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed, night = use_case.events, MONDAY
    drop = [
        good(1, night),
        ("x7", f"{night} 08:00:00", 11, 21, "9.50"),
        (3, "yesterday", 11, 21, "9.50"),
        (4, f"{night} 08:00:00", "", 21, "9.50"),
        good(5, night, "-0.01"),
        good(6, night, "1000000.01"),
        good(7, night + timedelta(days=1)),
        good(8, night - timedelta(days=36)),
        good(1, night, "7.00"),
        (9, f"{night} 08:00:00", 11),
        (10, f" {night}T23:59:59 ", " 11 ", "21", "0"),
        good(11, night - timedelta(days=35)),
    ]
    land(feed, night, drop)
    first = ingest(session, installation, feed, [night])

    rejected = quarantine(session, night)
    assert {row["_row"]: row["rule"] for row in rejected} == {
        2: "unreadable_transaction_id",
        3: "unreadable_tx_datetime",
        4: "unreadable_customer_id",
        5: "amount_in_range",
        6: "amount_in_range",
        7: "not_in_the_future",
        8: "not_ancient",
        9: "conflict",
        10: "malformed",
    }
    by_row = {row["_row"]: row for row in rejected}
    assert by_row[2]["reason"] == "transaction_id is no bigint: x7"
    assert by_row[9]["reason"] == f"transaction_id came already in night {night}, with other values"
    assert json.loads(by_row[5]["raw"])["tx_amount"] == "-0.01"
    assert json.loads(by_row[10]["raw"]) == {"text": f"9,{night} 08:00:00,11"}
    assert {row["_source"] for row in rejected} == {f"transactions/{night}.csv.gz"}
    assert content(session, night) == [1, 10, 11]
    assert (first.landed, first.accepted, first.rejected) == ({night: 12}, {night: 3}, {night: 9})
    known = rows(session, "select distinct cast(known_at as string) as at from silver.transactions where day = :night", night=night)
    assert known == [{"at": f"{TUESDAY} 00:00:00"}]

    before = versions(installation, feed)
    assert ingest(session, installation, feed, [night]).version == first.version
    assert versions(installation, feed) == before


@pytest.mark.lakehouse
def test_the_later_night_loses_a_duplicate_and_landing_the_earlier_again_changes_nothing(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed, earlier = use_case.events, MONDAY + timedelta(days=100)
    later = earlier + timedelta(days=1)
    land(feed, earlier, [good(201, earlier), good(202, earlier)])
    land(feed, later, [good(202, later, "1.00"), good(203, later)])
    ingest(session, installation, feed, [earlier])
    ingest(session, installation, feed, [later])
    assert (content(session, earlier), content(session, later)) == ([201, 202], [203])
    assert [row["reason"] for row in quarantine(session, later)] == [f"transaction_id came already in night {earlier}, with other values"]

    before = versions(installation, feed)
    ingest(session, installation, feed, [earlier])
    ingest(session, installation, feed, [earlier, later])
    assert versions(installation, feed) == before


@pytest.mark.lakehouse
def test_files_that_cannot_be_trusted_write_nothing_and_the_other_nights_go_on(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed, night = use_case.events, MONDAY + timedelta(days=200)
    path = land(feed, night, [good(number, night) for number in range(301, 331)])
    whole = path.read_bytes()
    before = versions(installation, feed)

    path.write_bytes(whole[:-20])
    with pytest.raises(LandingError, match="no whole gz file"):
        ingest(session, installation, feed, [night])
    with pytest.raises(LandingError, match="no file"):
        ingest(session, installation, feed, [night - timedelta(days=1), night])
    empty = ingest(session, installation, replace(feed, first_drop=night), [night - timedelta(days=1)])
    assert empty.landed == {night - timedelta(days=1): 0}
    assert versions(installation, feed) == before

    following = night + timedelta(days=1)
    # Keys of their own: those of older nights are known, however long ago they came.
    ugly = re.sub(rb"\n(\d)", rb"\n90\1", UGLY.read_bytes().replace(b"2026-11-20", str(following).encode()))
    (path.parent / f"{following}.csv.gz").write_bytes(gzip.compress(ugly))
    assert ingest(session, installation, feed, [following]).accepted == {following: 3}
    assert [row["rule"] for row in quarantine(session, following)] == ["malformed"] * 3

    path.write_bytes(whole)
    assert ingest(session, installation, feed, [night]).accepted == {night: 30}


@pytest.mark.lakehouse
def test_a_file_that_is_landed_again_with_other_rows_replaces_its_night_only(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed, night = use_case.events, MONDAY + timedelta(days=300)
    following = night + timedelta(days=1)
    land(feed, night, [good(401, night), good(402, night, "-1")])
    land(feed, following, [good(403, following)])
    ingest(session, installation, feed, [night, following])
    land(feed, night, [good(402, night, "1")])
    ingest(session, installation, feed, [night])
    assert (content(session, night), content(session, following)) == ([402], [403])
    assert quarantine(session, night) == []
    bronze = rows(session, "select transaction_id from bronze.transactions where day = :night", night=night)
    assert bronze == [{"transaction_id": "402"}]


@pytest.mark.lakehouse
def test_a_key_that_came_before_is_known_also_beyond_the_nights_that_are_searched_row_by_row(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed, old = replace(use_case.events, dedup_days=7), MONDAY + timedelta(days=320)
    night = old + timedelta(days=20)
    land(feed, old, [good(501, old), good(502, old)])
    land(feed, night, [good(503, night), good(501, night), (502, f"{old} 08:00:00", 11, 21, "9.50")])
    ingest(session, installation, feed, [old, night])
    assert content(session, night) == [503]
    assert {row["rule"]: row["reason"] for row in quarantine(session, night)} == {
        "conflict": f"transaction_id came already in night {old}, with other values",
        "duplicate": f"transaction_id came already in night {old}",
    }


@pytest.mark.lakehouse
def test_a_night_landed_after_later_ones_marks_those_whose_keys_it_brings_and_they_end_as_if_it_had_come_in_time(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed, early = use_case.events, MONDAY + timedelta(days=340)
    late = early + timedelta(days=3)
    land(feed, late, [good(601, late), good(602, late)])
    ingest(session, installation, feed, [late])
    land(feed, early, [good(602, early), good(603, early)])
    ingest(session, installation, feed, [early])
    (mark,) = (row for row in rows(session, "select * from ops.stale_nights where day = :night", night=late) if row["rebuilt_at"] is None)
    assert (mark["table_name"], mark["because"]) == ("silver.transactions", "1 of its keys came in an earlier night, landed after it")

    # The same file, and yet something to do.
    assert ingest(session, installation, feed, [late]).unchanged == []
    assert (content(session, early), content(session, late)) == ([602, 603], [601])
    assert ingest(session, installation, feed, [late]).unchanged == [late]
    (mark,) = rows(session, "select * from ops.stale_nights where day = :night", night=late)
    assert mark["rebuilt_at"] is not None


@pytest.mark.lakehouse
def test_rows_leave_quarantine_when_the_contract_is_mended_and_stay_out_when_the_night_is_run_again(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    night = MONDAY + timedelta(days=350)
    feed = use_case.events
    land(feed, night, [good(701, night), good(702, night, "-3"), good(703, night, "-4000"), (704,), good(705, night, "x")])
    assert ingest(session, installation, feed, [night]).accepted == {night: 1}

    refunds = RowRule(name="amount_in_range", severity="reject", kind="range", reason="too much back", breach="tx_amount < -100")
    mended = replace(feed, rules=tuple(refunds if rule.name == refunds.name else rule for rule in feed.rules))
    # The landed file may be gone by now: bronze has it all.
    (path,) = installation.landing_folder.glob(f"transactions/{night}.*")
    kept = path.read_bytes()
    path.unlink()
    done = release(session, installation, mended, [night])
    assert (done.released, done.accepted, done.rejected) == (1, {night: 2}, {night: 3})
    assert content(session, night) == [701, 702]
    waits = {row["_row"]: (row["rule"], row["released_at"] is None) for row in quarantine(session, night)}
    assert waits == {2: ("amount_in_range", False), 3: ("amount_in_range", True), 4: ("malformed", True), 5: ("unreadable_tx_amount", True)}

    path.write_bytes(kept)
    before = versions(installation, feed)
    assert ingest(session, installation, mended, [night]).unchanged == [night]
    assert release(session, installation, mended, [night]).released == 1
    assert versions(installation, feed) == before
    # With the old contract the row is rejected again.
    assert ingest(session, installation, feed, [night]).accepted == {night: 1}
    assert all(row["released_at"] is None for row in quarantine(session, night))


@pytest.mark.lakehouse
def test_a_night_that_never_came_has_nothing_to_release(session: SparkSession, installation: Settings, use_case: UseCase) -> None:
    with pytest.raises(LandingError, match=r"night 2017-12-24: it was never ingested, so nothing waits there"):
        release(session, installation, use_case.events, [date(2017, 12, 24)])


@pytest.mark.lakehouse
def test_half_of_the_usual_rows_stop_the_night_and_those_before_it_are_written(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed, weeks = use_case.events, [MONDAY + timedelta(days=360 + 7 * number) for number in range(4)]
    for number, night in enumerate(weeks):
        rows_ = 200 if number < 3 else 90
        land(feed, night, [good(7_000_000 + number * 1000 + n, night) for n in range(rows_)])
    with pytest.raises(ContractError, match=rf"night {weeks[3]}: the batch is stopped.*90 rows, expected 100 to 400.*accept=usual_volume"):
        ingest(session, installation, feed, weeks)
    assert [len(content(session, night)) for night in weeks] == [200, 200, 200, 0]
    (told,) = rows(session, "select * from ops.contract_results where day = :night and rule = 'usual_volume'", night=weeks[3])
    assert (told["verdict"], told["severity"], told["kind"]) == ("failed", "stop", "temporal")

    done = ingest(session, installation, feed, weeks, accept=["usual_volume"])
    assert (done.unchanged, done.accepted[weeks[3]]) == (weeks[:3], 90)
    (told,) = rows(session, "select * from ops.contract_results where day = :night and rule = 'usual_volume'", night=weeks[3])
    assert told["verdict"] == "accepted"


@pytest.mark.lakehouse
def test_what_bronze_silver_quarantine_and_the_records_say_adds_up_after_every_path(
    session: SparkSession, installation: Settings, use_case: UseCase
) -> None:
    """Over all nights that the tests of this run brought: first landings, corrections, releases, stopped and empty nights."""
    for feed in use_case.feeds:
        bronze, silver = (log.rows_by_night(installation, table(feed)) for table in (tables.bronze, tables.silver))
        waiting = "select day, count(*) as n from silver.quarantine where feed = :feed and released_at is null group by day"
        rejected = {row["day"]: row["n"] for row in rows(session, waiting, feed=feed.name)}
        for record in records.read(installation, tables.BATCHES, feed=feed.name):
            night = record["day"]
            held = (bronze.get(night, 0), silver.get(night, 0), rejected.get(night, 0))
            taken = record["rows"] - (record["erased"] or 0)
            assert held == (taken, record["accepted"], record["rejected"]), (feed.name, night)
            assert held[0] == held[1] + held[2], (feed.name, night)
