"""Compare: the rows of a night as they were rebuilt against those that the tables hold, in walking order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.lakehouse import log, tables
from include.nightshift.replay import sources
from include.nightshift.score.publications import OF_THE_PUBLICATION

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed, UseCase

NAMED = 10
"""Rows that are named of each kind of difference."""

Namer = Callable[[Sequence[Any]], list[str]]


@dataclass(frozen=True)
class Difference:
    """How a table's night differs from what was rebuilt. Rows are named by the place they landed at, or by their rank, never by an id."""

    table: Table
    published: bool
    """Whether the publication's digests cover it."""
    rows: int
    """Rows of the night that were rebuilt."""
    lacking: int = 0
    """Rows that were rebuilt and that the table does not hold."""
    added: int = 0
    """Rows that it holds beside, those that stand twice among them."""
    columns: Mapping[str, int] = field(default_factory=dict)
    """By column, the rows whose value is another."""
    largest: Mapping[str, float] = field(default_factory=dict)
    """Of columns of numbers, the largest difference."""
    which: tuple[str, ...] = ()
    """Some of the rows, by kind."""

    def __str__(self) -> str:
        counted = ((self.lacking, "rows are not there"), (self.added, "rows are beside them"))
        counts = [f"{count} {word}" for count, word in counted if count]
        for name, rows in self.columns.items():
            by = f" (by {self.largest[name]:g} at most)" if name in self.largest else ""
            counts.append(f"{name} is another in {rows}{by}")
        return f"{self.table}, of {self.rows} rows rebuilt: {', '.join(counts)}; {'; '.join(self.which)}"


def night(settings: Settings, apart: Settings, use_case: UseCase, night: date, folder: Path, rounding: float) -> Iterator[Difference]:
    """The differences of each table, silver first.

    `apart`: the installation that holds what was rebuilt. `rounding`: by so much may a score differ without being another.
    """
    for feed in use_case.feeds:
        yield from _of(settings, apart, tables.silver(feed), night, feed.key, _landed(folder, feed, night), published=False)
    named = _landed(folder, use_case.events, night)
    for table, extra in ((tables.features(use_case), {}), (tables.scores(use_case), {"role": ["champion"]})):
        yield from _of(settings, apart, table, night, use_case.events.key, named, extra, rounding=rounding)
    yield from _of(settings, apart, tables.alerts(use_case), night, "rank", _ranked, rounding=rounding)


def _of(
    settings: Settings,
    apart: Settings,
    table: Table,
    night: date,
    key: str,
    named: Namer,
    extra: Mapping[str, list[str]] | None = None,
    *,
    rounding: float = 0.0,
    published: bool = True,
) -> Iterator[Difference]:
    names = [name for name in table.content if name not in OF_THE_PUBLICATION]
    slice_ = {"day": [night], **(extra or {})}
    then, now = (_columns(where, table, names, slice_) for where in (apart, settings))
    difference = compared(then, now, key, named, table, rounding=rounding, published=published)
    if difference:
        yield difference


def _columns(settings: Settings, table: Table, names: Sequence[str], slice_: Mapping[str, Any]) -> pa.Table:
    """Those of the columns that the table has: that of another time may have fewer, or others."""
    held = {each.name for each in log.opened(settings, table).schema().fields}
    return log.columns(settings, table, [name for name in names if name in held], slice_)


def compared(
    then: pa.Table, now: pa.Table, key: str, named: Namer, table: Table, *, rounding: float = 0.0, published: bool = True
) -> Difference | None:
    """The difference between two versions of the same rows, in the columns that both have; None where they are equal.

    `named` gives names to rows, by their keys. A null is a value like any other.
    """
    import numpy as np

    before = np.unique(then[key].to_numpy())
    kept, count = np.unique(now[key].to_numpy(), return_counts=True)
    both, in_then, in_now = np.intersect1d(then[key].to_numpy(), now[key].to_numpy(), return_indices=True)
    lacking, strange, twice = np.setdiff1d(before, kept), np.setdiff1d(kept, before), kept[count > 1]
    columns: dict[str, int] = {}
    largest: dict[str, float] = {}
    changed = np.zeros(len(both), dtype=bool)
    for name in [name for name in then.column_names if name in now.column_names]:
        a, b = then[name].take(in_then), now[name].take(in_now)
        differs, by = _differs(a, b, rounding if name == "score" else 0.0)
        if differs.any():
            columns[name] = int(differs.sum())
            changed |= differs
            if by is not None:
                largest[name] = by
    added = len(strange) + int((count - 1).sum())
    if not (len(lacking) or added or columns):
        return None
    which = [
        f"{word}: {', '.join(named(keys[:NAMED].tolist()))}{' …' if len(keys) > NAMED else ''}"
        for word, keys in (("not there", lacking), ("beside", strange), ("twice", twice), ("other", both[changed]))
        if len(keys)
    ]
    return Difference(table, published, len(then), len(lacking), added, columns, largest, tuple(which))


def _differs(a: pa.ChunkedArray, b: pa.ChunkedArray, rounding: float) -> tuple[np.ndarray, float | None]:
    """Which values are others, and by how much at most, where they are numbers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(a.type):
        unknown = pc.is_null(a).to_numpy(), pc.is_null(b).to_numpy()
        x, y = (values.to_numpy().astype(float) for values in (a, b))
        apart = np.abs(x - y)
        alike = (x == y) | (apart <= rounding) | (np.isnan(x) & np.isnan(y) & (unknown[0] == unknown[1]))
        known = apart[~alike & ~np.isnan(apart)]
        return ~alike, float(known.max()) if len(known) else None
    alike = pc.or_(pc.fill_null(pc.equal(a, b.cast(a.type)), False), pc.and_(pc.is_null(a), pc.is_null(b)))
    return ~alike.to_numpy(), None


def _landed(folder: Path, feed: Feed, night: date) -> Namer:
    """Names rows by the file that brought them and their row in it."""

    def named(keys: Sequence[Any]) -> list[str]:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = sources.laid(folder, feed, [feed.key, "_source", "_row"], night)
        held = rows.filter(pc.is_in(rows[feed.key], pa.array([str(key) for key in keys], pa.string()))).to_pylist()
        places: dict[str, str] = {}
        for row in sorted(held, key=lambda row: -int(row["_row"])):
            places[row[feed.key]] = f"{row['_source']}:{row['_row']}"
        return [places.get(str(key), "a row that never landed") for key in keys]

    return named


def _ranked(keys: Sequence[Any]) -> list[str]:
    return [f"rank {key}" for key in keys]
