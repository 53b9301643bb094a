"""The parsers: whatever bytes come, every row comes out once, in order, or the file is refused; nothing else is raised."""

from __future__ import annotations

import gzip
import io
import json
import re

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from include.nightshift.ingest import formats
from include.nightshift.ingest.formats import FormatError, Rows

HEADER = b"a,b\n"
PIECES = st.sampled_from([*(bytes([byte]) for byte in b',"\n\r1x \xff\x00'), b"\r\n", b"\xef\xbb\xbf", b"nightshift-end", "é".encode()])
BYTES = st.one_of(st.lists(PIECES, max_size=40).map(b"".join), st.binary(max_size=60))
TEXT = st.text(st.characters() | st.sampled_from("\x00\ud83d\ude00"))
"""All that JSON can write, NUL and halves of a pair of surrogates with it."""


def assert_whole(rows: Rows) -> None:
    """Rows are numbered without a gap, and each either has its columns or says why not, with its text."""
    assert rows.table["_row"].to_pylist() == list(range(1, rows.table.num_rows + 1))
    for record in rows.table.to_pylist():
        assert (record["_malformed"] is None) == (record["_text"] is None)
        if record["_malformed"] is not None:
            assert all(record[name] is None for name in rows.columns)


@settings(max_examples=400, deadline=None)
@given(BYTES)
def test_any_bytes_below_a_header_are_rows_or_are_refused(content: bytes) -> None:
    try:
        rows = formats.csv(HEADER + content)
    except FormatError:
        return
    assert_whole(rows)
    lines = [line for line in rows.table["_line"].to_pylist() if line is not None]
    assert lines == sorted(set(lines))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=12).map(lambda line: line.translate(None, b'\n\r"')), max_size=12))
def test_without_quotes_rows_are_the_lines_that_are_not_blank_each_with_its_own_number(lines: list[bytes]) -> None:
    rows = formats.csv(HEADER + b"\n".join([*lines, b""]))
    assert_whole(rows)
    assert rows.table["_line"].to_pylist() == [number for number, line in enumerate(lines, 2) if line]
    for record in rows.table.to_pylist():
        line = lines[record["_line"] - 2]
        shown = record["_text"] if record["_malformed"] else ",".join((record["a"], record["b"]))
        assert shown == line.decode("utf-8", "backslashreplace")


@settings(max_examples=300, deadline=None)
@given(st.one_of(BYTES, st.text(max_size=40).map(str.encode)))
def test_any_bytes_are_lines_of_objects_or_of_what_is_none(content: bytes) -> None:
    try:
        rows = formats.json_lines(content, ["a", "b"])
    except FormatError:
        return
    assert_whole(rows)
    body = content.removeprefix(b"\xef\xbb\xbf")
    assert rows.table.num_rows == sum(bool(line.strip()) for line in body.split(b"\n"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.none() | st.integers() | TEXT | st.lists(TEXT, min_size=1, max_size=1))))
def test_objects_come_out_as_the_text_they_hold_or_say_that_no_table_can_hold_it(objects: list[dict[str, object]]) -> None:
    lines = [json.dumps(values) for values in objects]
    rows = formats.json_lines("\n".join(lines).encode(), ["a", "b"])
    assert_whole(rows)
    # Read back, for two halves written one after the other are a whole.
    for held, wanted in zip(rows.table.to_pylist(), map(json.loads, lines), strict=True):
        texts = {name: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value) for name, value in wanted.items()}
        if any("\x00" in text or re.search("[\ud800-\udfff]", text) for text in texts.values()):
            assert held["_malformed"] in ("no JSON object: a NUL byte", "no JSON object: half of a surrogate pair")
            continue
        for name in rows.columns:
            assert held[name] == (None if wanted.get(name) is None else texts[name])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["", "gz", "zst"]), st.integers(0, 200))
def test_compressed_content_comes_back_or_is_refused_when_it_was_cut(content: bytes, compression: str, cut: int) -> None:
    packed = {"": content, "gz": gzip.compress(content), "zst": zstandard.compress(content)}[compression]
    if packed and not content.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        assert formats.decompress(packed, compression) == content
    if compression and cut < len(packed):
        with pytest.raises(FormatError):
            formats.decompress(packed[:cut], compression)


def test_a_compressed_file_may_have_several_parts() -> None:
    assert formats.decompress(gzip.compress(b"a,b\n") + gzip.compress(b"1,2\n"), "gz") == b"a,b\n1,2\n"
    assert formats.decompress(zstandard.compress(b"a,b\n") + zstandard.compress(b"1,2\n"), "zst") == b"a,b\n1,2\n"


@pytest.mark.parametrize(
    ("values", "wanted", "text"),
    [
        (pa.array([1, None], pa.int8()), "bigint", ["1", None]),
        (pa.array([2**63], pa.uint64()), "bigint", ["9223372036854775808"]),
        (pa.array([0.1, 1e300]), "double", ["0.1", "1e+300"]),
        (pa.array([0.1], pa.float32()), "decimal(12,2)", ["0.1"]),
        (pa.array(["x"], pa.large_string()), "int", ["x"]),
        (pa.array([1_700_000_000_000_000_001], pa.timestamp("ns", "Asia/Tokyo")), "timestamp", ["2023-11-14 22:13:20.000000"]),
        (pa.array([19_000], pa.date32()), "date", ["2022-01-08"]),
        (pa.nulls(1), "timestamp", [None]),
    ],
)  # fmt: skip
def test_parquet_columns_become_the_text_that_a_csv_would_have(values: pa.Array, wanted: str, text: list[str | None]) -> None:
    written = io.BytesIO()
    parquet.write_table(pa.table({"a": values}), written)
    rows = formats.parquet(written.getvalue(), {"a": wanted})
    assert rows.retyped == {}
    assert rows.table["a"].to_pylist() == text


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (pa.array([True]), "int"),
        (pa.array([1.5]), "bigint"),
        (pa.array([1], pa.timestamp("us")), "date"),
        (pa.array([1], pa.date32()), "timestamp"),
        (pa.array([1]), "string"),
        (pa.array([[1]]), "bigint"),
        (pa.array([b"1"]), "bigint"),
    ],
)
def test_parquet_columns_of_another_type_are_told_and_never_converted(values: pa.Array, wanted: str) -> None:
    written = io.BytesIO()
    parquet.write_table(pa.table({"a": values}), written)
    assert formats.parquet(written.getvalue(), {"a": wanted}).retyped.keys() == {"a"}
