"""Cut: a landed file without some of its rows. What stays, stays as it came, byte for byte where the format knows lines.

Compressed files are compressed anew; Parquet is written anew, with its schema, what it says of itself, and its groups' size. The same
file and rows give the same bytes, so that a copy of the old file, cut again, is known.
"""

from __future__ import annotations

import csv as python_csv
import gzip
import io
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from include.nightshift.ingest import formats, landing

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.usecase import Feed

_BOM = b"\xef\xbb\xbf"


def cut(name: str, content: bytes, feed: Feed, gone: Collection[int]) -> bytes:
    """The file's bytes without the rows of these numbers (`_row`, from 1).

    Raises:
        FormatError: it is no whole file of the format that its name says.
    """
    if not gone:
        return content
    form, compression = landing.form_of(name)
    plain = formats.decompress(content, compression)
    match form:
        case "csv":
            left = _csv(plain, gone)
        case "jsonl":
            left = _json_lines(plain, gone)
        case _:
            left = _parquet(plain, gone)
    return _compressed(left, compression)


def _compressed(plain: bytes, compression: str) -> bytes:
    import zstandard

    match compression:
        case "gz":
            return gzip.compress(plain, mtime=0)
        case "zst":
            return zstandard.ZstdCompressor().compress(plain)
        case _:
            return plain


def _csv(content: bytes, gone: Collection[int]) -> bytes:
    """Without the lines of these rows. Where quotes leave it open which lines those are, the rows are written anew."""
    before = formats.csv(content)
    wanted = _values(before, gone)
    for left in (*_without_lines(content, before, gone), _written(before, content.startswith(_BOM), gone)):
        try:
            if _values(formats.csv(left)).equals(wanted):
                return left
        except formats.FormatError:
            continue  # cut within a quoted value
    raise formats.FormatError("cannot be cut: its other rows would not read as before")


def _without_lines(content: bytes, rows: formats.Rows, gone: Collection[int]) -> Iterator[bytes]:
    """A row reaches from its line to that of the next; what ends a line depends on what stands within quotes."""
    numbers, begins = rows.table["_row"].to_pylist(), rows.table["_line"].to_pylist()
    if rows.table["_line"].null_count:
        return
    for lines in (content.splitlines(keepends=True), [f for f in re.split(rb"(?<=\n)", content) if f]):
        doomed: set[int] = set()
        for number, first, following in zip(numbers, begins, [*begins[1:], len(lines) + 1], strict=True):
            if number in gone:
                doomed.update(range(first, following))
        yield b"".join(line for number, line in enumerate(lines, 1) if number not in doomed)


def _values(rows: formats.Rows, gone: Collection[int] = ()) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    left = rows.table.filter(pc.invert(pc.is_in(rows.table["_row"], pa.array(sorted(gone), pa.int64()))))
    return left.select([*rows.columns, "_malformed", "_text"])


def _written(rows: formats.Rows, marked: bool, gone: Collection[int]) -> bytes:
    text = io.StringIO()
    writer = python_csv.writer(text, lineterminator="\n")
    writer.writerow(rows.columns)
    for row in rows.table.to_pylist():
        if row["_row"] in gone:
            continue
        if row["_malformed"] is None:
            writer.writerow([row[name] for name in rows.columns])
        else:
            text.write(f"{row['_text']}\n")
    return (_BOM if marked else b"") + text.getvalue().encode()


def _json_lines(content: bytes, gone: Collection[int]) -> bytes:
    kept, number = [], 0
    for line in content.removeprefix(_BOM).split(b"\n"):
        number += bool(line.strip())
        if not line.strip() or number not in gone:
            kept.append(line)
    left = (_BOM if content.startswith(_BOM) else b"") + b"\n".join(kept)
    # A file without any byte would count as cut short.
    return left or b"\n"


def _parquet(content: bytes, gone: Collection[int]) -> bytes:
    """Row by row as they were; one number counts the rows of all groups."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    file = parquet.ParquetFile(io.BytesIO(content))
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    table = file.read()
    mask = np.ones(table.num_rows, dtype=bool)
    mask[np.array(sorted(gone), dtype=np.int64) - 1] = False
    codec = groups[0].column(0).compression if groups and groups[0].num_columns else "SNAPPY"
    left = io.BytesIO()
    parquet.write_table(
        table.filter(pa.array(mask)),
        left,
        compression="NONE" if codec == "UNCOMPRESSED" else codec,
        row_group_size=max((group.num_rows for group in groups), default=None),
    )
    return left.getvalue()
