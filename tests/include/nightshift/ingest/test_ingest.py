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

from include.nightshift.errors import LandingError
from include.nightshift.ingest import ingest
from include.nightshift.lakehouse import log, tables
from include.nightshift.lakehouse.session import rows
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
