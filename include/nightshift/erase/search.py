"""Search: does anything below a folder still tell of these numbers? Containers are opened, whatever they are called and however deep.

A number of 15 digits or more is unmistakable: it is looked for in every byte, as text and as a 64-bit integer of either order, in files
as they are and as they read: gzip, Zstandard, zip, bzip2 and xz unpacked; Parquet as values (dictionaries and statistics stand in its
bytes, Delta's logs and checkpoints are JSON and Parquet); SQLite as values, beside its raw pages, the freed ones too. A shorter number
is found anywhere by chance: it is looked for as a value of the columns that bear its name, in Parquet and SQLite.

Not opened: what Spark compresses by its own means for the length of a query (shuffle blocks, LZ4), and encodings of text (base64, UTF-16).
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from include.nightshift.lakehouse.files import Folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

UNMISTAKABLE = 10**14
"""From here on a number is looked for in every byte: by chance it would stand there once in thousands of terabytes."""
DEPTH = 12
"""Containers within containers; deeper ones are a hit, because nobody can say what is in them."""

_CHUNK = 1 << 24


@dataclass(frozen=True, repr=False)
class Wanted:
    """What is looked for."""

    columns: Mapping[str, frozenset[int]]
    """Whole numbers by the column whose values they are."""
    amounts: frozenset[Decimal] = frozenset()
    """Amounts, as text and as 64-bit floats: unmistakable only where somebody made them so."""

    @cached_property
    def numbers(self) -> frozenset[int]:
        """Those that are unmistakable."""
        return frozenset(n for listed in self.columns.values() for n in listed if abs(n) >= UNMISTAKABLE)

    @cached_property
    def digits(self) -> frozenset[bytes]:
        return frozenset(str(abs(number)).encode() for number in self.numbers)

    @cached_property
    def patterns(self) -> tuple[bytes, ...]:
        texts = [str(amount).encode() for amount in self.amounts]
        return (*texts, *(struct.pack(order, float(amount)) for amount in self.amounts for order in ("<d", ">d")))

    @cached_property
    def values(self) -> np.ndarray:
        """The numbers as 64 bits without a sign, ascending."""
        import numpy as np

        return np.array(sorted(number % 2**64 for number in self.numbers), dtype=np.uint64)

    @cached_property
    def beginnings(self) -> np.ndarray:
        """Whether a number begins with these 16 bits: a look-up that leaves little to compare."""
        import numpy as np

        flags = np.zeros(1 << 16, dtype=bool)
        flags[(self.values >> np.uint64(48)).astype(np.int64)] = True
        return flags


@dataclass
class Searched:
    """What was seen."""

    files: int = 0
    bytes: int = 0
    hits: list[str] = field(default_factory=list)
    """Places, below the folder; what lies within a container follows its name after `!`."""


def search(root: Path, wanted: Wanted, *, skipping: Collection[Path] = ()) -> Searched:
    """Look through everything below a folder, names included. Links are not followed; files that vanish meanwhile are none.

    Raises:
        OSError: something cannot be read.
    """
    found = Searched()
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            if _in_bytes(name.encode(errors="surrogateescape"), wanted):
                found.hits.append(f"{Path(folder, name).relative_to(root)} (its name)")
        for name in files:
            path = Path(folder, name)
            if path in skipping or not path.is_file() or path.is_symlink():
                continue
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            found.files += 1
            found.bytes += len(content)
            found.hits += in_content(str(path.relative_to(root)), content, wanted, path=path)
    return found


def everywhere(settings: Settings, tables: Iterable[Table], wanted: Wanted, *, skipping: Collection[Path] = ()) -> Searched:
    """Look through the home, and through the tables where they lie elsewhere.

    Raises:
        OSError: something cannot be read.
    """
    found = search(settings.home, wanted, skipping=skipping)
    # Links followed: one within the home that leads out of it was not.
    if settings.on_s3 or not Path(settings.lakehouse_location).resolve().is_relative_to(settings.home.resolve()):
        found.hits += [hit for table in tables for hit in in_table(settings, table, wanted)]
    return found


def in_table(settings: Settings, table: Table, wanted: Wanted) -> Iterator[str]:
    """The places in a table's files, of whatever version or of its log, that tell of what is wanted."""
    folder = Folder(settings, table)
    for file in folder.files():
        yield from in_content(f"{table}/{file.path}", folder.read(file.path), wanted)


def in_content(name: str, content: bytes, wanted: Wanted, *, path: Path | None = None, depth: int = 0) -> list[str]:
    """The places within one file's content that tell of what is wanted; the first in each container, which is enough to look there."""
    hits = [name] if _in_bytes(content, wanted) else []
    if depth > DEPTH:
        return [*hits, f"{name} (a container within {DEPTH} others, not opened)"]
    if content[:4] == content[-4:] == b"PAR1":
        hits += [f"{name}!{place}" for place in _in_parquet(content, wanted)]
    elif content.startswith(b"SQLite format 3\0"):
        hits += [f"{name}!{place}" for place in _in_sqlite(content, wanted, path, depth)]
    for inner, unpacked in _unpacked(content):
        hits += in_content(f"{name}!{inner}", unpacked, wanted, depth=depth + 1)
    return hits


def _in_bytes(content: bytes, wanted: Wanted) -> bool:
    return any(pattern in content for pattern in wanted.patterns) or _in_text(content, wanted) or _in_words(content, wanted)


def _in_text(content: bytes, wanted: Wanted) -> bool:
    """Within longer runs of digits too: a column's values stand side by side, without anything between them."""
    if not wanted.digits:
        return False
    lengths = {len(digits) for digits in wanted.digits}
    for match in re.finditer(rb"[0-9]{%d,}" % min(lengths), content):
        run = match[0]
        if any(run[at : at + length] in wanted.digits for length in lengths for at in range(len(run) - length + 1)):
            return True
    return False


def _in_words(content: bytes, wanted: Wanted) -> bool:
    """As eight bytes anywhere, most significant byte first or last."""
    import numpy as np

    if not len(wanted.values):
        return False
    for begin in range(0, len(content), _CHUNK):
        chunk = content[begin : begin + _CHUNK + 7]
        for offset in range(min(8, len(chunk) - 7)):
            count = (len(chunk) - offset) // 8
            for order in ("<u8", ">u8"):
                words = np.frombuffer(chunk, order, count, offset)
                near = words[wanted.beginnings[(words >> np.uint64(48)).astype(np.int64)]]
                if len(near) and np.isin(near.astype(np.uint64), wanted.values).any():
                    return True
    return False


def _unpacked(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What a compressed file holds, as far as it can be read: one that was cut short tells what comes before the cut."""
    import zstandard

    streams: dict[bytes, tuple[str, Callable[[], Any]]] = {
        b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(wbits=31)),
        b"\x28\xb5\x2f\xfd": ("zstd", lambda: zstandard.ZstdDecompressor().decompressobj()),
        b"BZh": ("bzip2", bz2.BZ2Decompressor),
        b"\xfd7zXZ\0": ("xz", lzma.LZMADecompressor),
    }
    for magic, (name, make) in streams.items():
        if content.startswith(magic):
            yield name, _streamed(content, make)
    if content.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.namelist():
                    yield member, archive.read(member)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error):
            return  # no archive, or one with a password: nothing of ours makes such


def _streamed(content: bytes, make: Callable[[], Any]) -> bytes:
    """All frames, one after the other, up to the first damage."""
    import zstandard

    plain, left = [], content
    while left:
        stream = make()
        try:
            for begin in range(0, len(left), 1 << 16):
                plain.append(stream.decompress(left[begin : begin + (1 << 16)]))
                if getattr(stream, "eof", False):
                    left = stream.unused_data + left[begin + (1 << 16) :]
                    break
            else:
                break
        except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError):
            break
    return b"".join(plain)


def _in_parquet(content: bytes, wanted: Wanted) -> Iterator[str]:
    """Columns that hold what is wanted."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        told: set[str] = set()
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            told |= {name for name in table.column_names if name not in told and _in_column(name, table[name], wanted)}
        yield from sorted(told)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
        return  # it only begins and ends like one


def _in_column(name: str, values: pa.ChunkedArray, wanted: Wanted) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    listed = wanted.columns.get(name)
    for leaf in _leaves(values.chunks):
        if listed:
            # As text, whatever the type: bronze has ids as text, with blanks perhaps.
            texts = pc.utf8_trim_whitespace(leaf.cast(pa.string())) if _is_plain(leaf.type) else pa.array([], pa.string())
            if pc.any(pc.is_in(texts, pa.array(sorted(map(str, listed)), pa.string()))).as_py():
                return True
        if any(_in_bytes(blob, wanted) for blob in _blobs(leaf)):
            return True
    return False


def _is_plain(kind: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)


def _leaves(arrays: Iterable[pa.Array]) -> Iterator[pa.Array]:
    """The arrays within arrays of structs, lists and maps."""
    from pyarrow import types

    for array in arrays:
        if types.is_dictionary(array.type):
            yield from _leaves([array.dictionary_decode()])
        elif types.is_struct(array.type):
            yield from _leaves(array.flatten())
        elif types.is_map(array.type):
            yield from _leaves([array.keys, array.items])
        elif types.is_list(array.type) or types.is_large_list(array.type):
            yield from _leaves([array.flatten()])
        else:
            yield array


def _blobs(leaf: pa.Array) -> Iterator[bytes]:
    """The values' bytes; numbers of a decimal type as text, because their bytes are not theirs alone."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_decimal(leaf.type):
        leaf = leaf.cast(pa.string())
    # The last of an array's buffers holds its values, the others say which and where.
    values = leaf.buffers()[-1] if len(leaf) else None
    if values is not None:
        yield values.to_pybytes()


def _in_sqlite(content: bytes, wanted: Wanted, path: Path | None, depth: int) -> Iterator[str]:
    """Tables that hold what is wanted; containers in their values are opened too."""
    try:
        with closing(_opened(content, path)) as connection:
            connection.text_factory = bytes
            names = [row[0].decode() for row in connection.execute("select name from sqlite_master where type = 'table'")]
            for name in names:
                if _in_rows(connection, name, wanted, depth):
                    yield name
    except sqlite3.DatabaseError:
        return  # damaged, or only its beginning: its bytes were looked at


def _opened(content: bytes, path: Path | None) -> sqlite3.Connection:
    if path is not None:
        # From its place, with what its write-ahead log holds.
        return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=30)
    connection = sqlite3.connect(":memory:")
    # Bytes 18 and 19 ask for a write-ahead log, which a copy in memory cannot have.
    connection.deserialize(content[:18] + b"\1\1" + content[20:])
    return connection


def _in_rows(connection: sqlite3.Connection, table: str, wanted: Wanted, depth: int) -> bool:
    cursor = connection.execute('select * from "{}"'.format(table.replace('"', '""')))
    names = [column[0] for column in cursor.description]
    by_name = [(at, wanted.columns[name]) for at, name in enumerate(names) if name in wanted.columns]
    for rows in iter(lambda: cursor.fetchmany(10_000), []):
        blobs = [value for row in rows for value in row if isinstance(value, bytes)]
        integers = {value for row in rows for value in row if isinstance(value, int)}
        if integers & wanted.numbers or _in_bytes(b"\0".join(blobs), wanted):
            return True
        if any(_number(row[at]) in listed for at, listed in by_name for row in rows):
            return True
        if any(in_content("", blob, wanted, depth=depth + 1) for blob in blobs if next(_unpacked(blob), None)):
            return True
    return False


def _number(value: Any) -> int | None:
    """A value as the whole number that it is, or says."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
