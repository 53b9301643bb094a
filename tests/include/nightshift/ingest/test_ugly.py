"""A folder of ugly files, each with what must become of it: rows in are silver plus quarantine, or nothing at all was taken.

A file is named `<night>.<what is wrong with it>.<suffix>`; each belongs to a night of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import ContractError, LandingError
from include.nightshift.ingest import Ingested, ingest, landing
from include.nightshift.lakehouse import log, tables
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.lakehouse.session import rows
from include.nightshift.settings import ROOT, Settings
from include.nightshift.usecase import Feed
from include.usecases.card_fraud.usecase import TRANSACTIONS

UGLY = Path(__file__).parents[3] / "data" / "landing" / "ugly"
NIGHT = date(2008, 8, 1)
GOOD = f"transaction_id,tx_datetime,customer_id,terminal_id,tx_amount\n1,{NIGHT} 08:00:00,11,21,9.50\n"

# What comes of the files that land: rows in silver, and rows in quarantine by rule.
LANDS: dict[str, tuple[int, dict[str, int]]] = {
    "byte-order-mark.csv": (2, {}),
    "carriage-returns.csv": (2, {}),
    "old-mac.csv": (2, {}),
    "no-final-newline.csv": (2, {}),
    "blank-lines.csv": (2, {}),
    "all-quoted.csv": (2, {}),
    "quoted-newline.csv": (1, {"unreadable_tx_datetime": 1}),
    "header-only.csv": (0, {}),
    "reordered-columns.csv": (1, {}),
    "too-few-and-too-many.csv": (2, {"malformed": 2}),
    "latin-1.csv": (2, {"malformed": 1}),
    "nul-byte.csv": (2, {"malformed": 1}),
    "ten-megabyte-line.csv.gz": (2, {"unreadable_customer_id": 1}),
    "duplicate-equal.csv": (2, {"duplicate": 1}),
    "duplicate-conflicting.csv": (2, {"conflict": 1}),
    "future.csv": (2, {"not_in_the_future": 2}),
    "ancient.csv": (2, {"not_ancient": 2}),
    "negative-amounts.csv": (2, {"amount_in_range": 2}),
    "huge-amounts.csv": (2, {"amount_in_range": 1, "unreadable_tx_amount": 1}),
    "nan-and-infinity.csv": (1, {"unreadable_tx_amount": 3}),
    "decimal-comma.csv": (1, {"unreadable_tx_amount": 2, "malformed": 1}),
    "too-many-decimals.csv": (4, {"unreadable_tx_amount": 3}),
    "scientific.csv": (2, {"unreadable_transaction_id": 1}),
    "formula-injection.csv": (1, {"unreadable_customer_id": 3}),
    "blanks-around.csv": (2, {}),
    "other-digits.csv": (1, {"unreadable_customer_id": 3}),
    "half-timestamps.csv": (1, {"unreadable_tx_datetime": 4}),
    "time-zones.csv": (3, {}),
    "impossible-dates.csv": (1, {"unreadable_tx_datetime": 3}),
    "words-for-nothing.csv": (1, {"unreadable_customer_id": 4}),
    "key-overflow.csv": (2, {"unreadable_transaction_id": 2}),
    "late-rows.csv": (3, {"not_ancient": 1}),
    "paths-and-sql.csv": (1, {"unreadable_customer_id": 3}),
    "objects.jsonl": (2, {"unreadable_customer_id": 3, "unreadable_tx_amount": 1, "malformed": 3}),
    "objects-with-mark-and-returns.jsonl.gz": (2, {}),
    "exact-numbers.jsonl": (1, {}),
    "zstandard.csv.zst": (2, {}),
    "typed.parquet": (2, {}),
    "nulls-and-text.parquet": (0, {"unreadable_customer_id": 2}),
    "dictionaries-and-zones.parquet": (2, {}),
}

# What is said of the files that are refused whole, before anything of them is written.
REFUSED: dict[str, tuple[type[Exception], str]] = {
    "zero-bytes.csv": (LandingError, "is empty"),
    "zero-bytes.csv.gz": (LandingError, "is empty"),
    "cut-short.csv.gz": (LandingError, "is no whole gz file"),
    "damaged.csv.gz": (LandingError, "is no whole gz file"),
    "gzip-of-gzip.csv.gz": (LandingError, "is compressed twice"),
    "plain-text.csv.gz": (LandingError, "is no whole gz file"),
    "gzip-without-its-name.csv": (LandingError, "is compressed, which its name does not say"),
    "cut-short.csv.zst": (LandingError, "is no whole zst file"),
    "utf-16.csv": (LandingError, "is UTF-16; land it as UTF-8"),
    "missing-column.csv": (ContractError, r"missing \['tx_amount'\], unknown \[\]"),
    "extra-column.csv": (ContractError, r"missing \[\], unknown \['card_number'\]"),
    "renamed-column.csv": (ContractError, r"missing \['tx_amount'\], unknown \['amount'\]"),
    "column-twice.csv": (ContractError, r"twice \['tx_amount'\]"),
    "no-header.csv": (ContractError, "has the columns"),
    "semicolons.csv": (ContractError, "has the columns"),
    "unclosed-quote.csv": (LandingError, "a quote that is opened and never closed"),
    "unknown-name.jsonl": (ContractError, r"unknown \['card_number'\]"),
    "no-objects.jsonl": (ContractError, r"has the columns \[\]"),
    "retyped-column.parquet": (ContractError, r"tx_amount is bool, expected decimal\(12,2\)"),
    "text-for-a-time.parquet": (ContractError, "tx_datetime is double, expected timestamp"),
    "cut-short.parquet": (LandingError, "is no whole Parquet file"),
    "csv-under-another-name.parquet": (LandingError, "is no whole Parquet file"),
}

# What stops a whole batch once its rows were looked at.
STOPPED = {
    "wrong-day-in-the-name.csv": "own_day .* 0.0% of the rows happened on",
    "retyped-values.csv": r"same_types .* tx_amount is no decimal\(12,2\) in 25 of 30 rows",
}


def named(what: str) -> tuple[Path, date, str]:
    """The file, its night and the name under which it lands."""
    (path,) = (path for path in UGLY.iterdir() if path.name.split(".", 1)[1] == what)
    night, _, suffix = path.name.split(".", 2)
    return path, date.fromisoformat(night), f"{night}.{suffix}"


def drop(folder: Path, what: str) -> date:
    path, night, name = named(what)
    (folder / "transactions").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / "transactions" / name)
    return night


def counts(settings: Settings, feed: Feed, nights: list[date]) -> dict[str, int]:
    slices: dict[str, dict[str, Any]] = {"quarantine": {"day": nights, "feed": [feed.name]}}
    found = (tables.bronze(feed), tables.silver(feed), tables.QUARANTINE)
    return {str(table): sum(log.rows_by_night(settings, table, slices.get(table.name, {"day": nights})).values()) for table in found}


def test_every_ugly_file_has_an_expected_outcome() -> None:
    assert {path.name.split(".", 1)[1] for path in UGLY.iterdir()} == {*LANDS, *REFUSED, *STOPPED}
    assert len({path.name.split(".", 1)[0] for path in UGLY.iterdir()}) == len(LANDS) + len(REFUSED) + len(STOPPED) >= 60


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_cannot_be_trusted_is_refused_whole_with_a_reason_and_stays(tmp_path: Path, what: str) -> None:
    night = drop(tmp_path, what)
    error, reason = REFUSED[what]
    with pytest.raises(error, match=rf"bronze\.transactions, night {night}: .*{reason}.* nothing of "):
        landing.read(Settings(landing=str(tmp_path)), TRANSACTIONS, night)
    assert (tmp_path / "transactions" / named(what)[2]).read_bytes() == named(what)[0].read_bytes()


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_way_out(path: Path) -> None:
    outside = path.parents[2] / "elsewhere.csv"
    outside.write_text(GOOD)
    path.symlink_to(outside)


def a_way_to_nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "gone.csv")


def two_files(path: Path) -> None:
    path.write_text(GOOD)
    path.with_suffix(".jsonl").write_text("")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_folder, "cannot be read: it is no plain file"),
        (a_pipe, "cannot be read: it is no plain file"),
        (a_way_out, "leads out of the landing folder"),
        (a_way_to_nowhere, "cannot be read: .*No such file"),
        (two_files, r"2008-08-01\.csv and 2008-08-01\.jsonl both stand in"),
    ],
)
def test_what_is_no_file_of_the_landing_folder_is_refused(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "landing" / "transactions" / f"{NIGHT}.csv"
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(LandingError, match=reason):
        landing.read(Settings(landing=f"{tmp_path}/landing"), TRANSACTIONS, NIGHT)


def test_a_link_within_the_landing_folder_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "transactions" / f"{NIGHT}.csv"
    path.parent.mkdir()
    (tmp_path / "dropped.csv").write_text(GOOD)
    path.symlink_to(tmp_path / "dropped.csv")
    drop_ = landing.read(Settings(landing=str(tmp_path)), TRANSACTIONS, NIGHT)
    assert drop_ is not None
    assert drop_.rows == 1


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "transactions" / f"{NIGHT}.csv"
    path.parent.mkdir()
    path.write_text(GOOD * 20_000)
    done = threading.Event()

    def grow() -> None:
        with path.open("a") as file:
            while not done.is_set():
                file.write("x" * 4096)
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()

    def read_again_and_again() -> None:
        for _ in range(50):
            landing.read(Settings(landing=str(tmp_path)), TRANSACTIONS, NIGHT)

    try:
        with pytest.raises(LandingError, match=r"is still being written: .* rename at the end"):
            read_again_and_again()
    finally:
        done.set()
        writer.join()


def test_a_file_that_may_not_be_read_is_refused_with_the_systems_own_words(tmp_path: Path) -> None:
    path = tmp_path / "transactions" / f"{NIGHT}.csv"
    path.parent.mkdir()
    path.write_text(GOOD)
    path.chmod(0)
    if os.getuid() != 0:
        with pytest.raises(LandingError, match="Permission denied"):
            landing.read(Settings(landing=str(tmp_path)), TRANSACTIONS, NIGHT)
        return
    # Root may read everything, so somebody else asks.
    program = f"""
import os, pathlib, datetime
from include.nightshift.errors import LandingError
from include.nightshift.ingest import landing
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import TRANSACTIONS
import pyarrow.csv, zstandard
os.seteuid(65534)
try:
    landing.read(Settings(landing={str(tmp_path)!r}), TRANSACTIONS, datetime.date({NIGHT.year}, {NIGHT.month}, {NIGHT.day}))
except LandingError as error:
    print(error)
"""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Permission denied" in done.stdout


@dataclass(frozen=True)
class Landed:
    """All files that land, brought in one run, and what went to quarantine."""

    settings: Settings
    done: Ingested
    quarantine: dict[date, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def landed(installation: Settings) -> Landed:
    nights = [drop(installation.landing_folder, what) for what in LANDS]
    assert nights == [nights[0] + timedelta(days=number) for number in range(len(nights))]
    session = lakehouse.connect(installation)
    done = ingest(session, installation, TRANSACTIONS, nights)
    query = "select * from silver.quarantine where day between :first and :last and feed = 'transactions' order by day, _row"
    found: dict[date, list[dict[str, Any]]] = {night: [] for night in nights}
    for row in rows(session, query, first=nights[0], last=nights[-1]):
        found[row["day"]].append(row)
    return Landed(installation, done, found)


@pytest.mark.lakehouse
@pytest.mark.parametrize("what", LANDS)
def test_rows_in_are_silver_plus_quarantine_each_with_its_rule_line_and_text(landed: Landed, what: str) -> None:
    done = landed.done
    path, night, name = named(what)
    accepted, broken = LANDS[what]
    assert (done.accepted[night], done.landed[night]) == (accepted, accepted + sum(broken.values()))
    assert counts(landed.settings, TRANSACTIONS, [night]) == {
        "bronze.transactions": accepted + sum(broken.values()),
        "silver.transactions": accepted,
        "silver.quarantine": sum(broken.values()),
    }
    quarantined = landed.quarantine[night]
    assert Counter(row["rule"] for row in quarantined) == broken
    assert {row["_source"] for row in quarantined} <= {f"transactions/{name}"}
    text = path.read_text(errors="replace").split("\n") if path.suffix in (".csv", ".jsonl") and b"\r" not in path.read_bytes() else None
    for row in quarantined:
        raw = json.loads(row["raw"])
        assert row["reason"]
        assert len(row["reason"]) < 250
        if text is not None:
            # The raw row is what stands on that line of the file.
            begins = str(raw.get("text") or raw["transaction_id"] or "")[:12]
            assert begins in text[row["_line"] - 1].replace('""', '"')


@pytest.mark.lakehouse
def test_values_come_through_exactly(landed: Landed, session: SparkSession) -> None:
    def silver(what: str, columns: str) -> list[tuple[Any, ...]]:
        query = f"select {columns} from silver.transactions where day = :night order by transaction_id"
        return [tuple(row.values()) for row in rows(session, query, night=named(what)[1])]

    zones = named("time-zones.csv")[1]
    assert silver("time-zones.csv", "cast(tx_datetime as string)") == [
        (f"{zones} 08:00:00",),
        (f"{zones} 08:00:00",),
        (f"{zones} 08:00:00.123456",),
    ]
    assert silver("exact-numbers.jsonl", "customer_id, cast(tx_amount as string)") == [(9007199254740993, "0.10")]
    assert silver("typed.parquet", "cast(tx_amount as string), second(tx_datetime)") == [("9.50", 0), ("0.10", 0)]
    assert silver("scientific.csv", "cast(tx_amount as string)") == [("9.50",), ("100.00",)]
    assert silver("key-overflow.csv", "transaction_id")[-1] == (9223372036854775807,)
    order = [verdict for verdict in landed.done.verdicts if verdict.rule == "same_order" and not verdict.passed]
    assert [verdict.night for verdict in order] == [named("reordered-columns.csv")[1]]


@pytest.mark.lakehouse
def test_the_same_ugly_files_again_do_nothing(landed: Landed, session: SparkSession) -> None:
    settings, nights = landed.settings, list(landed.done.landed)
    found = (tables.bronze(TRANSACTIONS), tables.silver(TRANSACTIONS), tables.QUARANTINE, tables.BATCHES, tables.CONTRACT_RESULTS)
    before = [log.version(settings, table) for table in found]
    again = ingest(session, settings, TRANSACTIONS, nights)
    assert again.unchanged == nights
    assert [log.version(settings, table) for table in found] == before


@pytest.mark.lakehouse
@pytest.mark.parametrize("what", STOPPED)
def test_a_batch_that_is_stopped_leaves_every_table_alone_until_somebody_lets_it_through(
    session: SparkSession, installation: Settings, what: str
) -> None:
    night = drop(installation.landing_folder, what)
    with pytest.raises(
        ContractError, match=rf"night {night}: the batch is stopped.*{STOPPED[what]}.*accept=(own_day|same_types)"
    ) as caught:
        ingest(session, installation, TRANSACTIONS, [night])
    assert set(counts(installation, TRANSACTIONS, [night]).values()) == {0}
    stops = [verdict for verdict in caught.value.verdicts if verdict.stops]
    stored = rows(session, "select rule, verdict from ops.contract_results where day = :night and severity = 'stop'", night=night)
    assert {row["rule"] for row in stored if row["verdict"] == "failed"} == {verdict.rule for verdict in stops}
    assert {verdict.rule for verdict in stops} <= {verdict.rule for verdict in caught.value.news}

    done = ingest(session, installation, TRANSACTIONS, [night], accept=[verdict.rule for verdict in stops])
    assert done.landed == {night: 30}
    assert counts(installation, TRANSACTIONS, [night])["bronze.transactions"] == 30
    # The decision holds for this very file, also when the night is run again without a word.
    assert ingest(session, installation, TRANSACTIONS, [night]).landed == {night: 30}
