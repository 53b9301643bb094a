"""Ugly files: each is read, parted into good and malformed rows, or refused whole; never guessed at, never half taken."""

import csv
import gzip
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.nightshift.errors import ContractError, LandingError, NightError
from include.nightshift.ingest import landing
from include.nightshift.ingest.landing import Drop
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import FRAUD_LABELS, TRANSACTIONS

NIGHT = date(2026, 11, 20)
HEADER = b"transaction_id,tx_datetime,customer_id,terminal_id,tx_amount"
GOOD = b"1,2026-11-20 08:00:00,11,21,9.50"
NAMES = [column.name for column in TRANSACTIONS.columns]
UGLY = Path(__file__).parents[3] / "data" / "landing" / "ugly.csv"

Read = Callable[[bytes], Drop]


def store(folder: Path, compressed: bytes) -> Drop | None:
    path = folder / "transactions" / f"{NIGHT}.csv.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(compressed)
    return landing.read(Settings(landing=str(folder)), TRANSACTIONS, NIGHT)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read_content(content: bytes) -> Drop:
        drop = store(tmp_path, gzip.compress(content))
        assert drop is not None
        return drop

    return read_content


def test_a_good_file_comes_as_text_with_row_numbers_and_the_digest_of_its_bytes(read: Read) -> None:
    drop = read(HEADER + b"\n" + GOOD + b"\n2,,12,22,\n")
    assert drop.table.select([*NAMES, "_row", "_line"]).to_pylist() == [
        {
            "transaction_id": "1",
            "tx_datetime": "2026-11-20 08:00:00",
            "customer_id": "11",
            "terminal_id": "21",
            "tx_amount": "9.50",
            "_row": 1,
            "_line": 2,
        },
        {"transaction_id": "2", "tx_datetime": "", "customer_id": "12", "terminal_id": "22", "tx_amount": "", "_row": 2, "_line": 3},
    ]
    assert (drop.source, drop.malformed, len(drop.batch)) == ("transactions/2026-11-20.csv.gz", [], 64)
    assert read(HEADER + b"\n" + GOOD + b"\n").batch != drop.batch


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + HEADER + b"\n" + GOOD + b"\n",
        HEADER + b"\r\n" + GOOD + b"\r\n",
        HEADER + b"\n" + GOOD,
        b'"transaction_id","tx_datetime","customer_id","terminal_id","tx_amount"\n"1","2026-11-20 08:00:00","11","21","9.50"\n',
        b"tx_amount,terminal_id,customer_id,tx_datetime,transaction_id\n9.50,21,11,2026-11-20 08:00:00,1\n",
    ],
    ids=["byte order mark", "carriage returns", "no newline at the end", "all quoted", "columns in another order"],
)
def test_a_file_written_by_another_hand_reads_the_same(read: Read, content: bytes) -> None:
    drop = read(content)
    assert drop.malformed == []
    assert [drop.table[name][0].as_py() for name in NAMES] == GOOD.decode().split(",")


def test_a_quoted_newline_stays_within_its_value(read: Read) -> None:
    drop = read(HEADER + b'\n1,"2026-11-20\n08:00:00",11,21,9.50\n' + GOOD.replace(b"1,", b"2,", 1) + b"\n")
    assert drop.table["tx_datetime"].to_pylist() == ["2026-11-20\n08:00:00", "2026-11-20 08:00:00"]
    assert drop.rows == 2


def test_broken_rows_are_handed_on_with_their_line_and_text_and_the_rest_is_kept() -> None:
    drop = store_ugly()
    assert {(bad["_row"], bad["_line"]): bad["_malformed"] for bad in drop.malformed} == {
        (2, 3): "3 columns, expected 5",
        (4, 5): "6 columns, expected 5",
        (5, 6): "bytes that are no UTF-8",
    }
    assert drop.malformed[0]["_text"] == "2,2026-11-20 08:01:00,12"
    assert drop.table["_row"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert drop.table["transaction_id"].to_pylist() == ["1", None, "3", None, None, "6"]


def store_ugly() -> Drop:
    """The ugly file of the test data, through the same door."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        drop = store(Path(folder), gzip.compress(UGLY.read_bytes()))
    assert drop is not None
    return drop


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"transaction_id,tx_datetime,customer_id,terminal_id", r"missing \['tx_amount'\], unknown \[\]"),
        (HEADER + b",card_number", r"missing \[\], unknown \['card_number'\]"),
        (HEADER.replace(b"tx_amount", b"amount"), r"missing \['tx_amount'\], unknown \['amount'\]"),
        (HEADER.replace(b"tx_amount", b"customer_id"), r"missing \['tx_amount'\]"),
        (GOOD, "has the columns"),
    ],
    ids=["missing", "extra", "renamed", "twice", "no header"],
)
def test_a_file_with_other_columns_is_refused_whole_and_says_which(read: Read, header: bytes, message: str) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        read(header + b"\n" + GOOD + b"\n")
    assert [(verdict.rule, verdict.kind, verdict.stops) for verdict in caught.value.verdicts] == [("same_columns", "schema", True)]


def test_a_file_of_zero_bytes_that_are_not_even_gzip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LandingError, match=r"transactions, night 2026-11-20: .* is empty"):
        store(tmp_path, b"")


def test_a_header_alone_is_a_night_without_rows(read: Read) -> None:
    assert read(HEADER + b"\n").rows == 0
    assert read(HEADER).rows == 0


@pytest.mark.parametrize("cut", [5, 20, -9, -1])
def test_a_gzip_file_cut_anywhere_is_refused_whole(tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(HEADER + b"\n" + b"\n".join([GOOD] * 50))
    with pytest.raises(LandingError, match=r"is no whole gz file.*Land the file again"):
        store(tmp_path, whole[:cut])


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(HEADER + b"\n" + b"\n".join([GOOD] * 50)))
    whole[-6] ^= 1
    with pytest.raises(LandingError, match="is no whole gz file"):
        store(tmp_path, bytes(whole))


def test_plain_text_under_a_gzip_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LandingError, match="is no whole gz file"):
        store(tmp_path, HEADER + b"\n" + GOOD + b"\n")


def test_a_missing_file_is_an_error_within_the_feeds_span_and_an_empty_night_outside(tmp_path: Path) -> None:
    with pytest.raises(LandingError, match=r"no file .*NIGHTSHIFT_FEED_SPANS=transactions=FIRST..LAST"):
        landing.read(Settings(landing=str(tmp_path)), TRANSACTIONS, NIGHT)
    assert landing.read(Settings(landing=str(tmp_path)), replace(TRANSACTIONS, first_drop=date(2026, 11, 21)), NIGHT) is None
    assert landing.read(Settings(landing=str(tmp_path)), replace(TRANSACTIONS, last_drop=date(2026, 11, 19)), NIGHT) is None


def test_feeds_owe_drops_from_the_first_file_that_stands_there(tmp_path: Path) -> None:
    folder = tmp_path / "transactions"
    folder.mkdir()
    for name in ("2026-05-02.csv.gz", "2026-05-01.parquet", "2026-04-01.csv.gz.tmp"):
        (folder / name).touch()
    assert landing.spans(Settings(landing=str(tmp_path)), [TRANSACTIONS]) == {"transactions": (date(2026, 5, 1), None)}
    with pytest.raises(LandingError, match=r"fraud_labels holds no <night>\{\.csv,.*\}: name the folder above your feeds"):
        landing.spans(Settings(landing=str(tmp_path)), [TRANSACTIONS, FRAUD_LABELS])
    (folder / "2026-02-30.csv.gz").touch()
    with pytest.raises(NightError, match="the first file of transactions '2026-02-30' is no night"):
        landing.spans(Settings(landing=str(tmp_path)), [TRANSACTIONS])


def test_a_folder_in_the_files_place_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "transactions" / f"{NIGHT}.csv.gz").mkdir(parents=True)
    with pytest.raises(LandingError, match="cannot be read"):
        landing.read(Settings(landing=str(tmp_path)), TRANSACTIONS, NIGHT)


VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6),
    st.sampled_from(["", '"', "a\nb", "a\r\nb", "1,2", "NULL", " 7 ", "\ufeff", "é"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.lists(VALUES, min_size=5, max_size=5), st.lists(VALUES, min_size=2, max_size=8)), max_size=12))
def test_rows_are_the_table_plus_the_malformed_whatever_stands_in_them(tmp_path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([NAMES, *rows])
    drop = store(tmp_path, gzip.compress(text.getvalue().encode()))
    assert drop is not None
    assert drop.rows == len(rows)
    assert {bad["_row"] for bad in drop.malformed} == {number for number, row in enumerate(rows, 1) if len(row) != 5}
    for record in drop.table.to_pylist():
        if record["_malformed"] is None:
            assert [record[name] for name in NAMES] == rows[record["_row"] - 1]
