"""Writes that can be repeated: equal content commits nothing, a changed slice replaces itself and no more."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import ContractError, WriteConflictError
from include.nightshift.lakehouse import log, writes
from include.nightshift.lakehouse.session import rows
from include.nightshift.lakehouse.tables import Table, TableColumn
from include.nightshift.settings import Settings

FIRST, SECOND = date(2020, 3, 1), date(2020, 3, 2)
VISITS = Table(
    schema="ops",
    name="visits",
    comment="One row per visit.",
    columns=(
        TableColumn("day", "date", "The night."),
        TableColumn("n", "int", "A number."),
        TableColumn("word", "string", "A word; may be null."),
        TableColumn("seen_at", "timestamp", "When.", clock=True),
    ),
)


@pytest.fixture
def visits(session: SparkSession) -> Iterator[Table]:
    session.sql(VISITS.ddl())
    yield VISITS
    session.sql(f"drop table {VISITS}")


def put(session: SparkSession, installation: Settings, night: date, words: list[str | None], clock: str = "2020-03-01") -> writes.Written:
    values = [(night, number, word) for number, word in enumerate(words)]
    frame = session.createDataFrame(values, "day date, n int, word string").selectExpr("*", f"timestamp'{clock}' as seen_at")
    return writes.replace(session, installation, VISITS, frame, {"day": [night]}, rows_expected=len(words))


def content(session: SparkSession) -> list[tuple[date, int, str | None]]:
    return [(row["day"], row["n"], row["word"]) for row in rows(session, f"select * from {VISITS} order by day, n")]


@pytest.mark.lakehouse
def test_equal_content_commits_nothing_whatever_the_clock_the_order_and_the_files(
    session: SparkSession, installation: Settings, visits: Table
) -> None:
    assert put(session, installation, FIRST, ["a", None, "c"]).changed
    before = log.version(installation, visits)
    assert not put(session, installation, FIRST, ["a", None, "c"], clock="2024-01-01").changed
    shuffled = session.sql(
        f"select word, n, day, timestamp'2025-01-01' as seen_at from {visits} order by n desc"  # another order of rows and of columns
    ).repartition(3)
    assert not writes.replace(session, installation, visits, shuffled, {"day": [FIRST]}, rows_expected=3).changed
    assert log.version(installation, visits) == before
    assert rows(session, f"select distinct year(seen_at) as year from {visits}") == [{"year": 2020}]


@pytest.mark.lakehouse
def test_changed_content_replaces_its_own_slice_only(session: SparkSession, installation: Settings, visits: Table) -> None:
    put(session, installation, SECOND, ["x"])
    changes: list[list[str | None]] = [["a", "b", "c"], ["a", "", "c"], ["a", None, "c"], ["c", "a"], []]
    for words in changes:
        written = put(session, installation, FIRST, words)
        assert (written.changed, written.rows) == (True, len(words))
        assert content(session) == [*((FIRST, n, word) for n, word in enumerate(words)), (SECOND, 0, "x")]


@pytest.mark.lakehouse
def test_an_empty_slice_that_stays_empty_commits_nothing(session: SparkSession, installation: Settings, visits: Table) -> None:
    assert not put(session, installation, FIRST, []).changed
    assert log.version(installation, visits) == 0


@pytest.mark.lakehouse
def test_another_number_of_rows_than_expected_is_an_error(session: SparkSession, installation: Settings, visits: Table) -> None:
    frame = session.sql("select date'2020-03-01' as day, 1 as n, 'a' as word, timestamp'2020-03-01' as seen_at")
    with pytest.raises(ContractError, match="1 rows were written, 2 expected"):
        writes.replace(session, installation, visits, frame, {"day": [FIRST]}, rows_expected=2)


@pytest.mark.lakehouse
def test_two_runs_of_one_night_leave_one_content_and_no_error(session: SparkSession, installation: Settings, visits: Table) -> None:
    put(session, installation, SECOND, ["kept"])
    with ThreadPoolExecutor(3) as runs:
        written = list(runs.map(lambda _: put(session, installation, FIRST, ["a", "b"]), range(3)))
    assert any(one.changed for one in written)
    assert content(session) == [(FIRST, 0, "a"), (FIRST, 1, "b"), (SECOND, 0, "kept")]
    assert not put(session, installation, FIRST, ["a", "b"]).changed


@pytest.mark.lakehouse
def test_a_run_that_finds_its_rows_just_written_by_another_counts_those(
    session: SparkSession, installation: Settings, visits: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(session, installation, FIRST, ["a", "b", "c"])
    # The log was read a moment before the other run replaced the single row that the night held until then.
    monkeypatch.setattr(log, "rows_by_night", lambda *asked: {FIRST: 1})
    assert put(session, installation, FIRST, ["a", "b", "c"]) == writes.Written(str(visits), 3, False, log.version(installation, visits))


def test_a_writer_that_always_loses_gives_up_with_advice_and_other_errors_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes.time, "sleep", lambda seconds: None)
    tries = []

    def loses() -> None:
        tries.append(1)
        raise RuntimeError("[DELTA_CONCURRENT_APPEND] files were added")

    with pytest.raises(WriteConflictError, match=r"ops\.visits: 8 attempts .* nothing was written"):
        writes.retried(loses, str(VISITS))
    assert len(tries) == writes.ATTEMPTS

    def breaks() -> None:
        tries.append(1)
        raise RuntimeError("disk full")

    tries.clear()
    with pytest.raises(RuntimeError, match="disk full"):
        writes.retried(breaks, str(VISITS))
    assert len(tries) == 1


def test_a_writer_that_loses_twice_wins_the_third_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes.time, "sleep", lambda seconds: None)
    answers = iter([RuntimeError("ConcurrentAppendException"), RuntimeError("DELTA_METADATA_CHANGED"), None])

    def attempt() -> str:
        if answer := next(answers):
            raise answer
        return "written"

    assert writes.retried(attempt, str(VISITS)) == "written"
