"""Erased: whose rows are left out at landing, for good. `ops.erased_keys` holds keyed digests, never an id.

A row is a person's when its entity column says so. A row without a readable entity (a verdict names a transaction only; a line may be
malformed) is theirs when it bears the key of an event of theirs, or, where it could not be parted, a whole number that is their id or
such a key. Rather one unusable row of somebody else too many is left out than one of theirs too few.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from include.nightshift import durable, keys
from include.nightshift.errors import LandingError
from include.nightshift.ingest import landing, places
from include.nightshift.ingest.cut import cut
from include.nightshift.lakehouse import records, tables

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pyarrow as pa

    from include.nightshift.ingest.landing import Drop
    from include.nightshift.keys import Key
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed

Kind = Literal["entity", "key"]
ENTITY: Kind = "entity"
KEY: Kind = "key"

TABLE = tables.ERASED_KEYS
LANDING = "landing"
"""Stands for a request where ingest met the key of an erased person's event."""

# Blanks and control characters around a number, a plus sign and leading zeros are what a cast to bigint passes over.
_NUMBER = re.compile(r"[\x00-\x20\x7f]*([+-]?)0*([0-9]+)[\x00-\x20\x7f]*")
_PLAIN = r"^[1-9][0-9]*$"
_TOKEN = re.compile(r"[0-9]+")


def canonical(text: str) -> str | None:
    """The whole number that a text says, as silver reads it; None where it says none."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    number = found[2]
    return f"-{number}" if found[1] == "-" and number != "0" else number


def tokens(text: str) -> set[str]:
    """All runs of digits in a text, without leading zeros."""
    return {token.lstrip("0") or "0" for token in _TOKEN.findall(text)}


@dataclass(frozen=True)
class Column:
    """A column by whose values rows are recognised."""

    name: str
    kind: Kind
    known: Callable[[list[str]], list[bool]]
    """Of each canonical value, whether it is one of an erased person's."""


class Erased:
    """Whom to leave out. Nothing is hashed where nobody was erased, and then each different value once."""

    def __init__(self, columns: Iterable[Column]) -> None:
        self.columns = tuple(columns)

    def __bool__(self) -> bool:
        return bool(self.columns)

    def theirs(self, rows: pa.Table) -> np.ndarray:
        """Which of the rows (text, as `formats` parts them) are an erased person's: one boolean a row."""
        import numpy as np

        mask = np.zeros(rows.num_rows, dtype=bool)
        undecided = np.ones(rows.num_rows, dtype=bool)
        for column in self._of(rows, ENTITY):
            own, readable, numbers = _numbers(rows[column.name])
            mask |= _known(column, own, numbers)
            undecided &= ~readable
            mask |= self._by_tokens(rows[column.name], ~readable, (column,))
        for column in self._of(rows, KEY):
            if undecided.any():
                own, _, numbers = _numbers(rows[column.name].filter(_array(undecided)))
                mask[undecided] |= _known(column, own, numbers)
        if "_text" in rows.column_names:
            # Not parted, so no column to go by.
            mask |= self._by_tokens(rows["_text"], undecided, self.columns)
        return mask

    def among(self, rows: pa.Table) -> pa.Table:
        """The rows that are an erased person's."""
        return rows.filter(_array(self.theirs(rows)))

    def _of(self, rows: pa.Table, kind: Kind) -> list[Column]:
        return [column for column in self.columns if column.kind == kind and column.name in rows.column_names]

    def _by_tokens(self, texts: pa.ChunkedArray, among: np.ndarray, columns: Collection[Column]) -> np.ndarray:
        """Rows, of those among, whose text holds a known value as a whole number."""
        import numpy as np
        import pyarrow.compute as pc

        mask = np.zeros(len(texts), dtype=bool)
        for place in np.flatnonzero(among & pc.is_valid(texts).to_numpy()):
            found = sorted(tokens(texts[int(place)].as_py()))
            mask[place] = any(any(column.known(found)) for column in columns)
        return mask


def known(settings: Settings) -> Erased:
    """Whom to leave out at landing, as registered now.

    Raises:
        ConfigurationError: digests are registered, but their key is missing or is another one: nobody could be recognised.
    """
    held = records.read(settings, TABLE)
    if not held:
        return Erased(())
    key = _key(settings, {record["key_check"] for record in held})
    found: dict[tuple[str, Kind], set[str]] = {}
    for record in held:
        found.setdefault((record["column_name"], record["kind"]), set()).add(record["digest"])
    return Erased(Column(name, kind, _digested(key, name, digests)) for (name, kind), digests in sorted(found.items()))


def of(values: Mapping[tuple[str, Kind], Collection[str]]) -> Erased:
    """Whom to look for where the ids themselves are known: canonical values by column and kind."""
    return Erased(Column(name, kind, _listed(frozenset(listed))) for (name, kind), listed in values.items())


def register(settings: Settings, request_id: str, values: Mapping[tuple[str, Kind], Collection[str]]) -> int:
    """Remember digests of the values, each once, whoever asked first; returns how many are new.

    Raises:
        ConfigurationError: as `known`.
        WriteConflictError: other writers won every attempt.
    """
    key = _key(settings, {record["key_check"] for record in records.read(settings, TABLE)})
    new = {
        (name, kind, digest): {
            "request_id": request_id,
            "kind": kind,
            "column_name": name,
            "digest": digest,
            "key_check": key.check,
            "registered_at": datetime.now(UTC),
        }
        for (name, kind), listed in values.items()
        for digest in key.digester(name)(sorted(listed))
    }
    added: list[Any] = []

    def add(held: list[records.Record]) -> list[records.Record]:
        there = {(record["column_name"], record["kind"], record["digest"]) for record in held}
        added[:] = [record for name, record in new.items() if name not in there]
        return [*held, *added]

    if new:
        records.amend(settings, TABLE, add)
    return len(added)


def subject(settings: Settings, column: str, value: str) -> str:
    """The digest under which a person is remembered."""
    return keys.made(settings, keys.ERASURE).digest(column, value)


def left_out(settings: Settings, feed: Feed, drop: Drop, erased: Erased) -> Drop:
    """The drop without the rows of erased persons. Where it is ours, its file is rewritten without them first.

    Raises:
        LandingError: the file changed in this moment, or cannot be written.
        ConfigurationError: as `known`.
    """
    if not erased:
        return drop
    mask = erased.theirs(drop.table)
    if not mask.any():
        return drop
    _remember_events(settings, feed, erased, drop.table, mask)
    if not places.of(settings, feed).is_ours:
        return replace(drop, table=drop.table.filter(_array(~mask)), erased=int(mask.sum()))
    numbers = drop.table["_row"].filter(_array(mask)).to_pylist()
    rewrite(settings.landing_folder / drop.source, feed, drop.batch, numbers)
    cleaned = landing.read(settings, feed, drop.night)
    if cleaned is None or erased.theirs(cleaned.table).any():
        raise LandingError(
            f"bronze.{feed.name}, night {drop.night}: {drop.source} was landed anew while an erased person's rows were taken out of it. "
            "Run the night again"
        )
    return cleaned


def rewrite(path: Path, feed: Feed, batch: str, numbers: Iterable[int]) -> None:
    """Take rows out of a landed file; what stands there is the old file or the new one, whole, with the old one's times and rights.

    Raises:
        LandingError: it is another file than the batch says, or cannot be written.
    """
    left = without(path, feed, batch, numbers)
    try:
        with durable.placed(path) as temporary:
            temporary.write_bytes(left)
            shutil.copystat(path, temporary)
    except OSError as error:
        raise LandingError(
            f"bronze.{feed.name}: {path} holds rows of an erased person and cannot be rewritten: {error}. It lies in the home, so it is "
            "ours: make it writable, then run it again"
        ) from error


def without(path: Path, feed: Feed, batch: str, numbers: Iterable[int]) -> bytes:
    """What a landed file is without rows.

    Raises:
        LandingError: it is another file than the batch says.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != batch:
        raise LandingError(f"bronze.{feed.name}: {path} was landed anew in this moment. Run it again")
    return cut(path.name, content, feed, set(numbers))


def events(rows: pa.Table, feed: Feed, mask: np.ndarray) -> set[str]:
    """The keys that the masked rows bear, less those that another row of the same file bears too: they are not theirs alone."""
    import pyarrow.compute as pc

    own, others = rows[feed.key].filter(_array(mask)), rows[feed.key].filter(_array(~mask))
    return whole_numbers(pc.unique(own)) - whole_numbers(others.filter(pc.is_in(others, pc.unique(own))))


def _remember_events(settings: Settings, feed: Feed, erased: Erased, rows: pa.Table, mask: np.ndarray) -> None:
    """Remember the keys of events that are left out because of their entity: their verdicts, days later, name the key only."""
    if any(column.kind == ENTITY and column.name in rows.column_names for column in erased.columns):
        register(settings, LANDING, {(feed.key, KEY): events(rows, feed, mask)})


def whole_numbers(texts: Any) -> set[str]:
    """The canonical whole numbers among a column's values."""
    return {number for text in texts.to_pylist() if text is not None and (number := canonical(str(text))) is not None}


def _key(settings: Settings, checks: set[str]) -> Key:
    """The key, made now if nobody was erased yet."""
    advice = (
        "Persons who asked to be forgotten could come back, so nothing is ingested. Restore the key from your backup; if it is lost for "
        f"good, clear {TABLE} by hand, and have every erasure asked for again before the next night"
    )
    return keys.agreed(settings, keys.ERASURE, checks, holds=f"{TABLE} holds digests of erased persons", advice=advice)


def _digested(key: Key, name: str, digests: set[str]) -> Callable[[list[str]], list[bool]]:
    digester = key.digester(name)
    return lambda values: [digest in digests for digest in digester(values)]


def _listed(listed: frozenset[str]) -> Callable[[list[str]], list[bool]]:
    return lambda values: [value in listed for value in values]


def _numbers(texts: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray, list[str | None]]:
    """Each row's place among the different texts, whether it says a whole number, and the canonical numbers of the different texts."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(texts.cast(pa.string()), null_encoding="encode").combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    different = encoded.dictionary
    if pc.all(pc.match_substring_regex(different, _PLAIN)).as_py() and different.null_count == 0:
        numbers = different.to_pylist()
    else:
        numbers = [None if text is None else canonical(text) for text in different.to_pylist()]
    places = encoded.indices.to_numpy(zero_copy_only=False)
    readable = np.array([number is not None for number in numbers], dtype=bool)
    return places, readable[places] if len(places) else np.zeros(0, dtype=bool), numbers


def _known(column: Column, places: Any, numbers: list[str | None]) -> np.ndarray:
    import numpy as np

    given = [number for number in numbers if number is not None]
    said = iter(column.known(given))
    flags = np.array([number is not None and next(said) for number in numbers], dtype=bool)
    return flags[places] if len(places) else np.zeros(0, dtype=bool)


def _array(mask: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(mask, pa.bool_())
