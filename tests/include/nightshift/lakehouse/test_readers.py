"""Readers: delta-rs, Polars, DuckDB, Spark and JDBC see the same values in every gold and ops table, and the ones that were written."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import SparkSession

from include.nightshift.lakehouse import log, records, storage, tables, writes
from include.nightshift.lakehouse.tables import Table
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.usecase import USE_CASE

NIGHT = date(2004, 2, 29)
MARK = "readers"

READ = [table for table in (*tables.of(USE_CASE), *tables.SHARED) if table.schema in ("gold", "ops")]
# No gold or ops table holds a decimal; this one does, and analysts read it too.
READ.append(tables.silver(USE_CASE.events))

Row = dict[str, Any]
Reader = Callable[[Table], list[Row]]

VALUES: dict[str, tuple[Any, Any]] = {
    "string": ('it\'s \\ "é"\n;', ""),
    "bigint": (2**53 + 1, -(2**63)),
    "int": (2**31 - 1, -1),
    "double": (0.1, math.nan),
    "boolean": (True, False),
    "date": (date(1969, 12, 31), date(2099, 1, 1)),
    "timestamp": (datetime(2004, 2, 29, 23, 59, 59, 999999, tzinfo=UTC), datetime(1999, 12, 31, 23, 0, 0, tzinfo=UTC)),
    "decimal(12,2)": (Decimal("9999999999.99"), Decimal("-0.01")),
}


def mark(table: Table) -> str:
    """The column by which the rows of this module are known: the night, or the first text."""
    return "day" if "day" in table.partition else next(column.name for column in table.columns if column.type == "string")


def written(table: Table) -> list[Row]:
    """Three rows: of plain and of awkward values, and one of nulls wherever the table has no partition."""
    rows: list[Row] = [{column.name: VALUES[column.type][number] for column in table.columns} for number in range(2)]
    rows.append({column.name: None for column in table.columns})
    for number, row in enumerate(rows):
        row |= {name: f"{name} {number}/é" for name in table.partition if name != "day"}
        row[mark(table)] = NIGHT if mark(table) == "day" else f"{MARK} {number}"
    return rows


def mine(table: Table, rows: list[Row]) -> list[Row]:
    """The rows of this module: other tests write to the same tables."""
    wanted = {NIGHT.isoformat(), *(f"{MARK} {number}" for number in range(3))}
    return [row for row in rows if str(row[mark(table)]) in wanted]


def plain(value: Any, kind: str) -> str:
    """A value of a column's type in one spelling.

    Raises:
        TypeError: the reader gave something else than the type says.
    """
    match value, kind:
        case None, _:
            return "null"
        case str(), "string":
            return repr(value)
        case bool(), "boolean":
            return str(value)
        case int(), "bigint" | "int":
            return str(value)
        case float(), "double":
            return value.hex()
        case datetime(), "timestamp" if value.tzinfo:
            return value.astimezone(UTC).isoformat()
        case date(), "date":
            return value.isoformat()
        case Decimal(), _ if kind.startswith("decimal"):
            return str(value)
    raise TypeError(f"{value!r} is no {kind}")


def content_hash(table: Table, rows: list[Row]) -> str:
    """One hash of all values, whatever the order of rows and columns."""
    lines = sorted("\x1f".join(plain(row[column.name], column.type) for column in table.columns) for row in rows)
    return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()


def put(session: SparkSession, settings: Settings, table: Table, rows: list[Row]) -> None:
    if table.is_record:
        values = [NIGHT] if mark(table) == "day" else [f"{MARK} {number}" for number in range(3)]
        records.replace(settings, table, rows, {mark(table): values})
    else:
        frame = writes.in_memory(session, table.arrow(rows))
        writes.replace(session, settings, table, frame, {"day": [NIGHT]}, rows_expected=len(rows))


@pytest.fixture(scope="module")
def filled(installation: Settings) -> Iterator[Settings]:
    from include.nightshift.lakehouse.session import connect

    for table in READ:
        put(connect(installation), installation, table, written(table))
    yield installation
    for table in READ:
        put(connect(installation), installation, table, [])


@pytest.fixture
def readers(session: SparkSession, filled: Settings) -> Iterator[dict[str, Reader]]:
    import duckdb
    import polars
    from pyhive import hive

    jdbc = hive.connect("127.0.0.1", filled.ports.jdbc, auth="NONE")

    def by_duckdb(table: Table) -> list[Row]:
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            connection.register("held", log.opened(filled, table).to_pyarrow_dataset())
            found = connection.execute("select * from held")
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def from_jdbc(value: Any, kind: str) -> Any:
        # The driver leaves dates as text, and JDBC has no zones: a timestamp is of the server's, which is UTC.
        if kind == "DATE_TYPE" and value is not None:
            return date.fromisoformat(value)
        return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value

    def by_jdbc(table: Table) -> list[Row]:
        cursor = jdbc.cursor()
        cursor.execute(f"select * from {table}")
        columns = [(column[0].rpartition(".")[2], column[1]) for column in cursor.description]
        return [{name: from_jdbc(value, kind) for (name, kind), value in zip(columns, row, strict=True)} for row in cursor.fetchall()]

    yield {
        "delta-rs": lambda table: log.opened(filled, table).to_pyarrow_table().to_pylist(),
        "Polars": lambda table: polars.read_delta(storage.location(filled, table)).to_dicts(),
        "DuckDB": by_duckdb,
        "Spark": lambda table: session.table(str(table)).toArrow().to_pylist(),
        "JDBC": by_jdbc,
    }
    jdbc.close()


@pytest.mark.lakehouse
@pytest.mark.parametrize("table", READ, ids=str)
def test_every_reader_finds_the_values_that_were_written(readers: dict[str, Reader], table: Table) -> None:
    expected = content_hash(table, written(table))
    assert {name: content_hash(table, mine(table, read(table))) for name, read in readers.items()} == dict.fromkeys(readers, expected)


@pytest.mark.lakehouse
def test_one_value_changed_in_a_table_changes_the_hash_for_every_reader(
    session: SparkSession, filled: Settings, readers: dict[str, Reader]
) -> None:
    for table in (tables.alerts(USE_CASE), tables.GATE_REPORTS):
        rows = written(table)
        changed = next(column for column in table.columns if column.type == "double" or column.name == "passed")
        rows[0] = rows[0] | {changed.name: math.nextafter(0.1, 1) if changed.type == "double" else False}
        put(session, filled, table, rows)
        hashes = {content_hash(table, mine(table, read(table))) for read in readers.values()}
        put(session, filled, table, written(table))
        assert hashes == {content_hash(table, rows)} != {content_hash(table, written(table))}


@pytest.mark.parametrize("table", READ, ids=str)
def test_the_hash_sees_every_column_and_null_but_no_order(table: Table) -> None:
    rows = written(table)
    expected = content_hash(table, rows)
    turned = [dict(random.sample(sorted(row.items()), len(row))) for row in reversed(rows)]
    assert content_hash(table, turned) == expected
    for column in table.columns:
        other = f"{rows[0][column.name]}." if column.type == "string" else VALUES[column.type][1]
        for number, value in ((0, other), (0, None), (2, other)):
            changed = [dict(row) for row in rows]
            changed[number][column.name] = value
            assert content_hash(table, changed) != expected, column.name
    assert content_hash(table, rows[:2]) != expected
    assert content_hash(table, [*rows, rows[0]]) != expected


def features(settings: Settings, table: Table) -> set[str]:
    """What a reader must know to read the table, beyond plain Delta."""
    protocol = log.opened(settings, table).protocol()
    return set(protocol.reader_features or ()) | ({f"version {protocol.min_reader_version}"} if protocol.min_reader_version > 1 else set())


@pytest.mark.lakehouse
def test_no_table_asks_a_reader_for_more_than_plain_delta(installation: Settings, use_case: UseCase) -> None:
    asked = {str(table): features(installation, table) for table in (*tables.of(use_case), *tables.SHARED)}
    assert {name: found for name, found in asked.items() if found} == {}


@pytest.mark.lakehouse
@pytest.mark.parametrize(
    "property_",
    [
        "'delta.enableDeletionVectors' = 'true'",
        "'delta.columnMapping.mode' = 'name'",
        "'delta.checkpointPolicy' = 'v2'",
        "'delta.enableTypeWidening' = 'true'",
    ],
)
def test_a_feature_that_breaks_readers_would_be_seen(session: SparkSession, installation: Settings, property_: str) -> None:
    table = Table(schema="gold", name="breaks_readers", comment="One row per n.", columns=(), partition=())
    session.sql(f"create table {table} (n int) using delta tblproperties ({property_})")
    try:
        assert features(installation, table)
    finally:
        session.sql(f"drop table {table}")
