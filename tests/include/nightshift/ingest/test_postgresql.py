"""Reading a real PostgreSQL: each type arrives exact or not at all, and each refusal names what to mend and no secret."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pyarrow as pa
import pytest

from include.nightshift.errors import LandingError
from include.nightshift.ingest import postgresql as reader
from include.nightshift.ingest.postgresql import WRITTEN_AT, Window
from include.nightshift.usecase import Column, Feed, Pull

UNTIL = datetime(2021, 3, 2, tzinfo=UTC)
WINDOW = Window(None, UNTIL)
WRITTEN = "2021-03-01 10:00:00+00"

Read = Callable[..., list[Any]]


def feed_of(column: str) -> Feed:
    return Feed(name="values", description="", columns=(Column("id", "bigint", ""), Column("v", column, "")), key="id", event_time="id")


@pytest.fixture
def read(schema: Any) -> Read:
    """Read values that stand in a column of a type of PostgreSQL's as a feed's type."""

    def values(type_: str, wanted: str, *written: str, watermark: str = "timestamptz") -> list[Any]:
        schema.sql(f"create table t (id int generated always as identity, v {type_}, w {watermark} default '{WRITTEN}')")
        for value in written:
            schema.sql(f"insert into t (v) values ({value})")
        return table(schema, feed_of(wanted))["v"].to_pylist()

    return values


def table(schema: Any, feed: Feed, uri: str = "", window: Window = WINDOW, relation: str = "t", watermark: str = "w") -> pa.Table:
    pull = Pull(connection="source", relation=f"{schema.name}.{relation}", watermark=watermark)
    return pa.concat_tables(reader.read(uri or schema.uri, feed, pull, window, asked="landing.values, night 2021-03-01"))


@pytest.mark.parametrize(
    ("type_", "wanted", "written", "arrived"),
    [
        ("smallint", "bigint", "7", 7),
        ("int", "int", "-2147483648", -2147483648),
        ("bigint", "int", "7", 7),
        ("numeric(10,2)", "int", "7.00", 7),
        ("numeric", "bigint", "9223372036854775807", 9223372036854775807),
        ("boolean", "int", "true", 1),
        ("numeric(12,2)", "decimal(12,2)", "1234567890.12", Decimal("1234567890.12")),
        ("numeric", "decimal(12,2)", "-0.1", Decimal("-0.10")),
        ("numeric", "decimal(38,10)", "1234567890123456789012345678.0123456789", Decimal("1234567890123456789012345678.0123456789")),
        ("bigint", "decimal(12,2)", "5", Decimal("5.00")),
        ("double precision", "double", "0.1", 0.1),
        ("real", "double", "0.5", 0.5),
        ("text", "string", "'ça \u2713, \"q\"\n'", 'ça ✓, "q"\n'),
        ("varchar(5)", "string", "''", ""),
        ("char(4)", "string", "'x'", "x"),
        ("uuid", "string", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("jsonb", "string", """'{"b":1}'""", '{"b": 1}'),
        ("numeric", "string", "1.50", "1.50"),
        ("date", "date", "'1582-10-15'", date(1582, 10, 15)),
        ("timestamptz", "timestamp", "'2021-03-28 02:30:00+02'", datetime(2021, 3, 28, 0, 30, tzinfo=UTC)),
        ("timestamptz", "timestamp", "'2021-06-01 12:00 America/New_York'", datetime(2021, 6, 1, 16, 0, tzinfo=UTC)),
        ("timestamp", "timestamp", "'2021-03-28 02:30:00.123456'", datetime(2021, 3, 28, 2, 30, 0, 123456, tzinfo=UTC)),
    ],
)
def test_a_value_arrives_exactly(read: Read, type_: str, wanted: str, written: str, arrived: object) -> None:
    assert read(type_, wanted, written, "null") == [arrived, None]


@pytest.mark.parametrize(
    ("type_", "wanted", "shown"),
    [
        ("double precision", "decimal(12,2)", "double precision"),
        ("double precision", "bigint", "double precision"),
        ("numeric(12,2)", "double", r"numeric\(12,2\)"),
        ("bigint", "double", "bigint"),
        ("text", "bigint", "text"),
        ("timestamptz", "date", "timestamp with time zone"),
        ("timestamptz", "string", "timestamp with time zone"),
        ("bigint[]", "string", r"bigint\[\]"),
        ("bytea", "string", "bytea"),
        ("money", "decimal(12,2)", "money"),
        ("interval", "string", "interval"),
    ],
)
def test_a_type_that_would_lose_something_is_refused_by_name(read: Read, type_: str, wanted: str, shown: str) -> None:
    with pytest.raises(LandingError, match=rf"night 2021-03-01: s\w+\.t\.v is {shown}, expected what {wanted.replace('(', '.')[:7]}"):
        read(type_, wanted)


@pytest.mark.parametrize(
    ("type_", "wanted", "written"),
    [
        ("numeric", "decimal(12,2)", "1.005"),
        ("numeric", "decimal(12,2)", "12345678901"),
        ("numeric", "decimal(12,2)", "'NaN'"),
        ("numeric", "decimal(12,2)", "'Infinity'"),
        ("numeric", "bigint", "7.5"),
        ("bigint", "int", "2147483648"),
        ("date", "date", "'infinity'"),
        ("date", "date", "'-infinity'"),
        ("timestamptz", "timestamp", "'infinity'"),
        ("timestamp", "timestamp", "'-infinity'"),
        ("timestamptz", "timestamp", "'294276-01-01'"),
    ],
)
def test_a_value_that_the_feeds_type_cannot_hold_is_refused_and_not_shown(read: Read, type_: str, wanted: str, written: str) -> None:
    with pytest.raises(LandingError, match=r"column v holds a value that is no .*Mend it at the source") as caught:
        read(type_, wanted, "null", written)
    assert written.strip("'") not in "".join(traceback.format_exception(caught.value)).replace("or is infinite", "")


def test_domains_and_enums_are_read_as_what_they_are_made_of(schema: Any) -> None:
    schema.sql("create type mood as enum ('glad', 'sad')")
    schema.sql("create domain price as numeric(12,2) check (value >= 0)")
    schema.sql("create domain key as mood not null")
    schema.sql("create table t (id key, v price, w timestamptz)")
    schema.sql(f"insert into t values ('sad', 2, '{WRITTEN}'), ('glad', 1, '{WRITTEN}')")
    columns = (Column("id", "string", ""), Column("v", "decimal(12,2)", ""))
    feed = Feed(name="values", description="", columns=columns, key="id", event_time="id")
    assert table(schema, feed).select(["id", "v"]).to_pylist() == [{"id": "glad", "v": Decimal(1)}, {"id": "sad", "v": Decimal(2)}]


def test_a_watermark_without_time_zone_is_utc_whatever_the_servers_zone(schema: Any) -> None:
    schema.sql("create table t (id bigint, v bigint, w timestamp)")
    schema.sql(
        "insert into t values (1, 1, '2021-02-28 23:59:59.999999'), (2, 2, '2021-03-01'), (3, 3, '2021-03-01 23:59'), (4, 4, '2021-03-02')"
    )
    schema.sql("alter database airflow set timezone to 'America/New_York'")
    try:
        rows = table(schema, feed_of("bigint"), window=Window(UNTIL - timedelta(days=1), UNTIL))
    finally:
        schema.sql("alter database airflow reset timezone")
    assert rows["id"].to_pylist() == [2, 3]
    assert rows[WRITTEN_AT].to_pylist() == [datetime(2021, 3, 1, tzinfo=UTC), datetime(2021, 3, 1, 23, 59, tzinfo=UTC)]


def test_a_view_and_names_that_are_words_of_sql_are_read(schema: Any) -> None:
    schema.sql('create table "order" ("select" bigint, "from" text, "where" timestamptz)')
    schema.sql(f"""insert into "order" values (1, 'x', '{WRITTEN}')""")
    schema.sql('create view "table" as select * from "order"')
    columns = (Column("select", "bigint", ""), Column("from", "string", ""))
    feed = Feed(name="values", description="", columns=columns, key="select", event_time="select")
    assert table(schema, feed, relation="table", watermark="where")["from"].to_pylist() == ["x"]


def test_rows_come_in_the_order_of_the_keys_bytes_whatever_the_language(schema: Any) -> None:
    schema.sql("create table t (id text, v bigint, w timestamptz)")
    for key in ("b", "a", "B", "é", "z", "10", "9"):
        schema.sql("insert into t values (%s, 1, %s)", key, WRITTEN)
    columns = (Column("id", "string", ""), Column("v", "bigint", ""))
    feed = Feed(name="values", description="", columns=columns, key="id", event_time="id")
    assert table(schema, feed)["id"].to_pylist() == ["10", "9", "B", "a", "b", "z", "é"]


def test_the_index_on_the_watermark_serves(schema: Any) -> None:
    for kind in ("timestamptz", "timestamp"):
        schema.sql(f"create table t (id bigint, v bigint, w {kind})")
        schema.sql("create index on t (w)")
        schema.sql("insert into t select g, g, timestamp '2020-01-01' + g * interval '1 minute' from generate_series(1, 50000) g")
        schema.sql("analyze t")
        pull = Pull(connection="source", relation=f"{schema.name}.t", watermark="w")
        found = {name: reader._Found(type_, type_, True) for name, type_ in (("id", "int8"), ("v", "int8"), ("w", kind))}
        schema.sql("select set_config('nightshift.since', '2020-01-02', false), set_config('nightshift.until', '2020-01-03', false)")
        plan = "\n".join(row[0] for row in schema.sql(f"explain {reader._query(feed_of('bigint'), pull, found, '')}"))
        assert "Index Scan" in plan, plan
        schema.sql("drop table t")


def test_rows_that_no_night_would_bring_are_counted_and_refused(schema: Any) -> None:
    schema.sql("create table t (id bigint, v bigint, w timestamptz)")
    schema.sql("insert into t values (1, 1, null), (2, 2, 'infinity'), (3, 3, '-infinity'), (4, 4, now())")
    with pytest.raises(LandingError, match=r"3 rows of s\w+\.t have no w \(null or infinite\).*not null with a default"):
        table(schema, feed_of("bigint"))


def test_a_night_that_is_not_over_at_the_source_is_refused(schema: Any) -> None:
    schema.sql("create table t (id bigint, v bigint, w timestamptz)")
    with pytest.raises(LandingError, match=r"it ends at .* and the source's clock says .*Pull it when it is over"):
        table(schema, feed_of("bigint"), window=Window(None, datetime.now(UTC) + timedelta(minutes=5)))


def test_what_is_not_there_is_named(schema: Any) -> None:
    with pytest.raises(LandingError, match=r"the source has no table or view s\w+\.t\. Mend Pull\.relation"):
        table(schema, feed_of("bigint"))
    schema.sql("create table t (id bigint, dropped int, w text)")
    schema.sql("alter table t drop dropped")
    with pytest.raises(LandingError, match=r"has no column v; it has id, w\."):
        table(schema, feed_of("bigint"))
    schema.sql("alter table t add v bigint")
    with pytest.raises(LandingError, match=r"has no column nobody"):
        table(schema, feed_of("bigint"), watermark="nobody")
    with pytest.raises(LandingError, match=r"\.t\.w is text, expected timestamptz, or timestamp in UTC"):
        table(schema, feed_of("bigint"))


def test_the_right_to_read_the_columns_is_enough_and_without_it_the_error_says_what_to_grant(schema: Any) -> None:
    role = f"r{schema.name[1:20]}"
    schema.sql(f"create table t (id bigint, v bigint, w timestamptz, secret text); insert into t values (1, 7, '{WRITTEN}', 'x')")
    schema.sql(f"create role {role} login")
    uri = schema.uri.replace("//airflow@", f"//{role}@")
    try:
        schema.sql(f"grant select (id, w) on t to {role}")
        with pytest.raises(LandingError, match=rf"{role} may not read id, v, w of .*grant usage on schema .*; grant select \(id, v, w\)"):
            table(schema, feed_of("bigint"), uri)
        schema.sql(f"grant usage on schema {schema.name} to {role}")
        with pytest.raises(LandingError, match=rf"{role} may not read v of .*grant select \(v\) on s\w+\.t to {role}"):
            table(schema, feed_of("bigint"), uri)
        schema.sql(f"grant select (v) on t to {role}")
        assert table(schema, feed_of("bigint"), uri)["v"].to_pylist() == [7]
    finally:
        schema.sql(f"drop owned by {role}; drop role {role}")


def test_nothing_can_be_written_and_all_is_of_one_moment(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    schema.sql("create table t (id bigint, v bigint, w timestamptz)")
    schema.sql(f"insert into t values (1, 1, '{WRITTEN}')")
    checked = reader._check_watermarks

    def then_another_writes(cursor: Any, *rest: Any) -> None:
        checked(cursor, *rest)
        schema.sql(f"insert into t values (2, 2, '{WRITTEN}')")

    monkeypatch.setattr(reader, "_check_watermarks", then_another_writes)
    assert table(schema, feed_of("bigint"))["id"].to_pylist() == [1]
    schema.sql(f"create function f() returns bigint language sql as $$ insert into {schema.name}.t values (3, 3, now()) returning 3 $$")
    schema.sql("create view careless as select id, v + coalesce(f(), 0) as v, w from t")
    with pytest.raises(LandingError, match="read-only transaction"):
        table(schema, feed_of("bigint"), relation="careless")


def test_a_statement_that_takes_too_long_is_ended_and_an_index_thought_of(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "STATEMENT_SECONDS", 1)
    schema.sql(f"create view t as select 1::bigint as id, 1::bigint as v, timestamptz '{WRITTEN}' as w from pg_sleep(5)")
    with pytest.raises(LandingError, match=r"canceling statement due to statement timeout.*is there an index on w\?"):
        table(schema, feed_of("bigint"))


def test_text_of_another_encoding_arrives_as_what_it_says_and_bytes_of_none_are_refused(schema: Any) -> None:
    for encoding in ("latin1", "sql_ascii"):
        name = f"{schema.name}_{encoding}"
        schema.sql(f"create database {name} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'")
        uri = schema.uri.removesuffix("/airflow") + f"/{name}"
        try:
            other = psycopg2.connect(uri)
            with other, other.cursor() as cursor:
                cursor.execute(f"create schema {schema.name}; create table {schema.name}.t (id bigint, v text, w timestamptz)")
                # In sql_ascii nobody knows what the byte means.
                value = "chr(233)" if encoding == "latin1" else r"convert_from('\xe9', 'sql_ascii')"
                cursor.execute(f"insert into {schema.name}.t values (1, {value}, '{WRITTEN}')")
            other.close()
            if encoding == "latin1":
                assert table(schema, feed_of("string"), uri)["v"].to_pylist() == ["é"]
            else:
                with pytest.raises(LandingError, match=r"column v holds a value that is no string|invalid byte sequence"):
                    table(schema, feed_of("string"), uri)
        finally:
            schema.sql(f"drop database {name} with (force)")


PASSWORD = "hun@ter/2?%x"


@pytest.fixture
def guarded(schema: Any) -> Any:
    """A role that must say its password, which is not the one given to the tests."""
    role = f"g{schema.name[1:20]}"
    file = Path(schema.sql("show hba_file")[0][0])
    before = file.read_text()
    file.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{before}")
    schema.sql(f"create role {role} login password 'another'")
    schema.sql("select pg_reload_conf()")
    time.sleep(0.2)
    yield role
    file.write_text(before)
    schema.sql("select pg_reload_conf()")
    schema.sql(f"drop role {role}")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://ROLE:SECRET@HOST/airflow", "password authentication failed for user"),
        ("postgres://ROLE:SECRET@HOST/airflow", "password authentication failed for user"),
        ("postgresql://ROLE@HOST/airflow?password=SECRET", "password authentication failed for user"),
        ("postgresql://airflow:SECRET@127.0.0.1:1/airflow", "Connection refused"),
        ("postgresql://airflow:SECRET@HOST/SECRET", r'database "\*\*\*" does not exist'),
        ("postgresql://airflow:SECRET@HOST/airflow?sslmode=require", "server does not support SSL, but SSL was required"),
        ("postgresql://airflow:SECRET@HOST/airflow?cursor=plain", 'invalid URI query parameter: "cursor"'),
        ("postgresql://airflow:PLAIN@HOST/airflow", "is no postgresql://user:password@host:port/database"),
        ("postgresql://airflow:hunter%2@HOST/airflow", "is no postgresql://"),
        ("mysql://airflow:SECRET@HOST/airflow", "is no postgresql://"),
        ("SECRET", "is no postgresql://"),
    ],
)
def test_where_no_connection_comes_about_the_password_is_not_shown(schema: Any, guarded: str, address: str, message: str) -> None:
    host = schema.uri.partition("@")[2].partition("/")[0]
    uri = address.replace("ROLE", guarded).replace("HOST", host).replace("SECRET", quote(PASSWORD, safe="")).replace("PLAIN", PASSWORD)
    with pytest.raises(LandingError, match=message) as caught:
        table(schema, feed_of("bigint"), uri)
    said = "".join(traceback.format_exception(caught.value))
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "hun@", "hunter"):
        assert secret not in said
    assert "night 2021-03-01" in str(caught.value)


def test_a_source_that_does_not_answer_is_given_up(schema: Any) -> None:
    import socket

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        started = time.monotonic()
        with pytest.raises(LandingError, match=r"no connection: .*timeout expired"):
            table(schema, feed_of("bigint"), f"postgresql://airflow@127.0.0.1:{deaf.getsockname()[1]}/airflow?connect_timeout=2")
        assert time.monotonic() - started < 10
