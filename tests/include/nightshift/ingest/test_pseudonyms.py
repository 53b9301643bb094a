"""Pseudonyms: no analyst sees who a person is, everybody sees who is the same, and nothing but the mapping tells one from the other."""

from __future__ import annotations

import base64
import gzip
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from include.nightshift import keys
from include.nightshift.errors import ConfigurationError
from include.nightshift.ingest import ingest, pseudonyms
from include.nightshift.lakehouse import log, tables, views, writes
from include.nightshift.lakehouse.session import opened, rows
from include.nightshift.lakehouse.views import View
from include.nightshift.settings import Settings
from include.nightshift.usecase import Column, Feed, UseCase

Land = Callable[[Feed, date, Iterable[Sequence[object]]], Path]
Ask = Callable[[str], list[tuple[Any, ...]]]

NIGHT = date(2002, 5, 6)
NEXT, THIRD = NIGHT + timedelta(days=1), NIGHT + timedelta(days=2)
PERSONS = [7_412_906_358_174_200_000 + number for number in range(1, 7)]
PERSON = re.compile(r"7412906358174\d{6}")

STAYS = Feed(
    name="stays",
    description="Stays.",
    columns=(
        Column("stay_id", "bigint", "Names it."),
        Column("came_at", "timestamp", "When."),
        Column("guest", "string", "Who.", required=False),
        Column("born_on", "date", "The guest's birthday."),
        Column("income", "decimal(12,2)", "The guest's income."),
        Column("registered_at", "timestamp", "When the guest registered."),
        Column("floor", "int", "The guest's habit."),
    ),
    key="stay_id",
    event_time="came_at",
)
PRIVATE = replace(
    STAYS,
    version="1.0.1",
    columns=tuple(replace(c, personal=c.name not in ("stay_id", "came_at")) for c in STAYS.columns),
)


def bought(number: int, night: date, person: int) -> tuple[object, ...]:
    return (7020_000_000 + number, f"{night} 08:00:00", person, 21, "9.50")


def mapping(session: SparkSession) -> dict[str, str]:
    found = rows(session, "select value, pseudonym from silver.pseudonyms where column_name = 'customer_id' and length(value) = 19")
    assert len(found) == len({row["value"] for row in found})
    return {row["value"]: row["pseudonym"] for row in found}


def put(session: SparkSession, settings: Settings, table: tables.Table, found: list[dict[str, Any]], **slice_: list[str]) -> None:
    """Make the table's rows of NIGHT these, whatever columns they lack."""
    frame = writes.in_memory(session, table.arrow([{"day": NIGHT} | row for row in found]))
    writes.replace(session, settings, table, frame, {"day": [NIGHT]} | slice_, rows_expected=len(found))


@pytest.mark.lakehouse
def test_no_view_shows_a_person_and_all_show_the_same_pseudonym_over_jdbc_and_spark(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land, analyst: Ask
) -> None:
    events, labels = use_case.feeds
    # Each comes once or twice; the last is in quarantine only, where raw rows are.
    drop = [bought(number, NIGHT, person) for number, person in enumerate(PERSONS[:5])] + [bought(9, NIGHT, PERSONS[0])]
    land(events, NIGHT, [*drop, (7020_000_010, f"{NIGHT} 08:00:00", PERSONS[5], 21, "-1")])
    land(labels, NIGHT, [(7020_000_000, 1, f"{NIGHT} 09:00:00")])
    assert ingest(session, installation, events, [NIGHT]).accepted == {NIGHT: 6}
    ingest(session, installation, labels, [NIGHT])
    scored = [{"transaction_id": row[0], "customer_id": row[2], "score": 0.5} for row in drop]
    put(session, installation, tables.features(use_case), scored)
    put(session, installation, tables.scores(use_case), [row | {"role": "champion"} for row in scored], role=["champion"])
    put(session, installation, tables.alerts(use_case), [row | {"rank": number} for number, row in enumerate(scored, start=1)])

    given = mapping(session)
    assert set(map(str, PERSONS[:5])) <= set(given)
    assert str(PERSONS[5]) not in given
    key = keys.held(installation, keys.PSEUDONYM)
    assert given[str(PERSONS[0])] == key.digest("customer_id", str(PERSONS[0]))

    shown = {str(row["viewName"]) for row in rows(session, "show views in analyst")}
    assert {view.table.name for view in views.of(use_case)} <= shown
    for view in views.of(use_case):
        for query in (f"select * from {view} where day = date'{NIGHT}'", f"describe extended {view}", f"show create table {view}"):
            seen = analyst(query)
            assert seen, query
            assert not PERSON.search(repr(seen)), query
            assert not PERSON.search(repr(rows(session, query))), query
        # The same columns in the same order, and as many rows.
        assert [row[0] for row in analyst(f"describe {view}")] == [row[0] for row in analyst(f"describe {view.table}")][
            : len(view.table.names)
        ]
        counts = [analyst(f"select count(*) from {name} where day = date'{NIGHT}'") for name in (view, view.table)]
        assert counts[0] == counts[1]
        if view.hidden:
            pairs = rows(
                session,
                f"select distinct cast(t.customer_id as string) as who, v.customer_id as shown from {view} v join {view.table} t "
                "on v.transaction_id = t.transaction_id and v.day = t.day where t.day = :night",
                night=NIGHT,
            )
            assert {row["who"]: row["shown"] for row in pairs} == {str(person): given[str(person)] for person in PERSONS[:5]}, view
            assert len(pairs) == 5, view

    joined = analyst(
        "select count(*), count(distinct s.customer_id) from analyst.card_fraud_scores s join analyst.transactions e "
        f"on e.customer_id = s.customer_id and e.day = s.day where s.day = date'{NIGHT}'"
    )
    # The one who came twice meets both of their rows twice.
    assert joined == [(8, 5)]


@pytest.mark.lakehouse
def test_whoever_has_no_pseudonym_yet_is_null_in_the_views(session: SparkSession, installation: Settings, use_case: UseCase) -> None:
    stranger = {"transaction_id": 7020_000_099, "customer_id": 7_412_906_358_174_299_999, "rank": 1}
    put(session, installation, tables.alerts(use_case), [stranger])
    assert rows(session, "select customer_id from analyst.card_fraud_alerts where day = :night", night=NIGHT) == [{"customer_id": None}]


@pytest.mark.lakehouse
def test_nights_of_known_persons_commit_nothing_and_a_new_person_is_one_commit(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed = use_case.events
    # Other files of tests put rows into silver by hand.
    pseudonyms.complete(session, installation)
    land(feed, NIGHT, [bought(number, NIGHT, person) for number, person in enumerate(PERSONS[:5])])
    ingest(session, installation, feed, [NIGHT])
    before = log.version(installation, tables.PSEUDONYMS)
    land(feed, NEXT, [bought(20 + number, NEXT, person) for number, person in enumerate(PERSONS[:5])])
    ingest(session, installation, feed, [NEXT])
    assert log.version(installation, tables.PSEUDONYMS) == before
    land(feed, THIRD, [bought(30, THIRD, PERSONS[0]), bought(31, THIRD, PERSONS[0] + 500), bought(32, THIRD, PERSONS[0] + 501)])
    ingest(session, installation, feed, [THIRD])
    assert log.version(installation, tables.PSEUDONYMS) == before + 1
    assert pseudonyms.keep(session, installation, feed, [NIGHT, NEXT, THIRD]) == 0
    assert pseudonyms.complete(session, installation) == 0
    assert log.version(installation, tables.PSEUDONYMS) == before + 1


@pytest.mark.lakehouse
def test_writers_at_once_make_one_row_for_one_person(session: SparkSession, installation: Settings, use_case: UseCase) -> None:
    """Six writers, each on a session of its own, with overlapping persons; a plain append would make several rows of one."""
    persons = [7_412_906_358_174_300_000 + number for number in range(60)]
    begin, table = threading.Barrier(6), tables.PSEUDONYMS
    key, before = keys.held(installation, keys.PSEUDONYM), log.version(installation, table)

    def write(number: int) -> int:
        own = opened(installation)
        try:
            begin.wait(timeout=60)
            return pseudonyms._give(
                own, installation, "customer_id", pa.array([str(person) for person in persons[number * 6 : number * 6 + 30]])
            )
        finally:
            own.stop()

    with ThreadPoolExecutor(6) as pool:
        assert max(pool.map(write, range(6))) == 30
    given = {value: pseudonym for value, pseudonym in mapping(session).items() if value.startswith("74129063581743")}
    assert given == {str(person): key.digest("customer_id", str(person)) for person in persons}
    history = [entry for entry in log.opened(installation, table).history(20) if entry["version"] > before]
    inserted = [int(entry["operationMetrics"]["numOutputRows"]) for entry in history]
    assert sum(inserted) == 60
    assert len(inserted) > 1, "one writer did it all: nobody met anybody"


@pytest.mark.lakehouse
def test_a_write_that_rests_on_what_was_read_before_another_wrote_is_passed_over(
    session: SparkSession, installation: Settings, use_case: UseCase
) -> None:
    person = "7412906358174400001"
    opened = log.opened(installation, tables.PSEUDONYMS)
    rows_ = pseudonyms._rows(keys.made(installation, keys.PSEUDONYM), "customer_id", pa.array([person]))
    try:
        for turn, held in ((0, 1), (0, 1), (1, 2)):  # the last does not rest on what it read: this is what a plain append would do
            pseudonyms._write(session, installation, rows_, "append", pseudonyms._turn(opened) + turn)
            assert rows(session, "select count(*) as n from silver.pseudonyms where value = :who", who=person) == [{"n": held}]
    finally:
        # By what tells of nobody: the predicate stays in the table's history.
        session.sql(f"delete from {tables.PSEUDONYMS} where pseudonym = '{rows_['pseudonym'][0].as_py()}'")


@pytest.mark.lakehouse
def test_a_column_that_becomes_personal_is_done_for_all_nights_and_every_type_is_found_again(
    session: SparkSession, installation: Settings, analyst: Ask
) -> None:
    def land_stays(night: date, *lines: str) -> None:
        path = installation.landing_folder / "stays" / f"{night}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = ",".join(column.name for column in STAYS.columns)
        path.write_bytes(gzip.compress("\n".join([header, *lines, ""]).encode(), mtime=0))

    shown = View(tables.silver(PRIVATE), tables.PSEUDONYMS, frozenset(PRIVATE.personal))
    land_stays(
        NIGHT,
        f"1,{NIGHT} 08:00:00,Ada d'Or,1990-02-28,0.10,2001-01-01 00:00:00.000001,-3",
        f"2,{NIGHT} 09:00:00,,1890-01-01,9,2001-01-01,4",
    )
    land_stays(NEXT, f'3,{NEXT} 08:00:00,"Bé \\ ""7""",0990-12-31,9999999999.99,1969-12-31 23:59:59.5,4')
    try:
        for table in (tables.bronze(STAYS), tables.silver(STAYS)):
            session.sql(table.ddl())
        ingest(session, installation, STAYS, [NIGHT])
        views.create(session, [shown])
        assert rows(session, f"select distinct guest, born_on, income, registered_at, floor from {shown}") == [
            dict.fromkeys(PRIVATE.personal)
        ]

        ingest(session, installation, PRIVATE, [NEXT])
        key = keys.held(installation, keys.PSEUDONYM)
        wanted = {
            1: ["Ada d'Or", "1990-02-28", "0.10", "978307200000001", "-3"],
            2: [None, "1890-01-01", "9.00", "978307200000000", "4"],
            3: ['Bé \\ "7"', "0990-12-31", "9999999999.99", "-500000", "4"],
        }
        hidden = {
            number: tuple(text and key.digest(name, text) for name, text in zip(PRIVATE.personal, texts, strict=True))
            for number, texts in wanted.items()
        }
        query = f"select stay_id, {', '.join(PRIVATE.personal)} from {shown}"
        # Whatever the time zone of whoever asks.
        for zone in ("UTC", "Pacific/Auckland"):
            analyst(f"set spark.sql.session.timeZone={zone}")
            assert {row[0]: row[1:] for row in analyst(query)} == hidden, zone
    finally:
        session.sql(f"drop view if exists {shown}")
        session.sql("drop table if exists bronze.stays")
        session.sql("drop table if exists silver.stays")


@pytest.mark.lakehouse
def test_views_are_replaced_when_the_table_has_changed_and_only_then(
    session: SparkSession, installation: Settings, use_case: UseCase
) -> None:
    table = tables.silver(STAYS)
    shown = View(table, tables.PSEUDONYMS, frozenset({"guest"}))
    session.sql(table.ddl())
    try:
        assert views.create(session, [shown]) == ["analyst.stays"]
        assert views.create(session, [shown]) == []
        wider = replace(shown, table=replace(table, columns=(*table.columns, tables.TableColumn("room", "int", "Where."))))
        session.sql(f"alter table {table} add columns (room int)")
        assert views.create(session, [wider]) == ["analyst.stays"]
        assert [row["col_name"] for row in rows(session, f"describe {wider}")] == wider.table.names
    finally:
        session.sql("drop view if exists analyst.stays")
        session.sql(f"drop table if exists {table}")


@pytest.mark.lakehouse
def test_no_view_log_or_commit_holds_the_key_and_the_catalog_no_person(
    session: SparkSession, installation: Settings, use_case: UseCase, home: Path
) -> None:
    secret = (installation.home / "keys" / "pseudonym.key").read_bytes()
    told = [secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)]
    searched = [path for path in sorted(home.rglob("*")) if path.is_file() and path.parent != home / "keys"]
    assert len(searched) > 50
    for path in searched:
        content = path.read_bytes()
        assert not any(form in content for form in told), path
        # Not Spark's scratch folder, where rows lie while they are sorted and joined.
        if path.is_relative_to(home / "metastore" / "derby") or path.suffix == ".log":
            assert not PERSON.search(content.decode("latin-1")), path
            assert not PERSON.search(content.decode("utf-16-le", errors="ignore")), path
    # What a commit says it did, as everybody who may ask for a history reads it. The mapping's own rows are another matter.
    for table in (tables.PSEUDONYMS, *tables.of(use_case)):
        assert not PERSON.search(repr(rows(session, f"describe history {table}")))


@pytest.mark.lakehouse
def test_another_key_gives_everybody_another_pseudonym_and_a_lost_one_is_noticed_before_anybody_gets_one(
    session: SparkSession, installation: Settings, use_case: UseCase, land: Land
) -> None:
    feed, path = use_case.events, installation.home / "keys" / "pseudonym.key"
    land(feed, NIGHT, [bought(number, NIGHT, person) for number, person in enumerate(PERSONS[:5])])
    ingest(session, installation, feed, [NIGHT])
    before, version = mapping(session), log.version(installation, tables.PSEUDONYMS)
    fourth = THIRD + timedelta(days=1)
    land(feed, fourth, [bought(40, fourth, PERSONS[0] + 600)])
    kept = path.read_bytes()
    try:
        path.unlink()
        with pytest.raises(ConfigurationError, match=r"pseudonym\.key is missing: restore it.*--renew"):
            ingest(session, installation, feed, [fourth])
        keys.made(installation, keys.PSEUDONYM)
        with pytest.raises(ConfigurationError, match=r"holds pseudonyms of the key [0-9a-f]{16}, and this one is [0-9a-f]{16}"):
            ingest(session, installation, feed, [fourth])
        assert (mapping(session), log.version(installation, tables.PSEUDONYMS)) == (before, version)

        renewed = pseudonyms.renew(session, installation)
        after = mapping(session)
        assert set(after) == {*before, str(PERSONS[0] + 600)}
        assert not set(after.values()) & set(before.values())
        assert renewed == log.opened(installation, tables.PSEUDONYMS).to_pyarrow_table().num_rows
        assert ingest(session, installation, feed, [fourth]).accepted == {fourth: 1}
        assert mapping(session) == after

        # The key before brings the pseudonyms before back.
        path.write_bytes(kept)
        pseudonyms.renew(session, installation)
        assert {value: mapping(session)[value] for value in before} == before
    finally:
        path.write_bytes(kept)
        path.chmod(0o600)
        shutil.rmtree(installation.landing_folder / "stays", ignore_errors=True)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([7, -(2**63), None], pa.int64()), ["7", "-9223372036854775808", None]),
        (pa.array(["é '", ""], pa.string()), ["é '", ""]),
        (pa.array([date(1990, 2, 28)], pa.date32()), ["1990-02-28"]),
        (pa.array([Decimal("0.0000000001"), Decimal("0E-10")], pa.decimal128(20, 10)), ["0.0000000001", "0.0000000000"]),
        (pa.array([datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)], pa.timestamp("us", tz="UTC")), ["1000000"]),
    ],
)
def test_values_become_texts_without_rounding(values: pa.Array, texts: list[str | None]) -> None:
    assert pseudonyms.texts(values).to_pylist() == texts
