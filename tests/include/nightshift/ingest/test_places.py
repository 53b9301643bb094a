"""Drops on S3: found, refused and remembered like those in a folder, and never written to."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from include.nightshift import objects
from include.nightshift.erase import files
from include.nightshift.erase.person import Person
from include.nightshift.errors import ConfigurationError, LandingError, StorageError
from include.nightshift.ingest import erased, ingest, landing, places
from include.nightshift.lakehouse.session import rows
from include.nightshift.settings import Settings
from include.nightshift.usecase import Feed, Pull, UseCase
from include.usecases.card_fraud.usecase import FRAUD_LABELS, TRANSACTIONS

NIGHT = date(2003, 5, 6)
HEADER = ",".join(column.name for column in TRANSACTIONS.columns)
PULLED = replace(TRANSACTIONS, name="pulled", pull=Pull(connection="source", relation="public.transactions", watermark="written_at"))


def content(*lines: str) -> bytes:
    return gzip.compress("\n".join([HEADER, *lines, ""]).encode(), mtime=0)


def bought(number: int, card: int = 77) -> str:
    return f"{7_030_000_000 + number},{NIGHT} 08:00:00,{card},21,9.50"


@pytest.fixture
def dropped(s3: str, tmp_path: Path) -> Settings:
    """An installation whose feeds are dropped on S3, at a prefix of this test's own."""
    return Settings(home=tmp_path, landing=f"s3://{s3.partition('://')[2]}/drops/{tmp_path.name.replace('[', '_')}")


def drop(settings: Settings, name: str, data: bytes, feed: Feed = TRANSACTIONS) -> str:
    """Put an object in place of whatever is there."""
    address = f"{settings.landing_location}/{feed.name}/{name}"
    objects.remove([address])
    assert objects.create(address, data)
    return address


def test_a_drop_on_s3_is_read_as_the_same_file_in_a_folder_is(dropped: Settings, tmp_path: Path) -> None:
    data = content(bought(1), bought(2), "half a row")
    drop(dropped, f"{NIGHT}.csv.gz", data)
    here = tmp_path / "here" / "transactions" / f"{NIGHT}.csv.gz"
    here.parent.mkdir(parents=True)
    here.write_bytes(data)
    there, local = (landing.read(settings, TRANSACTIONS, NIGHT) for settings in (dropped, Settings(landing=f"{tmp_path}/here")))
    assert there is not None
    assert local is not None
    assert there.table.equals(local.table)
    assert (there.source, there.batch, there.malformed) == (local.source, local.batch, local.malformed)
    assert abs(there.landed_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_only_the_nights_own_object_counts(dropped: Settings) -> None:
    for name in (f"{NIGHT}.csv.gz.tmp", f"{NIGHT}.csv/part.csv", f"{NIGHT}.csv.bak", f"{NIGHT}0.csv", f"x{NIGHT}.csv"):
        drop(dropped, name, content(bought(1)))
    with pytest.raises(LandingError, match=rf"no file s3://lake/drops/.*/transactions/{NIGHT}{{.csv,.*FEED_SPANS=transactions=FIRST..LAST"):
        landing.read(dropped, TRANSACTIONS, NIGHT)
    assert landing.read(dropped, replace(TRANSACTIONS, first_drop=NIGHT + timedelta(days=1)), NIGHT) is None
    drop(dropped, f"{NIGHT}.csv.gz", content(bought(1)))
    assert landing.read(dropped, TRANSACTIONS, NIGHT)
    drop(dropped, f"{NIGHT}.jsonl", b"{}")
    with pytest.raises(LandingError, match=rf"{NIGHT}\.csv\.gz and {NIGHT}\.jsonl both stand in s3://lake/drops/"):
        landing.read(dropped, TRANSACTIONS, NIGHT)


def test_an_object_cut_short_is_refused_with_its_name(dropped: Settings) -> None:
    drop(dropped, f"{NIGHT}.csv.gz", content(bought(1))[:-9])
    with pytest.raises(LandingError, match=rf"transactions/{NIGHT}\.csv\.gz \(\d+ bytes\) .*Land the file again"):
        landing.read(dropped, TRANSACTIONS, NIGHT)


def test_the_first_night_is_that_of_the_first_object(dropped: Settings) -> None:
    for days in range(3):
        drop(dropped, f"{NIGHT + timedelta(days=days)}.csv.gz", content(bought(1)))
    assert landing.spans(dropped, [TRANSACTIONS]) == {"transactions": (NIGHT, None)}
    with pytest.raises(LandingError, match="fraud_labels/ holds no"):
        landing.spans(dropped, [FRAUD_LABELS])


def test_a_bucket_that_is_not_there_fails_the_night_and_the_start(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Settings(home=tmp_path, landing="s3://nowhere/drops")
    with pytest.raises(LandingError, match=rf"bronze\.transactions, night {NIGHT}: s3://nowhere/drops.*NoSuchBucket"):
        landing.read(lost, TRANSACTIONS, NIGHT)
    with pytest.raises(StorageError, match=r"s3://nowhere/drops/transactions/ at .*NoSuchBucket.*s3:ListBucket"):
        places.check(lost, [TRANSACTIONS])
    places.check(replace(lost, landing=f"{tmp_path}/nowhere"), [TRANSACTIONS])
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ConfigurationError, match="set AWS_REGION"):
        places.check(lost, [TRANSACTIONS])


def test_what_is_pulled_lies_here_and_is_ours(dropped: Settings, tmp_path: Path) -> None:
    assert places.of(dropped, PULLED).address("x") == f"{tmp_path}/landing/pulled/x"
    assert places.of(dropped, PULLED).is_ours
    assert not places.of(dropped, TRANSACTIONS).is_ours
    assert not places.of(replace(dropped, landing=f"{tmp_path.parent}"), TRANSACTIONS).is_ours


def test_erase_reports_a_persons_rows_on_s3_and_leaves_the_object_alone(dropped: Settings) -> None:
    address = drop(dropped, f"{NIGHT}.csv.gz", content(bought(1, card=5), bought(2), bought(3, card=5)))
    drop(dropped, f"{NIGHT}.csv.zst", b"no zstd")
    before = objects.find(address)
    found = list(files.landed(dropped, TRANSACTIONS, Person("customer_id", "transaction_id", "5")))
    [theirs] = [file for file in found if isinstance(file, files.Landed)]
    assert (theirs.address, theirs.is_ours, theirs.night, theirs.rows, theirs.left) == (address, False, NIGHT, (1, 3), 1)
    assert [file.address for file in found if isinstance(file, files.Unread)] == [address.replace(".gz", ".zst")]
    assert objects.find(address) == before


def test_an_erased_persons_rows_on_s3_are_left_out_and_counted(dropped: Settings, records_home: Settings) -> None:
    dropped = replace(records_home, landing=dropped.landing)
    address = drop(dropped, f"{NIGHT}.csv.gz", content(bought(1, card=5), bought(2)))
    before = objects.read(address)
    erased.register(dropped, "0" * 32, {("customer_id", erased.ENTITY): {"5"}})
    read = landing.read(dropped, TRANSACTIONS, NIGHT)
    assert read is not None
    left = erased.left_out(dropped, TRANSACTIONS, read, erased.known(dropped))
    assert (left.table["transaction_id"].to_pylist(), left.erased) == (["7030000002"], 1)
    assert objects.read(address) == before


@pytest.mark.lakehouse
def test_a_night_from_s3_is_the_night_that_the_same_file_made_and_a_corrected_object_replaces_it(
    session: SparkSession,
    installation: Settings,
    use_case: UseCase,
    dropped: Settings,
    land: Callable[[Feed, date, Iterable[Sequence[object]]], Path],
) -> None:
    feed = use_case.events
    local = land(feed, NIGHT, [bought(number).split(",") for number in (1, 2)])
    assert ingest(session, installation, feed, [NIGHT]).accepted == {NIGHT: 2}

    elsewhere = replace(installation, landing=dropped.landing)
    drop(elsewhere, local.name, local.read_bytes())
    assert ingest(session, elsewhere, feed, [NIGHT]).unchanged == [NIGHT]
    drop(elsewhere, local.name, content(bought(1), bought(2), bought(3), bought(4, card=-1).replace("9.50", "-1")))
    done = ingest(session, elsewhere, feed, [NIGHT])
    assert (done.landed, done.accepted) == ({NIGHT: 4}, {NIGHT: 3})
    found = rows(session, "select source, rows, accepted from ops.batches where feed = 'transactions' and day = :night", night=NIGHT)
    assert found == [{"source": f"transactions/{NIGHT}.csv.gz", "rows": 4, "accepted": 3}]

    objects.remove([f"{elsewhere.landing_location}/{feed.name}/{local.name}"])
    with pytest.raises(LandingError, match="no file s3://"):
        ingest(session, elsewhere, feed, [NIGHT])
    assert rows(session, "select count(*) as n from silver.transactions where day = :night", night=NIGHT) == [{"n": 3}]
