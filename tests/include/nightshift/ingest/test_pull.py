"""Increments pulled from a real PostgreSQL: every change comes once, with the first night whose pull sees it; nothing comes half."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pyarrow import parquet

from include.nightshift.errors import ConfigurationError, LandingError
from include.nightshift.ingest import landing, postgresql, pull
from include.nightshift.settings import ROOT, Settings
from include.nightshift.usecase import Column, Feed, Pull

MONDAY = date(2021, 3, 1)
TUESDAY, WEDNESDAY, THURSDAY = (MONDAY + timedelta(days=days) for days in (1, 2, 3))

VISITS = Feed(
    name="visits",
    description="Visits to a counter.",
    columns=(
        Column("visit_id", "bigint", "Names the visit."),
        Column("visited_at", "timestamp", "When."),
        Column("amount", "decimal(12,2)", "What was paid."),
        Column("remark", "string", "What was said."),
    ),
    key="visit_id",
    event_time="visited_at",
    pull=Pull(connection="counter", relation="public.visits", watermark="written_at"),
)
VISITED_AT = datetime(2021, 3, 1, 8, tzinfo=UTC)
ENDS = datetime(2021, 3, 2, tzinfo=UTC)
"""The midnight that ends Monday."""


@dataclass(frozen=True)
class Source:
    """A table of visits, and an installation that pulls from it."""

    schema: Any
    feed: Feed
    settings: Settings

    def write(
        self, visit_id: int, written_at: datetime, amount: str = "9.50", remark: str | None = None, *, at: datetime = VISITED_AT
    ) -> None:
        """Insert or update a row, as a transaction that is committed at once."""
        self.schema.sql(
            "insert into visits values (%s, %s, %s, %s, %s) on conflict (visit_id) do update "
            "set amount = excluded.amount, remark = excluded.remark, written_at = excluded.written_at",
            *(visit_id, at, Decimal(amount), remark, written_at),
        )

    def pull(self, night: date, *, again: bool = False) -> pull.Pulled:
        pulled = pull.pull(self.settings, self.feed, night, self.schema.uri, again=again)
        assert pulled is not None
        return pulled

    def landed(self, night: date) -> list[dict[str, Any]]:
        return parquet.read_table(self.path(night)).to_pylist()

    def ids(self, night: date) -> list[int]:
        return [row["visit_id"] for row in self.landed(night)]

    def path(self, night: date) -> Path:
        return self.settings.landing_folder / self.feed.name / f"{night}.parquet"

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.settings.landing_folder / self.feed.name).iterdir() if path.name != ".pull.lock")


@pytest.fixture
def source(schema: Any, tmp_path: Path) -> Source:
    schema.sql(
        "create table visits (visit_id bigint primary key, visited_at timestamptz, amount numeric(12,2), remark text, "
        "written_at timestamptz not null default now(), unasked text)"
    )
    schema.sql("create index on visits (written_at)")
    return Source(schema, pulled_from(VISITS, relation=f"{schema.name}.visits"), Settings(home=tmp_path))


def pulled_from(feed: Feed, **changes: Any) -> Feed:
    assert feed.pull is not None
    return replace(feed, pull=replace(feed.pull, **changes))


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def test_the_first_pull_lands_all_that_was_written_before_the_nights_end(source: Source) -> None:
    source.write(2, ENDS - hours(1), remark="ça va")
    source.write(1, ENDS - timedelta(days=400))
    source.write(3, ENDS + hours(1))
    pulled = source.pull(MONDAY)
    assert (pulled.rows, pulled.late, pulled.left_out, pulled.read) == (2, 0, 0, True)
    assert pulled.path == source.path(MONDAY)
    assert source.landed(MONDAY) == [
        {"visit_id": 1, "visited_at": VISITED_AT, "amount": Decimal("9.50"), "remark": None},
        {"visit_id": 2, "visited_at": VISITED_AT, "amount": Decimal("9.50"), "remark": "ça va"},
    ]
    assert parquet.read_schema(pulled.path).types == [pa.int64(), pa.timestamp("us", tz="UTC"), pa.decimal128(12, 2), pa.string()]


def test_a_feed_that_begins_brings_nothing_written_before(source: Source) -> None:
    begun = replace(source, feed=replace(pulled_from(source.feed, overlap_hours=72), first_drop=MONDAY))
    source.write(1, ENDS - hours(24) - timedelta(microseconds=1))
    source.write(2, ENDS - hours(24))
    begun.pull(MONDAY)
    source.write(3, ENDS - hours(30))
    begun.pull(TUESDAY)
    assert (begun.ids(MONDAY), begun.ids(TUESDAY)) == ([2], [])
    assert pull.pull(begun.settings, begun.feed, MONDAY - timedelta(days=1), source.schema.uri) is None


def test_the_next_night_brings_what_is_new_and_an_update_with_its_new_values(source: Source) -> None:
    for visit_id in (1, 2):
        source.write(visit_id, ENDS - hours(2))
    source.pull(MONDAY)
    source.write(2, ENDS + hours(3), amount="7.00")
    source.write(3, ENDS + hours(4))
    pulled = source.pull(TUESDAY)
    assert {row["visit_id"]: row["amount"] for row in source.landed(TUESDAY)} == {2: Decimal("7.00"), 3: Decimal("9.50")}
    assert (pulled.rows, pulled.late, pulled.left_out) == (2, 0, 1)
    assert source.ids(MONDAY) == [1, 2]
    assert source.pull(WEDNESDAY).rows == 0
    assert source.landed(WEDNESDAY) == []


def test_a_row_written_again_with_equal_values_is_held_by_the_night_it_was_written_in(source: Source) -> None:
    """Left out, it would be lost when the earlier night is pulled again: there it is no more."""
    source.write(1, ENDS - hours(2))
    source.pull(MONDAY)
    source.write(1, ENDS + hours(2))
    source.pull(TUESDAY)
    source.pull(MONDAY, again=True)
    assert (source.ids(MONDAY), source.ids(TUESDAY)) == ([], [1])


def test_what_was_pulled_is_read_like_any_landed_file(source: Source) -> None:
    source.write(7, ENDS - hours(1), amount="0.10", remark='a, "b"', at=datetime(2021, 3, 1, 8, 0, 0, 25, tzinfo=UTC))
    source.write(8, ENDS - hours(1))
    source.pull(MONDAY)
    drop = landing.read(source.settings, source.feed, MONDAY)
    assert drop is not None
    assert (drop.source, drop.rows, drop.malformed) == (f"visits/{MONDAY}.parquet", 2, [])
    assert [[row[column.name] for column in source.feed.columns] for row in drop.table.to_pylist()] == [
        ["7", "2021-03-01 08:00:00.000025", "0.10", 'a, "b"'],
        ["8", "2021-03-01 08:00:00.000000", "9.50", None],
    ]


def test_a_row_written_at_midnight_belongs_to_the_day_that_begins(source: Source) -> None:
    source.write(1, ENDS - timedelta(microseconds=1))
    source.write(2, ENDS)
    source.pull(MONDAY)
    source.pull(TUESDAY)
    assert (source.ids(MONDAY), source.ids(TUESDAY)) == ([1], [2])


def test_what_commits_after_its_nights_pull_comes_with_the_next(source: Source) -> None:
    source.write(1, ENDS - hours(2))
    source.write(2, ENDS - hours(2))
    slow = psycopg2.connect(source.schema.uri)
    try:
        with slow.cursor() as cursor:
            cursor.execute(f"set search_path to {source.schema.name}")
            cursor.execute("insert into visits values (3, now(), 1, null, %s)", (ENDS - hours(1),))
            cursor.execute("update visits set amount = 2, written_at = %s where visit_id = 1", (ENDS - hours(1),))
            source.pull(MONDAY)
            slow.commit()
    finally:
        slow.close()
    pulled = source.pull(TUESDAY)
    assert source.ids(MONDAY) == [1, 2]
    assert {row["visit_id"]: row["amount"] for row in source.landed(TUESDAY)} == {1: Decimal(2), 3: Decimal(1)}
    assert (pulled.late, pulled.left_out) == (2, 1)
    assert source.pull(WEDNESDAY).rows == 0


def test_a_late_commit_that_undoes_a_change_comes_too(source: Source) -> None:
    wide = replace(source, feed=pulled_from(source.feed, overlap_hours=72))
    source.write(1, ENDS - hours(5), amount="1")
    wide.pull(MONDAY)
    source.write(1, ENDS + hours(5), amount="2")
    wide.pull(TUESDAY)
    source.write(1, ENDS - hours(1), amount="1")
    wide.pull(WEDNESDAY)
    assert [row["amount"] for night in (MONDAY, TUESDAY, WEDNESDAY) for row in wide.landed(night)] == [1, 2, 1]
    wide.pull(THURSDAY)
    assert wide.landed(THURSDAY) == []


def test_a_night_that_was_left_out_is_made_up_for_and_brings_nothing_twice_when_it_comes_after_all(source: Source) -> None:
    source.write(1, ENDS - hours(1))
    source.pull(MONDAY)
    source.write(2, ENDS + hours(1))
    source.write(3, ENDS + hours(47))
    source.write(4, ENDS + hours(49))
    source.pull(THURSDAY)
    source.write(5, ENDS + hours(2))
    assert source.ids(THURSDAY) == [2, 3, 4]
    assert [source.pull(night).rows for night in (WEDNESDAY, TUESDAY)] == [1, 0]
    before = source.path(THURSDAY).read_bytes()
    assert source.pull(THURSDAY, again=True).rows == 3
    assert source.path(THURSDAY).read_bytes() == before


def test_a_night_that_has_its_file_is_not_pulled_again_unless_asked(source: Source) -> None:
    source.write(1, ENDS - hours(1))
    source.pull(MONDAY)
    source.schema.sql("update visits set amount = 3")  # a correction that says nothing of itself: the watermark stays
    again = source.pull(MONDAY)
    assert (again.read, again.rows) == (False, 1)
    assert source.landed(MONDAY)[0]["amount"] == Decimal("9.50")
    assert source.pull(MONDAY, again=True).read
    assert source.landed(MONDAY)[0]["amount"] == Decimal(3)


def test_pulled_again_from_the_same_source_the_bytes_are_the_same(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "ROWS_PER_GROUP", 700)
    source.schema.sql(
        "insert into visits select (g * 7919) %% 10007, now(), g / 100.0, case when g %% 3 > 0 then 'r' || g end, %s "
        "from generate_series(1, 5000) g",
        ENDS - hours(1),
    )
    source.pull(MONDAY)
    first = source.path(MONDAY).read_bytes()
    read = postgresql.read

    def in_portions(*arguments: Any, **named: Any) -> Iterator[pa.Table]:
        for table in read(*arguments, **named):
            yield from (table.slice(begin, 333) for begin in range(0, table.num_rows, 333))

    monkeypatch.setattr(postgresql, "read", lambda *arguments, **named: in_portions(*arguments, **named))
    source.pull(MONDAY, again=True)
    assert source.path(MONDAY).read_bytes() == first
    assert source.ids(MONDAY) == sorted(source.ids(MONDAY))
    assert parquet.ParquetFile(source.path(MONDAY)).num_row_groups == 8
    # A night later all of them are looked at again, in other portions than they were written.
    assert (source.pull(TUESDAY).left_out, source.ids(TUESDAY)) == (5000, [])


def test_the_file_says_where_its_rows_are_from_and_nothing_secret(source: Source) -> None:
    source.pull(MONDAY)
    source.pull(TUESDAY)
    note = json.loads(parquet.read_schema(source.path(TUESDAY)).metadata[pull.NOTE])
    relation = f"{source.schema.name}.visits"
    assert note == {
        "connection": "counter",
        "relation": relation,
        "watermark": "written_at",
        "since": "2021-03-01T00:00:00+00:00",
        "until": "2021-03-03T00:00:00+00:00",
    }
    assert b"postgresql://" not in source.path(TUESDAY).read_bytes()


def test_a_night_that_somebody_landed_is_left_alone(source: Source) -> None:
    source.write(1, ENDS - hours(1))
    folder = source.path(MONDAY).parent
    folder.mkdir(parents=True)
    (folder / f"{MONDAY}.csv.gz").write_bytes(b"theirs")
    pulled = source.pull(MONDAY)
    assert (pulled.path.name, pulled.rows, pulled.read) == (f"{MONDAY}.csv.gz", None, False)
    with pytest.raises(LandingError, match=r"2021-03-01\.csv\.gz was not pulled, so no pull replaces it"):
        source.pull(MONDAY, again=True)
    assert source.files() == [f"{MONDAY}.csv.gz"]


def test_what_somebody_landed_as_parquet_is_not_brought_again(source: Source) -> None:
    source.write(1, ENDS - hours(1))
    source.pull(MONDAY)
    source.write(2, ENDS + hours(1))
    source.pull(TUESDAY)
    table = parquet.read_table(source.path(TUESDAY))
    parquet.write_table(table.replace_schema_metadata(None), source.path(TUESDAY))
    source.write(3, ENDS + hours(25))
    source.pull(WEDNESDAY)
    assert source.ids(WEDNESDAY) == [3]
    with pytest.raises(LandingError, match="was not pulled"):
        source.pull(TUESDAY, again=True)


def test_a_feed_that_gains_a_column_brings_the_rows_of_the_overlap_again_with_it(source: Source) -> None:
    source.write(1, ENDS - hours(30))
    source.write(2, ENDS - hours(1))
    source.pull(MONDAY)
    wider = replace(source.feed, columns=(*source.feed.columns, Column("unasked", "string", "New.")))
    replace(source, feed=wider).pull(TUESDAY)
    assert source.ids(TUESDAY) == [2]


def test_two_pulls_at_once_bring_everything_once(source: Source) -> None:
    source.schema.sql("insert into visits select g, now(), 1, null, %s from generate_series(1, 20000) g", ENDS - hours(1))
    running = [threading.Thread(target=source.pull, args=(night,)) for night in (MONDAY, MONDAY, TUESDAY)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert sorted(source.ids(MONDAY) + source.ids(TUESDAY)) == list(range(1, 20001))
    assert source.files() == [f"{MONDAY}.parquet", f"{TUESDAY}.parquet"]


def test_a_feed_without_pull_and_a_folder_that_is_not_ours_are_refused(source: Source) -> None:
    with pytest.raises(ConfigurationError, match="is dropped, not pulled"):
        pull.pull(source.settings, replace(source.feed, pull=None), MONDAY, source.schema.uri)
    (source.settings.home / "landing").write_text("in the way")
    with pytest.raises(LandingError, match=r"landing\.visits, night 2021-03-01: .* cannot be written.*NIGHTSHIFT_LANDING"):
        source.pull(MONDAY)


def test_a_damaged_file_of_another_night_is_named(source: Source) -> None:
    source.pull(MONDAY)
    source.path(MONDAY).write_bytes(b"PAR1")
    with pytest.raises(LandingError, match=r"2021-03-01\.parquet is no whole Parquet file"):
        source.pull(TUESDAY)


SLOWLY = """
import sys
from datetime import date
from pathlib import Path
from include.nightshift.ingest import pull
from include.nightshift.settings import Settings
from include.nightshift.usecase import Column, Feed, Pull

pull.ROWS_PER_GROUP = 1000
columns = (Column("visit_id", "bigint", ""), Column("remark", "string", ""))
source = Pull(connection="counter", relation=sys.argv[2], watermark="written_at")
feed = Feed(name="visits", description="", columns=columns, key="visit_id", event_time="visit_id", pull=source)
print(pull.pull(Settings(home=Path(sys.argv[3])), feed, date(2021, 3, 1), sys.argv[1]).rows)
"""


def slowly(source: Source) -> subprocess.Popen[str]:
    """A pull of half a million rows in a process of its own, that has begun to write its file."""
    source.schema.sql("alter table visits alter remark set default repeat('x', 100)")
    source.schema.sql(
        "insert into visits (visit_id, written_at) select g, %s from generate_series(1, 500000) g on conflict do nothing", ENDS - hours(1)
    )
    line = [sys.executable, "-c", SLOWLY, source.schema.uri, f"{source.schema.name}.visits", str(source.settings.home)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    temporary = source.path(MONDAY).with_name(f".{MONDAY}.parquet.tmp")
    deadline = time.monotonic() + 60
    while not (temporary.exists() and temporary.stat().st_size > 4096):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def test_killed_half_way_no_file_stands_and_the_next_pull_is_right(source: Source) -> None:
    with slowly(source) as process:
        process.send_signal(signal.SIGKILL)
    assert source.files() == [f".{MONDAY}.parquet.tmp"]
    with slowly(source) as process:
        assert process.communicate() == ("500000\n", "")
    assert source.files() == [f"{MONDAY}.parquet"]
    assert source.ids(MONDAY) == list(range(1, 500001))


def test_when_the_source_breaks_off_nothing_is_left_and_the_error_says_what_to_do(source: Source) -> None:
    with slowly(source) as process:
        ended = source.schema.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'nightshift pull visits'"
        )
        assert ended == [(True,)]
        said = process.communicate()[1]
    assert "was not read to its end" in said
    assert "Nothing was landed, run the night again" in said
    assert source.files() == []


@dataclass(frozen=True)
class Transaction:
    """One write of a key, in hours since Monday began; its watermark is its start."""

    key: int
    value: int
    start: int
    lasts: int


TRANSACTIONS = st.lists(
    st.builds(Transaction, st.integers(1, 3), st.integers(0, 1), st.integers(0, 95), st.one_of(st.just(0), st.integers(0, 59))), max_size=12
)
PULLS = st.dictionaries(st.integers(0, 4), st.integers(0, 40), max_size=5)
"""Which nights are pulled, counted from Monday, and how many hours after their end."""


def history(
    source: Source, transactions: Sequence[Transaction], pulls: dict[int, int], overlap: int, *, ordered: bool
) -> Iterator[tuple[date, dict[int, int], list[tuple[int, int]]]]:
    """Let it all happen, in the order of the hours, commits before pulls. For each pull: its night, what it could see, what it landed.

    A row's amount is the transaction's number, or its value where transactions repeat values.
    """
    source.schema.sql("truncate visits")
    for path in (source.settings.landing_folder / "visits").glob("*.parquet"):
        path.unlink()
    wide = replace(source, feed=pulled_from(source.feed, overlap_hours=overlap))
    due = {night: 24 * (night + 1) + delay for night, delay in (pulls | {9: 0}).items()}
    if ordered:
        due = {night: max(hour for other, hour in due.items() if other <= night) for night in due}
    happenings: list[tuple[int, int, int, Transaction | None]] = [(hour, 1, night, None) for night, hour in due.items()]
    happenings += [(each.start + each.lasts % overlap, 0, number, each) for number, each in enumerate(transactions)]
    held: dict[int, tuple[int, int]] = {}
    for _, _, number, transaction in sorted(happenings, key=lambda happening: happening[:3]):
        if transaction:
            held[transaction.key] = (transaction.start, transaction.value)
            source.write(transaction.key, ENDS + hours(transaction.start - 24), amount=str(transaction.value))
        else:
            night = MONDAY + timedelta(days=number)
            wide.pull(night)
            seen = {key: value for key, (start, value) in held.items() if start < 24 * (number + 1)}
            yield night, seen, [(row["visit_id"], int(row["amount"])) for row in wide.landed(night)]


def told_apart(transactions: Sequence[Transaction]) -> list[Transaction]:
    """The same transactions, each with a value of its own."""
    return [replace(each, value=number) for number, each in enumerate(transactions)]


LENIENT = examples(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LENIENT
@given(TRANSACTIONS, PULLS, st.sampled_from([24, 60]))
def test_each_version_that_a_pull_could_see_comes_once_with_the_first_that_could(
    source: Source, transactions: list[Transaction], pulls: dict[int, int], overlap: int
) -> None:
    known: set[tuple[int, int]] = set()
    for _, seen, landed in history(source, told_apart(transactions), pulls, overlap, ordered=True):
        assert sorted(landed) == sorted(set(seen.items()) - known)
        known |= set(seen.items())


@LENIENT
@given(TRANSACTIONS, PULLS, st.sampled_from([24, 60]))
def test_whatever_order_nights_are_pulled_in_no_version_is_lost_and_no_row_written_once_is_doubled(
    source: Source, transactions: list[Transaction], pulls: dict[int, int], overlap: int
) -> None:
    known: set[tuple[int, int]] = set()
    once = {each.key for each in transactions if sum(other.key == each.key for other in transactions) == 1}
    for _, seen, landed in history(source, told_apart(transactions), pulls, overlap, ordered=False):
        assert set(seen.items()) - known <= set(landed) <= set(seen.items())
        assert not {row for row in landed if row[0] in once} & known
        known |= set(landed)


@LENIENT
@given(TRANSACTIONS, PULLS, st.sampled_from([24, 60]))
def test_where_values_come_back_the_last_that_came_is_what_the_source_holds(
    source: Source, transactions: list[Transaction], pulls: dict[int, int], overlap: int
) -> None:
    came: dict[int, int] = {}
    for _, seen, landed in history(source, transactions, pulls, overlap, ordered=True):
        came |= dict(landed)
        assert came == came | seen
