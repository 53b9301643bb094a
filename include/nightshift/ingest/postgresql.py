"""A PostgreSQL relation, read as Arrow: the rows of a window of watermarks, in one snapshot. Nothing is written there.

Arrow over ADBC, which streams what `COPY` sends. `COPY` takes no parameters, so the window's ends are bound into settings of the
transaction, and the query reads those. Identifiers are quoted; `usecase` has checked them.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from include.nightshift.errors import LandingError
from include.nightshift.usecase import Column, Feed, Pull

if TYPE_CHECKING:
    import pyarrow as pa

STATEMENT_SECONDS = 1800
"""The longest that one statement may run at the source."""
WRITTEN_AT = "_written_at"
"""The watermark, as it stands beside the feed's own columns."""

_PATIENCE = {"connect_timeout": "10", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
"""Seconds, and tries: a source that vanishes without a word is given up after a minute, not after hours."""
_ADDRESS = re.compile(r"postgres(?:ql)?://(?:[^@]*@)?[^@]+")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")

_WHOLE = dict.fromkeys(("int2", "int4", "int8"), "{}") | {"numeric": "trim_scale({})::text", "bool": "{}::int4"}
_TEXT = ("text", "varchar", "bpchar", "name", "citext", "uuid", "json", "jsonb", "enum", "bool", "date", "int2", "int4", "int8", "numeric")
_WAYS: dict[str, dict[str, str]] = {
    "bigint": _WHOLE,
    "int": _WHOLE,
    "double": dict.fromkeys(("float4", "float8", "int2", "int4"), "{}::float8"),
    # ADBC itself makes text of a numeric; the server's is the one that PostgreSQL documents.
    "decimal": dict.fromkeys(("numeric", "int2", "int4", "int8"), "{}::text"),
    "string": dict.fromkeys(_TEXT, "{}::text"),
    "date": {"date": "{}"},
    "timestamp": {"timestamptz": "{}", "timestamp": "{}"},
}
"""How a column of a feed's type is read without loss from each of PostgreSQL's types; values are checked as they arrive."""

_COLUMNS = """
select a.attname::text, (case when t.typtype = 'e' then 'enum' else t.typname end)::text, format_type(a.atttypid, a.atttypmod),
  has_schema_privilege(n.oid, 'usage') and has_column_privilege(c.oid, a.attnum, 'select')
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type d on d.oid = a.atttypid
join pg_type t on t.oid = case when d.typtype = 'd' then d.typbasetype else d.oid end
where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""


@dataclass(frozen=True)
class _Found:
    """A column of the relation."""

    kind: str
    """PostgreSQL's own name of its type, a domain's base type; `enum` for all of those."""
    shown: str
    """Its type as people write it."""
    readable: bool


@dataclass(frozen=True)
class Window:
    """The watermarks that a night's pull reads."""

    since: datetime | None
    """The first; None: from the beginning."""
    until: datetime
    """They lie before it: the midnight that ends the night."""

    def holds(self, times: pa.ChunkedArray) -> pa.ChunkedArray:
        """For each time, whether it lies in the window."""
        from pyarrow import compute

        before = compute.less(times, self.until)
        return compute.and_(before, compute.greater_equal(times, self.since)) if self.since else before


def schema(feed: Feed) -> pa.Schema:
    """The feed's columns as Arrow types; times are UTC microseconds."""
    import pyarrow as pa

    types = {
        "bigint": pa.int64(),
        "int": pa.int32(),
        "double": pa.float64(),
        "string": pa.string(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }

    def arrow(column: Column) -> pa.DataType:
        return types.get(column.type) or pa.decimal128(*map(int, re.findall(r"\d+", column.type)))

    return pa.schema([(column.name, arrow(column)) for column in feed.columns])


def read(uri: str, feed: Feed, pull: Pull, window: Window, *, asked: str) -> Generator[pa.Table]:
    """The window's rows in key order, in tables of some ten megabytes: the feed's columns in their types, and `WRITTEN_AT`.

    One transaction, repeatable read and read only: the rows are those of one moment, however long it takes.

    Args:
        asked: what errors begin with: who asks, for which night.

    Raises:
        LandingError: no connection; no such relation or column, or no right to read it; a type or value that the feed's type
            cannot hold; a row without watermark; the night is not over at the source; the connection or the time ran out.
    """
    import adbc_driver_manager
    import pyarrow as pa

    with closing(_connected(uri, asked)) as connection, closing(connection.cursor()) as cursor:
        # What the consumer raises does not pass through here: these are the source's errors.
        try:
            _begin(cursor, feed, window)
            found = _columns(cursor, feed, pull, asked)
            _check_watermarks(cursor, pull, window, asked)
            cursor.execute(_query(feed, pull, found, asked))
            for batch in cursor.fetch_record_batch():
                yield _typed(batch, feed, asked)
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            # What goes wrong half way the stream tells as one of Arrow's errors, a connection that ends as an OSError.
            said = _first_line(error)
            raise LandingError(
                f"{asked}: {pull.relation} was not read to its end: {said}. Nothing was landed, run the night again"
                + (f". It may take {STATEMENT_SECONDS} s: is there an index on {pull.watermark}?" if "statement timeout" in said else "")
            ) from error


def _connected(uri: str, asked: str) -> Any:
    import adbc_driver_manager
    from adbc_driver_postgresql import dbapi

    # Looked at first, because libpq repeats what it cannot read, and that may be half a password.
    if not _ADDRESS.fullmatch(uri) or _STRAY_PERCENT.search(uri):
        raise LandingError(
            f"{asked}: the source's address is no postgresql://user:password@host:port/database; "
            "in user and password write each of @ : / ? # % as %40 %3A %2F %3F %23 %25"
        )
    given = dict(parse_qsl(urlsplit(uri).query))
    patience = urlencode({name: value for name, value in _PATIENCE.items() if name not in given})
    try:
        return dbapi.connect(f"{uri}{'&' if '?' in uri else '?'}{patience}")
    except adbc_driver_manager.Error as error:
        said = _without_secrets(_first_line(error), uri)
    # Raised out here, so that no traceback repeats the driver's own words.
    raise LandingError(
        f"{asked}: no connection: {said}. Look at the feed's Airflow connection, and whether the source lets this machine in; "
        "nothing was landed, run the night again"
    )


def _without_secrets(text: str, uri: str) -> str:
    address = urlsplit(uri)
    words = [
        unquote(address.password or ""),
        *(value for name, value in parse_qsl(address.query.replace("+", "%2B")) if "password" in name),
    ]
    for word in filter(None, words):
        text = text.replace(word, "***").replace(quote(word, safe=""), "***")
    return text


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _begin(cursor: Any, feed: Feed, window: Window) -> None:
    settings = {
        "statement_timeout": f"{STATEMENT_SECONDS}s",
        "lock_timeout": "1min",
        "idle_in_transaction_session_timeout": "10min",
        "application_name": f"nightshift pull {feed.name}",
        "client_encoding": "UTF8",
        "TimeZone": "UTC",
        "DateStyle": "ISO",
        "nightshift.since": window.since.isoformat() if window.since else "-infinity",
        "nightshift.until": window.until.isoformat(),
    }
    calls = ", ".join(f"set_config(${number}, ${number + 1}, true)" for number in range(1, 2 * len(settings), 2))
    cursor.execute("set transaction isolation level repeatable read, read only")
    cursor.execute(f"select {calls}", [part for setting in settings.items() for part in setting])
    cursor.fetchall()


def _columns(cursor: Any, feed: Feed, pull: Pull, asked: str) -> dict[str, _Found]:
    """The relation's columns, once those that are wanted have been found, may be read, and the watermark is a time."""
    cursor.execute(_COLUMNS, pull.relation.split("."))
    found = {name: _Found(*rest) for name, *rest in cursor.fetchall()}
    if not found:
        raise LandingError(
            f"{asked}: the source has no table or view {pull.relation}. Mend Pull.relation, or the database that {pull.connection} names"
        )
    wanted = dict.fromkeys([*(column.name for column in feed.columns), pull.watermark])
    if missing := [name for name in wanted if name not in found]:
        raise LandingError(
            f"{asked}: {pull.relation} has no column {', '.join(missing)}; it has {', '.join(found)}. "
            "Change the feed, or pull from a view that bears its names"
        )
    if closed := [name for name in wanted if not found[name].readable]:
        cursor.execute("select current_user::text")
        role, schema_name = cursor.fetchone()[0], pull.relation.partition(".")[0]
        raise LandingError(
            f"{asked}: {role} may not read {', '.join(closed)} of {pull.relation}. Have it granted there: "
            f"grant usage on schema {schema_name} to {role}; grant select ({', '.join(closed)}) on {pull.relation} to {role}"
        )
    if (watermark := found[pull.watermark]).kind not in _WAYS["timestamp"]:
        raise LandingError(
            f"{asked}: {pull.relation}.{pull.watermark} is {watermark.shown}, expected timestamptz, or timestamp in UTC. "
            "Name a column in Pull.watermark that says when the row was last written"
        )
    return found


def _check_watermarks(cursor: Any, pull: Pull, window: Window, asked: str) -> None:
    """Refuse what would lose rows without a word: a night that still goes on, and rows that no night's window holds."""
    cursor.execute("select now(), now() >= current_setting('nightshift.until')::timestamptz")
    now, over = cursor.fetchone()
    if not over:
        raise LandingError(
            f"{asked}: it ends at {window.until:%Y-%m-%d %H:%M} UTC, and the source's clock says {now}. Pull it when it is over"
        )
    name = _quoted(pull.watermark)
    # Three conditions that an index on the watermark answers, rather than one that reads the table.
    cursor.execute(f"select count(*) from {_relation(pull)} where {name} is null or {name} = 'infinity' or {name} = '-infinity'")
    if lost := cursor.fetchone()[0]:
        raise LandingError(
            f"{asked}: {lost} rows of {pull.relation} have no {pull.watermark} (null or infinite), so no night would ever bring them. "
            f"Set it where it is missing, and make the column not null with a default of now(); nothing was landed"
        )


def _query(feed: Feed, pull: Pull, found: Mapping[str, _Found], asked: str) -> str:
    watermark, since, until = _quoted(pull.watermark), *(f"current_setting('nightshift.{end}')::timestamptz" for end in ("since", "until"))
    written_at = watermark
    if found[pull.watermark].kind == "timestamp":
        # In the condition the ends are turned into the column's type, not the column into theirs, so that an index serves.
        since, until, written_at = (f"({time} at time zone 'UTC')" for time in (since, until, watermark))
    selected = {column.name: _expression(column, found[column.name], pull, asked) for column in feed.columns}
    columns = ", ".join(f"{expression} as {_quoted(name)}" for name, expression in selected.items())
    texts = {column.name for column in feed.columns if column.type == "string"}
    # By their bytes texts are in the same order everywhere, by a language's rules they are not.
    order = [f'({selected[name]}) collate "C"' if name in texts else selected[name] for name in (feed.key, *selected)]
    return (
        f"select {columns}, {written_at} as {_quoted(WRITTEN_AT)} from {_relation(pull)} "
        f"where {watermark} >= {since} and {watermark} < {until} order by {', '.join(order)}"
    )


def _expression(column: Column, found: _Found, pull: Pull, asked: str) -> str:
    way = _WAYS[column.type.partition("(")[0]].get(found.kind)
    if way is None:
        raise LandingError(
            f"{asked}: {pull.relation}.{column.name} is {found.shown}, expected what {column.type} holds without loss. "
            "Change the feed's type, or pull from a view that casts it"
        )
    return way.format(_quoted(column.name))


def _typed(batch: pa.RecordBatch, feed: Feed, asked: str) -> pa.Table:
    import pyarrow as pa

    arrays = []
    for column, field in zip(feed.columns, schema(feed), strict=True):
        try:
            array = batch.column(column.name)
            array.validate(full=True)  # a database without an encoding hands on any bytes
            arrays.append(array.cast(field.type))
            _check_finite(arrays[-1])
        except pa.ArrowInvalid:
            # The value is not shown: it may be a person's, and logs are kept.
            raise LandingError(
                f"{asked}: column {column.name} holds a value that is no {column.type} (it would be cut, rounded or overflow, or is "
                "infinite). Mend it at the source, or change the feed's type; nothing was landed"
            ) from None
    return pa.table([*arrays, batch.column(WRITTEN_AT)], names=[*(column.name for column in feed.columns), WRITTEN_AT])


def _check_finite(array: pa.Array) -> None:
    """PostgreSQL's times begin in 4713 BC. The driver makes an earlier one of infinity, and of what 64 bits do not hold, without a word.

    Raises:
        ArrowInvalid: there is such a time.
    """
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_temporal(array.type):
        days = pa.types.is_date(array.type)
        first = compute.min(array.cast(pa.int32() if days else pa.int64())).as_py()
        if first is not None and first < -2_440_588 * (1 if days else 86_400_000_000):
            raise pa.ArrowInvalid("a time before all times")


def _relation(pull: Pull) -> str:
    return ".".join(map(_quoted, pull.relation.split(".")))


def _quoted(name: str) -> str:
    return f'"{name}"'
