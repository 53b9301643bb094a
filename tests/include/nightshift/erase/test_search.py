"""Search: a number planted in each kind of container is found, in each of its forms, and its neighbours are not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from deltalake import write_deltalake

from include.nightshift.erase.search import DEPTH, Wanted, everywhere, search
from include.nightshift.ingest.pseudonyms import TABLE as PSEUDONYMS
from include.nightshift.lakehouse import storage
from include.nightshift.settings import Settings

CARD, OTHER = 7_412_906_358_174_205_693, 7_412_906_358_174_205_694
AMOUNT = Decimal("917354.28")
WANTED = Wanted({"customer_id": frozenset({CARD}), "transaction_id": frozenset({8_100_000_000_000_000_017})})

Pack = Callable[[bytes], bytes]


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/model.json", content)
    return made.getvalue()


def in_sqlite(value: object, *, delete: bool = False, folder: Path | None = None) -> bytes:
    connection = sqlite3.connect(folder / "made.db" if folder else ":memory:")
    connection.execute("pragma secure_delete = off")  # some builds overwrite what is deleted
    connection.execute("create table t (a integer, note)")
    connection.executemany("insert into t values (?, ?)", [(1, "x"), (2, value), (3, "y")])
    connection.commit()
    if delete:
        connection.execute("delete from t where a = 2")
        connection.commit()
    made = connection.serialize()
    connection.close()
    return made


def in_parquet(column: pa.Array, **options: object) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table({"a": column}), made, **options)
    return made.getvalue()


PACKED: dict[str, Pack] = {
    "plain": lambda text: b"before " + text + b" after",
    "gzip": gzip.compress,
    "gzip of two members": lambda text: gzip.compress(b"first") + gzip.compress(text),
    "gzip cut short": lambda text: gzip.compress(text + bytes(range(256)) * 300)[:-400],
    "zstd": lambda text: zstandard.ZstdCompressor().compress(text),
    "zstd of two frames": lambda text: zstandard.ZstdCompressor().compress(b"first") + zstandard.ZstdCompressor().compress(text),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "gzip in zip in zstd": lambda text: zstandard.ZstdCompressor().compress(zipped(gzip.compress(text))),
    "SQLite text": lambda text: in_sqlite(text.decode()),
    "SQLite blob": in_sqlite,
    "SQLite compressed blob": lambda text: in_sqlite(gzip.compress(text)),
    "SQLite freed page": lambda text: in_sqlite(text.decode(), delete=True),
    "SQLite in gzip": lambda text: gzip.compress(in_sqlite(text.decode())),
    "Parquet text": lambda text: in_parquet(pa.array(["x", text.decode(), "y"]), compression="zstd"),
    "Parquet dictionary": lambda text: in_parquet(pa.array([text.decode()] * 99).dictionary_encode(), compression="gzip"),
    "Parquet struct of lists": lambda text: in_parquet(pa.array([{"b": [text.decode()]}]), compression="snappy"),
    "Parquet of a statistic": lambda text: in_parquet(pa.array([{"add": {"stats": '{"minValues":{"customer_id":' + text.decode()}}])),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_number_is_found_in_each_container_and_another_is_not(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / ".hidden"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(PACKED[kind](str(OTHER).encode()))
    clean = search(tmp_path, WANTED)
    assert (clean.hits, clean.files) == ([], 1)
    (folder / "file").write_bytes(PACKED[kind](str(CARD).encode()))
    assert [hit.split("!")[0] for hit in search(tmp_path, WANTED).hits[:1]] == ["deep/.hidden/file"]


NUMBERS: dict[str, Callable[[int], bytes]] = {
    "least significant byte first": lambda n: b"abc" + struct.pack("<q", n),
    "most significant byte first": lambda n: b"ab" + struct.pack(">q", n) + b"c",
    "at the end of a chunk": lambda n: bytes((1 << 24) - 3) + struct.pack("<q", n),
    "Parquet integers": lambda n: in_parquet(pa.array([1, n, 3]), compression="zstd"),
    "Parquet decimals": lambda n: in_parquet(pa.array([Decimal(n)], pa.decimal128(20, 0)), compression="zstd"),
    "Parquet list in gzip": lambda n: gzip.compress(in_parquet(pa.array([[1, n]]))),
    "SQLite integer": in_sqlite,
    "SQLite integer, deleted": lambda n: in_sqlite(n, delete=True),
    "beside other digits": lambda n: f"12{n}345".encode(),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_number_is_found_as_an_integer_too(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(NUMBERS[kind](OTHER))
    assert search(tmp_path, WANTED).hits == []
    (tmp_path / "file").write_bytes(NUMBERS[kind](CARD))
    assert search(tmp_path, WANTED).hits


def test_what_a_write_ahead_log_holds_and_names_of_files_and_folders_are_seen(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "airflow.db")
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table xcom (value text)")
    connection.execute("insert into xcom values (?)", (str(CARD),))
    connection.commit()
    (tmp_path / f"customer_id={CARD}").mkdir()
    (tmp_path / f"{CARD}.csv").touch()
    hits = search(tmp_path, WANTED).hits
    connection.close()
    assert {"airflow.db!xcom", "airflow.db-wal", f"customer_id={CARD} (its name)", f"{CARD}.csv (its name)"} <= set(hits)


def test_a_short_number_is_looked_for_under_the_name_of_its_column_only(tmp_path: Path) -> None:
    wanted = Wanted({"customer_id": frozenset({596})})
    (tmp_path / "notes.txt").write_text("596 rows")
    pq.write_table(pa.table({"terminal_id": [596], "customer_id": [5960]}), tmp_path / "other.parquet")
    assert search(tmp_path, wanted).hits == []
    pq.write_table(pa.table({"customer_id": [1, 596]}), tmp_path / "typed.parquet")
    pq.write_table(pa.table({"customer_id": ["1", " 596 "]}), tmp_path / "text.parquet")
    connection = sqlite3.connect(tmp_path / "some.db")
    connection.execute("create table t (customer_id text)")
    connection.execute("insert into t values ('596')")
    connection.commit()
    connection.close()
    assert sorted(search(tmp_path, wanted).hits) == ["some.db!t", "text.parquet!customer_id", "typed.parquet!customer_id"]


@pytest.mark.parametrize("form", [str(AMOUNT).encode(), struct.pack("<d", float(AMOUNT)), struct.pack(">d", float(AMOUNT))])
def test_an_amount_is_found_as_text_and_as_a_float(form: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(gzip.compress(b"x" + form))
    assert search(tmp_path, Wanted({}, frozenset({AMOUNT}))).hits == ["file!gzip"]


def test_containers_without_end_are_a_hit_because_nobody_looked_inside(tmp_path: Path) -> None:
    content = b"nothing"
    for _ in range(DEPTH + 2):
        content = gzip.compress(content)
    (tmp_path / "matryoshka").write_bytes(content)
    [hit] = search(tmp_path, WANTED).hits
    assert hit.endswith(f"(a container within {DEPTH} others, not opened)")


def test_a_file_that_only_begins_like_a_container_is_searched_as_it_is(tmp_path: Path) -> None:
    for name, head in {"a": b"PAR1", "b": b"SQLite format 3\0", "c": b"\x1f\x8b", "d": b"PK\x03\x04", "e": b"\x28\xb5\x2f\xfd"}.items():
        (tmp_path / name).write_bytes(head + str(CARD).encode() + head)
    assert sorted(search(tmp_path, WANTED).hits) == ["a", "b", "c", "d", "e"]


def test_what_is_to_be_skipped_and_links_are(tmp_path: Path) -> None:
    (tmp_path / "request").write_text(str(CARD))
    (tmp_path / "link").symlink_to(tmp_path / "request")
    assert search(tmp_path, WANTED, skipping=[tmp_path / "request"]).hits == []


@pytest.mark.parametrize("place", ["home-lake", "home/linked", "far"])
def test_tables_are_searched_wherever_they_lie(place: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "lake").mkdir()
    (tmp_path / "home/linked").symlink_to(tmp_path / "lake")
    settings = Settings(home=tmp_path / "home", lakehouse=str(tmp_path / place))
    write_deltalake(storage.location(settings, PSEUDONYMS), pa.table({"value": [str(CARD), str(OTHER)]}))
    hits = everywhere(settings, [PSEUDONYMS], WANTED).hits
    assert {hit.rpartition("/")[0] for hit in hits} == {f"{PSEUDONYMS}", f"{PSEUDONYMS}/_delta_log"}


def test_tables_within_the_home_are_searched_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    write_deltalake(storage.location(settings, PSEUDONYMS), pa.table({"value": [str(CARD)]}))
    hits = everywhere(settings, [PSEUDONYMS], WANTED).hits
    assert len(hits) == len(set(hits))
    assert all(hit.startswith("lakehouse/") for hit in hits)
