"""Pseudonyms: what stands for persons in `analyst.*`, kept in `silver.pseudonyms` as nights come in.

A pseudonym is the keyed digest (HMAC-SHA256) of a personal column's value. It is computed in this process: the key never reaches the
server, so neither a view, a log nor a commit can tell it. A value keeps its pseudonym in every table; under another column's name
it would have another.

`python -m include.nightshift.ingest.pseudonyms` gives one to everybody in silver who lacks it; `--renew` replaces all of them when the key
was changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift import keys, usecase
from include.nightshift import settings as settings_module
from include.nightshift.errors import NightshiftError
from include.nightshift.lakehouse import barrier, log, storage, tables, writes
from include.nightshift.lakehouse import session as lakehouse

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import SparkSession

    from include.nightshift.keys import Key
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed

TABLE = tables.PSEUDONYMS

_WRITERS = "pseudonyms"
"""The one name under which all writers of the table count their writes."""


def keep(session: SparkSession, settings: Settings, feed: Feed, nights: Sequence[date]) -> int:
    """Give the persons of these nights of silver their pseudonyms, where they have none; returns how many were given.

    A column in which nobody has one yet (it became personal, or the table is new) is done for all nights of all feeds.

    Raises:
        ConfigurationError: somebody is new, and the key is missing or not the one that the others' pseudonyms were made with.
        WriteConflictError: other writers won every attempt.
    """
    given = 0
    for name in feed.personal:
        is_new = {"column_name": name} not in log.opened(settings, TABLE).partitions()
        feeds, among = (_bearing(settings, feed, name), None) if is_new else ([feed], nights)
        given += _give(session, settings, name, _values(settings, feeds, name, among))
    return given


def complete(session: SparkSession, settings: Settings) -> int:
    """Give everybody in silver a pseudonym who has none, whatever the night; returns how many were given.

    Raises:
        ConfigurationError, WriteConflictError: as `keep`.
    """
    feeds = [feed for use_case in usecase.registered(settings) for feed in use_case.feeds]
    names = sorted({name for feed in feeds for name in feed.personal})
    bearing = {name: [feed for feed in feeds if name in feed.personal] for name in names}
    return sum(_give(session, settings, name, _values(settings, bearing[name], name)) for name in names)


def renew(session: SparkSession, settings: Settings) -> int:
    """Replace all pseudonyms by those of the key as it is now, which is made if there is none; returns how many there are.

    Nothing may be ingested meanwhile: it would go on with the key before.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    key = keys.made(settings, keys.PSEUDONYM)

    def attempt() -> bool:
        opened = log.opened(settings, TABLE)
        held = {found["column_name"]: _held(opened, found["column_name"]) for found in opened.partitions()}
        if all(pc.all(pc.equal(rows["key_check"], key.check)).as_py() for rows in held.values()):
            return True
        _write(
            session, settings, pa.concat_tables(_rows(key, name, rows["value"]) for name, rows in held.items()), "overwrite", _turn(opened)
        )
        return False

    while not writes.retried(attempt, str(TABLE)):
        pass
    complete(session, settings)
    opened = log.opened(settings, TABLE)
    return sum(_held(opened, found["column_name"]).num_rows for found in opened.partitions())


def texts(values: pa.Array) -> pa.Array:
    """Personal values as the texts that are digested; `views.as_text` in SQL."""
    import pyarrow as pa

    if pa.types.is_timestamp(values.type):
        return values.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).cast(pa.string())
    if pa.types.is_decimal(values.type):
        # Arrow writes small ones with an exponent.
        return pa.array([None if value is None else format(value, "f") for value in values.to_pylist()], pa.string())
    return values.cast(pa.string())


def _bearing(settings: Settings, feed: Feed, name: str) -> list[Feed]:
    """The feed, and the others of this installation that have the personal column."""
    others = [other for use_case in usecase.registered(settings) for other in use_case.feeds if other.name != feed.name]
    return [feed, *(other for other in others if name in other.personal)]


def _held(opened: DeltaTable, name: str) -> pa.Table:
    """Who has a pseudonym in the column, and by which key."""
    import pyarrow.compute as pc

    return log.dataset(opened).to_table(columns=["value", "key_check"], filter=pc.field("column_name") == name)


def _values(settings: Settings, feeds: Sequence[Feed], name: str, nights: Sequence[date] | None = None) -> pa.Array:
    """The column's different values in silver, of these nights or of all, as text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [pa.array([], pa.string())]
    wanted = None if nights is None else pc.field("day").isin(pa.array(nights, pa.date32()))
    for feed in feeds:
        rows = log.dataset(log.opened(settings, tables.silver(feed)))
        # Batch by batch: all nights of a big feed would not fit.
        parts += [texts(batch.column(0).unique().drop_null()) for batch in rows.scanner(columns=[name], filter=wanted).to_batches()]
    return pa.concat_arrays(parts).unique()


def _give(session: SparkSession, settings: Settings, name: str, values: pa.Array) -> int:
    """Give the values that have none their pseudonyms, looking again until none lacks one; returns how many had none at first.

    An append that rests on what was read: an insert-only MERGE does the same, and takes three times as long.
    """

    def attempt() -> int:
        import pyarrow.compute as pc

        opened = log.opened(settings, TABLE)
        held = _held(opened, name)
        new = values.filter(pc.invert(pc.is_in(values, value_set=held["value"])))
        if len(new):
            key = _key(settings, set(held["key_check"].unique().to_pylist()))
            _write(session, settings, _rows(key, name, new), "append", _turn(opened))
        return len(new)

    given = lacking = writes.retried(attempt, str(TABLE))
    while lacking:
        lacking = writes.retried(attempt, str(TABLE))
    return given


def _turn(opened: DeltaTable) -> int:
    """The number of the next write that rests on this version."""
    return (opened.transaction_version(_WRITERS) or 0) + 1


def _write(session: SparkSession, settings: Settings, rows: pa.Table, mode: str, turn: int) -> None:
    """Append the rows, or put them in the place of all, unless another writer had this turn: then nothing is written.

    Delta keeps the number of a writer's last write. A write with that number, or one below, it passes over in silence; of two that are
    under way at once it refuses one. All writers share a name, so whoever read before another wrote writes nothing.
    """
    with writes.staged(session, settings, rows) as frame:
        options = {"txnAppId": _WRITERS, "txnVersion": str(turn)}
        frame.write.format("delta").mode(mode).options(**options).save(storage.location(settings, TABLE))


def _rows(key: Key, name: str, values: pa.Array) -> pa.Table:
    import pyarrow as pa

    listed = values.to_pylist()
    columns = {
        "column_name": pa.repeat(name, len(listed)),
        "value": pa.array(listed, pa.string()),
        "pseudonym": pa.array(key.digester(name)(listed), pa.string()),
        "key_check": pa.repeat(key.check, len(listed)),
    }
    return pa.table([columns[name] for name in TABLE.names], names=TABLE.names)


def _key(settings: Settings, checks: set[str]) -> Key:
    """The key, made now if nobody has a pseudonym yet."""
    advice = (
        "New persons would get pseudonyms that join with nothing, so the night is not published. Restore the key from your backup, and run "
        "this again; or, if it is lost or was changed on purpose, `python -m include.nightshift.ingest.pseudonyms --renew` gives "
        "everybody a new pseudonym"
    )
    return keys.agreed(settings, keys.PSEUDONYM, checks, holds=f"{TABLE} holds pseudonyms", advice=advice)


def main(arguments: Sequence[str] | None = None) -> int:
    """Say how many were given; 1 with one line when that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.ingest.pseudonyms")
    parser.add_argument("--renew", action="store_true", help="the key was changed: replace every pseudonym")
    options = parser.parse_args(arguments)
    try:
        settings = settings_module.load()
        session = lakehouse.connect(settings)
        with barrier.passing(settings):
            done = renew(session, settings) if options.renew else complete(session, settings)
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)  # noqa: T201 - a program's answer
        return 1
    print(f"pseudonyms: {done} {'replaced' if options.renew else 'given'}")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
