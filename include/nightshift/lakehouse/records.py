"""Records: the platform's own small tables (`ops.*`), read and written in this process, without the server.

Spark takes 2 s to replace one row, delta-rs 30 ms; a night keeps a dozen such records. Both speak the same protocol, but
no table has writers of both kinds: two kinds of client agree about who came first only where the storage itself can refuse
a second file of one name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from include.nightshift.lakehouse import log
from include.nightshift.lakehouse.writes import Written, retried

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

Record = dict[str, Any]


def read(settings: Settings, table: Table, **values: Any) -> list[Record]:
    """The records that have these values (`column=value`, or `column=[values]`), in no particular order."""
    return _held(
        log.opened(settings, table), table, {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    )


def replace(settings: Settings, table: Table, records: Iterable[Mapping[str, Any]], slice_: Mapping[str, Collection[Any]]) -> Written:
    """Make the slice `column in (values) and …` hold exactly these records, in one commit; none where it does already.

    Columns a record lacks are null. Retried while other writers win.

    Raises:
        WriteConflictError: others won every attempt.
    """
    # Made a list here: a retry needs the records again, and an iterator gives them once.
    wanted = list(map(dict, records))
    return _write(settings, table, slice_, lambda held: wanted)


def amend(
    settings: Settings,
    table: Table,
    change: Callable[[list[Record]], list[Record]],
    slice_: Mapping[str, Collection[Any]] | None = None,
) -> Written:
    """Replace all records, or those of the slice, by what `change` makes of them, in one commit that nobody else's comes between.

    `change` is called again whenever another writer came first, so it must depend on its argument alone. It may raise.

    Raises:
        WriteConflictError: others won every attempt.
    """
    return _write(settings, table, slice_ or {}, change)


def _write(
    settings: Settings, table: Table, slice_: Mapping[str, Collection[Any]], change: Callable[[list[Record]], list[Record]]
) -> Written:
    from deltalake import CommitProperties, write_deltalake

    def attempt() -> Written:
        opened = log.opened(settings, table)
        held = _held(opened, table, slice_)
        wanted = table.arrow(change(held))
        if _content(table, table.arrow(held)) == _content(table, wanted):
            return Written(str(table), wanted.num_rows, False, opened.version())
        # Written on top of the very version that was read: if another one came meanwhile, this fails and is tried again. For a slice
        # delta-rs sees by itself whether the other one touched it. For a whole table it looks at files that went, not at those that
        # came: beside the first record of an empty table it would put another first one. So there it may not commit a second time.
        told = {"predicate": log.predicate(slice_)} if slice_ else {"commit_properties": CommitProperties(max_commit_retries=0)}
        write_deltalake(opened, wanted, mode="overwrite", **told)
        return Written(str(table), wanted.num_rows, True, opened.version())

    return retried(attempt, str(table))


def _content(table: Table, records: pa.Table) -> list[str]:
    """The records without their clocks, whatever their order."""
    return sorted(map(repr, records.select(table.content).to_pylist()))


def _held(opened: DeltaTable, table: Table, slice_: Mapping[str, Collection[Any]]) -> list[Record]:
    """The records of the slice `column in (values) and …`."""
    from pyarrow.parquet import filters_to_expression

    if not all(slice_.values()):
        return []
    # Files are chosen by their partition before each is set up to be read: of a year of nights, that alone would take 0.3 s.
    files = log.predicate({name: values for name, values in slice_.items() if name in table.partition})
    rows = filters_to_expression([(name, "in", values) for name, values in slice_.items()]) if slice_ else None
    held: list[Record] = log.dataset(opened, files or None).to_table(filter=rows).to_pylist()
    return held
