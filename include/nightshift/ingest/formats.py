"""Formats: a landed file's bytes, parted into rows of text. Every row comes out, those that cannot be parted as they stand.

A table of rows has the file's columns as text, and beside them `_row` (from 1, header not counted), `_line` (from 1, null where a
file's quoting leaves it open, or the format has no lines), `_malformed` (why the row could not be parted, else null), `_text` (that
row as it came, else null).
"""

from __future__ import annotations

import csv as python_csv
import functools
import gzip
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

PROVENANCE = ("_row", "_line", "_malformed", "_text")

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class FormatError(ValueError):
    """The bytes are no whole file of their format; the message says what is wrong with them."""


@dataclass(frozen=True)
class Rows:
    """What a file holds."""

    columns: list[str]
    """The file's columns, in its order."""
    table: pa.Table
    retyped: dict[str, str]
    """Columns whose stored type cannot hold what is wanted, with that type; only formats with types have any."""


def decompress(content: bytes, compression: str) -> bytes:
    """The content of a `gz`, `zst` or plain (``) file.

    Raises:
        FormatError: it is cut short, damaged, not compressed at all, or compressed twice.
    """
    import zstandard

    if not content:
        raise FormatError("is empty")
    try:
        match compression:
            case "gz":
                plain = gzip.decompress(content)
            case "zst":
                plain = _frames(content)
            case _:
                plain = content
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise FormatError(f"is no whole {compression} file: {error}") from error
    if plain.startswith((_GZIP, _ZSTD)):
        raise FormatError("is compressed twice" if compression else "is compressed, which its name does not say")
    return plain


def _frames(content: bytes) -> bytes:
    """All frames of a Zstandard file; the library itself passes over a last one that is cut short."""
    import zstandard

    plain: list[bytes] = []
    while content:
        frame = zstandard.ZstdDecompressor().decompressobj()
        plain.append(frame.decompress(content))
        if not frame.eof:
            raise EOFError("the last frame is not whole")
        content = frame.unused_data
    return b"".join(plain)


def csv(content: bytes) -> Rows:
    """CSV with one header line, UTF-8 (a byte order mark may stand before it), values quoted with `"` or not.

    Raises:
        FormatError: no header, another encoding, or a quote that is opened and never closed.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    _check_encoding(content)
    content = content.removeprefix(b"\xef\xbb\xbf")
    header = content.split(b"\n", 1)[0].split(b"\r", 1)[0]
    columns = next(python_csv.reader([header.decode("utf-8", "backslashreplace")]), [])
    columns = [name.strip() for name in columns]
    if len(set(columns)) != len(columns) or not columns:
        return Rows(columns, pa.table({}), {})
    # A line of its own after the last: when it does not come out as the last row, the end lies within quotes.
    end = b"nightshift-end" + b"," * len(columns)
    ended = content + (b"" if content.endswith((b"\n", b"\r")) else b"\n") + end + b"\n"
    # Arrow refuses a whole file for one row that it cannot part and that is no UTF-8. Each byte is made a character for it, and back.
    strange = not _is_utf8(content)
    ended = ended.decode("latin-1").encode() if strange else ended
    refused: list[tuple[int, str, str]] = []

    def refuse(row: arrow_csv.InvalidRow) -> str:
        text = row.text.encode("latin-1").decode("utf-8", "backslashreplace") if strange else row.text
        refused.append((row.number - 1, text, f"{row.actual_columns} columns, expected {row.expected_columns}"))
        return "skip"

    try:
        table = arrow_csv.read_csv(
            io.BytesIO(ended),
            # One thread, because only then a refused row has its number; one block, because a row may be as long as the file.
            read_options=arrow_csv.ReadOptions(
                use_threads=False, column_names=columns, skip_rows=1, block_size=min(len(ended) + 1, 2**31 - 1)
            ),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
            convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.binary()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise FormatError(f"is no readable CSV: {error}") from error
    if not refused or refused[-1][1] != end.decode():
        raise FormatError("has a quote that is opened and never closed: what follows it cannot be told apart")
    refused.pop()
    for number, name in enumerate(columns if strange else ()):
        table = table.set_column(
            number, name, pa.array([value.decode().encode("latin-1") for value in table[name].to_pylist()], pa.binary())
        )
    return _parted(table, columns, refused, content)


def _check_encoding(content: bytes) -> None:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FormatError("is UTF-16; land it as UTF-8")


def _parted(table: pa.Table, columns: list[str], refused: list[tuple[int, str, str]], content: bytes) -> Rows:
    """Good and refused rows together, in the file's order, each with its line."""
    import numpy as np
    import pyarrow as pa

    bad = np.array([number for number, _, _ in refused], dtype=np.int64)
    numbers = np.setdiff1d(np.arange(1, table.num_rows + len(bad) + 1, dtype=np.int64), bad, assume_unique=True)
    good, undecodable = _decoded(table, columns, numbers)
    schema = pa.schema(
        [*((name, pa.string()) for name in columns), ("_row", pa.int64()), ("_malformed", pa.string()), ("_text", pa.string())]
    )
    rows = good.cast(schema)
    if apart := [{"_row": number, "_malformed": why, "_text": text} for number, text, why in [*refused, *undecodable]]:
        rows = pa.concat_tables([rows, pa.Table.from_pylist(apart, schema=schema)]).sort_by("_row")
    lines = _lines(rows["_row"].to_numpy(), content)
    table = rows.append_column("_line", pa.nulls(rows.num_rows, pa.int64()) if lines is None else pa.array(lines, pa.int64()))
    return Rows(columns, table.select([*columns, *PROVENANCE]), {})


def _decoded(table: pa.Table, columns: list[str], numbers: Any) -> tuple[pa.Table, list[tuple[int, str, str]]]:
    """Text from bytes; rows with a NUL, or with bytes that are no UTF-8, apart."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbered = table.append_column("_row", pa.array(numbers, pa.int64()))
    for name in ("_malformed", "_text"):
        numbered = numbered.append_column(name, pa.nulls(table.num_rows, pa.string()))
    odd = functools.reduce(pc.or_, [_undecodable(table[name]) for name in columns])
    if not pc.any(odd).as_py():
        return numbered, []
    apart = []
    for record in numbered.filter(odd).to_pylist():
        text = ",".join(record[name].decode("utf-8", "backslashreplace") for name in columns)
        why = "a NUL byte" if any(b"\x00" in record[name] for name in columns) else "bytes that are no UTF-8"
        apart.append((record["_row"], text, why))
    return numbered.filter(pc.invert(odd)), apart


def _undecodable(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    nul = pc.match_substring(values, b"\x00")
    try:
        values.cast(pa.string())  # Arrow has no kernel that asks a value whether it is UTF-8: a cast of all of them says so
    except pa.ArrowInvalid:
        return pc.or_(nul, pa.chunked_array([pa.array([not _is_utf8(value) for value in values.to_pylist()], pa.bool_())]))
    return nul


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lines(numbers: Any, content: bytes) -> Any:
    """The line on which each row begins; None where quotes and blank lines together leave it open."""
    import numpy as np

    body = content.rstrip(b"\r\n")
    newline = b"\n" if b"\n" in body or b"\r" not in body else b"\r"
    if body.count(newline) == len(numbers):
        return numbers + 1
    if b'"' not in content:
        stripped = [line.strip(b"\r") for line in content.split(newline)]
        filled = np.flatnonzero([bool(line) for line in stripped]) + 1
        return filled[1:] if len(filled) == len(numbers) + 1 else None
    begins, reader, before = [], python_csv.reader(io.StringIO(content.decode("utf-8", "replace").replace("\x00", "?"), newline="")), 0
    limit = python_csv.field_size_limit(max(len(content), 131072))
    try:
        for record in reader:
            if record:
                begins.append(before + 1)
            before = reader.line_num
    except python_csv.Error:
        return None
    finally:
        python_csv.field_size_limit(limit)
    return np.array(begins[1:], dtype=np.int64) if len(begins) == len(numbers) + 1 else None


def json_lines(content: bytes, wanted: Sequence[str]) -> Rows:
    """One JSON object a line, UTF-8. Numbers keep the text they came with; what a line lacks is null."""
    import pyarrow as pa

    _check_encoding(content)
    content = content.removeprefix(b"\xef\xbb\xbf")
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    malformed: list[str | None] = []
    texts: list[str | None] = []
    for line, text in enumerate(content.split(b"\n"), 1):
        if not text.strip():
            continue
        values, why = _object(text)
        lines.append(line)
        objects.append(values)
        malformed.append(why)
        texts.append(None if why is None else text.decode("utf-8", "backslashreplace").replace("\x00", "\\x00"))
    seen = dict.fromkeys(name for values in objects for name in values)
    # An empty night has no line to name its columns.
    columns = [name for name in wanted if name in seen or not objects] + [name for name in seen if name not in wanted]
    arrays: dict[str, Any] = {name: pa.array([_text(values.get(name)) for values in objects], pa.string()) for name in columns}
    arrays |= {"_row": pa.array(range(1, len(objects) + 1), pa.int64()), "_line": pa.array(lines, pa.int64())}
    arrays |= {"_malformed": pa.array(malformed, pa.string()), "_text": pa.array(texts, pa.string())}
    return Rows(columns, pa.table(arrays), {})


def _object(text: bytes) -> tuple[dict[str, Any], str | None]:
    """The object on a line; nothing, and why, where the line holds none."""
    try:
        values = _DECODER.decode(text.decode())
        if not isinstance(values, dict):
            return {}, f"no JSON object: a {type(values).__name__}"
        if b"\\u" in text:
            written = "".join(name + (_text(value) or "") for name, value in values.items())
            if "\x00" in written:
                return {}, "no JSON object: a NUL byte"
            if not _is_utf8(written.encode(errors="surrogatepass")):
                return {}, "no JSON object: half of a surrogate pair"
    except (ValueError, RecursionError) as error:
        return {}, f"no JSON object: {'bytes that are no UTF-8' if isinstance(error, UnicodeDecodeError) else error}"
    return values, None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands twice")
    return values


_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_once)


def _text(value: Any) -> str | None:
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case _:
            return json.dumps(value, ensure_ascii=False)


def parquet(content: bytes, types: dict[str, str]) -> Rows:
    """Parquet whose columns have, or safely become, the wanted SQL types; text stands for any type.

    Raises:
        FormatError: it is no whole Parquet file.
    """
    import pyarrow as pa
    from pyarrow import parquet as arrow_parquet

    try:
        table = arrow_parquet.read_table(io.BytesIO(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"is no whole Parquet file: {error}") from error
    retyped, columns = {}, {}
    for name in table.column_names:
        values = table[name]
        if name in types and not _holds(values.type, types[name]):
            retyped[name] = str(values.type)
        elif name in types:
            columns[name] = _as_text(values)
    numbers = pa.array(range(1, table.num_rows + 1), pa.int64())
    empty = pa.nulls(table.num_rows, pa.string())
    provenance = {"_row": numbers, "_line": pa.nulls(table.num_rows, pa.int64()), "_malformed": empty, "_text": empty}
    return Rows(list(table.column_names), pa.table(columns | provenance), retyped)


def _holds(found: pa.DataType, wanted: str) -> bool:
    """Whether values of a Parquet type can be read as the SQL type without guessing."""
    from pyarrow import types

    if types.is_dictionary(found):
        found = found.value_type
    if types.is_string(found) or types.is_large_string(found) or types.is_null(found):
        return True
    number = types.is_decimal(found) or types.is_integer(found)
    holds: dict[str, Callable[[], bool]] = {
        "bigint": lambda: types.is_integer(found),
        "int": lambda: types.is_integer(found),
        "decimal": lambda: number or types.is_floating(found),
        "double": lambda: number or types.is_floating(found),
        "timestamp": lambda: types.is_timestamp(found),
        "date": lambda: types.is_date(found),
        "string": lambda: False,
    }
    return holds[wanted.split("(")[0]]()


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values as the text that a CSV would have: instants in UTC, microseconds."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if types.is_timestamp(values.type):
        # Text without a zone is UTC; with a zone Arrow holds UTC anyway.
        return pc.strftime(values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.timestamp("us", "UTC")), "%Y-%m-%d %H:%M:%S")
    return values.cast(pa.string())
