"""Cut: rows go, everything else stays as it came, in each format and compression."""

from __future__ import annotations

import gzip
import io
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.nightshift.ingest import formats, landing
from include.nightshift.ingest.cut import cut
from include.usecases.card_fraud.usecase import TRANSACTIONS

NIGHT = date(2026, 11, 20)
HEADER = b"transaction_id,tx_datetime,customer_id,terminal_id,tx_amount"
PACK = {"": bytes, ".gz": gzip.compress, ".zst": lambda plain: zstandard.ZstdCompressor().compress(plain)}


def unpacked(content: bytes, suffix: str) -> bytes:
    return formats.decompress(content, suffix.removeprefix("."))


@pytest.mark.parametrize("suffix", PACK)
def test_lines_of_csv_go_and_the_others_keep_their_bytes(suffix: str) -> None:
    lines = [
        b"\xef\xbb\xbf" + HEADER,
        b'1,"2026-11-20 08:00:00", 11 ,21,9.50',
        b"2,x,12,22,1",
        b"",
        b"3,cut",
        b"4,\xff,14,24,4",
        b"5,,15,25,5",
    ]
    content = b"\r\n".join(lines)
    left = unpacked(cut(f"{NIGHT}.csv{suffix}", PACK[suffix](content), TRANSACTIONS, {2, 4}), suffix)
    assert left == b"\r\n".join([*lines[:2], b"3,cut", b"5,,15,25,5"])


def test_a_row_of_several_lines_goes_whole_and_one_beside_it_stays() -> None:
    rows = [b'1,"a\nb",11,21,1\n', b'2,"c\n\nd",12,22,2\n', b"3,e,13,23,3\n"]
    for gone in ({1}, {2}, {3}, {1, 3}):
        kept = b"".join(row for number, row in enumerate(rows, 1) if number not in gone)
        assert cut(f"{NIGHT}.csv", HEADER + b"\n" + b"".join(rows), TRANSACTIONS, gone) == HEADER + b"\n" + kept


def test_where_quotes_leave_the_lines_open_the_rows_are_written_anew() -> None:
    # A quote within a value: the two readers part it differently.
    content = HEADER + b'\n1,a"b,11,21,1\n2,"c\nd",12,22,2\n\n3,e"",13,23,3\n'
    before = formats.csv(content)
    left = formats.csv(cut(f"{NIGHT}.csv", content, TRANSACTIONS, {2}))
    names = [*before.columns, "_malformed", "_text"]
    wanted = [row for row in before.table.to_pylist() if row["_row"] != 2]
    assert left.table.select(names).to_pylist() == [{name: row[name] for name in names} for row in wanted]


@pytest.mark.parametrize("suffix", PACK)
def test_lines_of_json_go_and_a_file_of_no_line_is_still_whole(suffix: str) -> None:
    lines = [b'{"transaction_id": 1, "customer_id": 11}', b"", b"no json", b'{"customer_id": 12,  "transaction_id": 2}']
    packed = PACK[suffix](b"\n".join(lines))
    assert unpacked(cut(f"{NIGHT}.jsonl{suffix}", packed, TRANSACTIONS, {1}), suffix) == b"\n".join(lines[1:])
    assert unpacked(cut(f"{NIGHT}.jsonl{suffix}", packed, TRANSACTIONS, {2, 3}), suffix) == b"\n".join(lines[:2])
    nothing = cut(f"{NIGHT}.jsonl{suffix}", packed, TRANSACTIONS, {1, 2, 3})
    assert landing.parted(f"{NIGHT}.jsonl{suffix}", nothing, TRANSACTIONS).table.num_rows == 0


@pytest.mark.parametrize("codec", ["zstd", "snappy", "none", "gzip"])
def test_parquet_keeps_types_metadata_codec_and_groups(codec: str) -> None:
    table = pa.table({"transaction_id": pa.array(range(1, 8), pa.int64()), "customer_id": pa.array(["a", None, "b", "c", "d", "e", "f"])})
    table = table.replace_schema_metadata({b"nightshift.pull": b'{"since": null}'})
    made = io.BytesIO()
    pq.write_table(table, made, compression=codec, row_group_size=3)
    left = pq.ParquetFile(io.BytesIO(cut(f"{NIGHT}.parquet", made.getvalue(), TRANSACTIONS, {1, 5})))
    assert left.schema_arrow.equals(table.schema, check_metadata=True)
    assert left.read()["transaction_id"].to_pylist() == [2, 3, 4, 6, 7]
    assert [left.metadata.row_group(number).num_rows for number in range(left.num_row_groups)] == [3, 2]
    wanted = "UNCOMPRESSED" if codec == "none" else codec.upper()
    assert left.metadata.row_group(0).column(0).compression == wanted


@pytest.mark.parametrize("name", ["csv.gz", "csv.zst", "jsonl.gz", "parquet"])
def test_the_same_file_cut_again_gives_the_same_bytes(name: str) -> None:
    made = io.BytesIO()
    pq.write_table(pa.table({"customer_id": [1, 2, 3]}), made)
    plain = {"csv": b"customer_id,b\n1,1\n2,2\n3,3\n", "jsonl": b'{"a": 1}\n{"a": 2}\n{"a": 3}\n', "parquet": made.getvalue()}
    form, _, suffix = name.partition(".")
    content = PACK[f".{suffix}" if suffix else ""](plain[form])
    assert cut(f"{NIGHT}.{name}", content, TRANSACTIONS, {2}) == cut(f"{NIGHT}.{name}", content, TRANSACTIONS, {2})


VALUES = st.text(st.sampled_from('ab1 "\n\r,;é'), max_size=6)


@given(st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=8), st.data(), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_file_holds_the_rows_that_stay_read_as_before(rows: list[list[str]], data: st.DataObject, newline: str) -> None:
    quoted = newline.join(["a,b", *(",".join('"' + value.replace('"', '""') + '"' for value in row) for row in rows)])
    content = (quoted + newline).encode()
    before = formats.csv(content)
    gone = data.draw(st.sets(st.sampled_from(before.table["_row"].to_pylist()))) if before.table.num_rows else set()
    left = formats.csv(cut(f"{NIGHT}.csv", content, TRANSACTIONS, gone))
    names = [*before.columns, "_malformed", "_text"]
    wanted = [row for row in before.table.to_pylist() if row["_row"] not in gone]
    assert left.table.select(names).to_pylist() == [{name: row[name] for name in names} for row in wanted]
