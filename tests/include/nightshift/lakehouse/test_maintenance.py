"""Maintain: a pinned version stays byte for byte, one that nobody pinned is gone, and a write at the same time loses nothing."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, maintenance, pins, storage, tables, vacuum, writes
from include.nightshift.lakehouse.files import Folder
from include.nightshift.lakehouse.maintenance import Maintained
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

if TYPE_CHECKING:
    from tests.include.nightshift.lakehouse.conftest import Kept

AT_ONCE: dict[str, Any] = {"keep_days": 0, "in_flight": timedelta(0)}
NEXT = date(2008, 3, 2)
FORTY_DAYS_AGO = time.time() - 40 * 86400
GONE = r"(?i)not.exist|no such file|not.found"


def maintain(kept: Kept, **how: Any) -> Maintained:
    return maintenance.maintain_table(kept.session, kept.settings, kept.table, **(AT_ONCE | how))


def folder(kept: Kept) -> Path:
    return Path(storage.location(kept.settings, kept.table))


def file_bytes(kept: Kept, version: int) -> dict[str, str]:
    """The files of a version, and what is in them."""
    uris = log.opened(kept.settings, kept.table, version).file_uris()
    return {uri: hashlib.sha256(Path(uri).read_bytes()).hexdigest() for uri in uris}


def fingerprint(kept: Kept, version: int) -> tuple[int, int, int]:
    return writes.fingerprint(kept.session.sql(f"select * from {kept.table} version as of {version}"), kept.table.content)


def unpin(kept: Kept) -> None:
    pins.release(kept.settings, pins.held(kept.settings, kept.table, datetime.now(UTC).date()))


@pytest.mark.lakehouse
def test_a_pinned_version_stays_byte_for_byte_and_one_that_nobody_pinned_is_gone(kept: Kept) -> None:
    pinned, unpinned = kept.put([(1, 1.5), (2, 2.5)]), kept.put([(3, 3.5)])
    kept.put([(4, 4.5)])
    kept.put([(9, 9.5)], night=NEXT)
    pins.pin(kept.settings, kept.table, pinned, "run-1")
    before = file_bytes(kept, pinned), fingerprint(kept, pinned)
    done = maintain(kept)
    assert (file_bytes(kept, pinned), fingerprint(kept, pinned)) == before
    assert kept.by_spark(pinned) == kept.by_delta_rs(pinned) == [(1, 1.5), (2, 2.5)]
    for read in (kept.by_spark, kept.by_delta_rs):
        with pytest.raises(Exception, match=GONE):
            read(unpinned)
    assert kept.by_spark() == kept.by_delta_rs() == [(4, 4.5), (9, 9.5)]
    assert done.kept == {pinned: "pinned for run-1", done.version: "live"}
    assert (done.files_before, done.files_after) == (4, 3)
    assert done.bytes_before > done.bytes_after == sum(file.size for file in Folder(kept.settings, kept.table).data())

    unpin(kept)
    assert maintain(kept).kept == {done.version: "live"}
    with pytest.raises(Exception, match=GONE):
        kept.by_spark(pinned)


@pytest.mark.lakehouse
def test_small_files_become_one_and_a_second_run_does_nothing(kept: Kept) -> None:
    for number in range(4):
        kept.append([(number, float(number))])
    before = log.version(kept.settings, kept.table)
    first = maintain(kept)
    assert (first.compacted, first.files_before, first.files_after) == (4, 4, 1)
    assert first.version > before
    assert kept.by_spark() == kept.by_delta_rs() == [(number, float(number)) for number in range(4)]
    files = Folder(kept.settings, kept.table).files()
    second = maintain(kept)
    assert (second.compacted, second.version) == (0, first.version)
    assert Folder(kept.settings, kept.table).files() == files


@pytest.mark.parametrize("kept", ["ops"], indirect=True)
@pytest.mark.lakehouse
def test_a_version_stays_readable_for_days_after_another_took_its_place_but_comes_back_for_nobody(kept: Kept) -> None:
    old, replaced, live = kept.put([(1, 1.5)]), kept.put([(2, 2.5)]), kept.put([(3, 3.5)])
    done = maintain(kept, keep_days=7)
    assert done.kept == {old - 1: "replaced within 7 days", old: "replaced within 7 days", replaced: "replaced within 7 days", live: "live"}
    assert kept.by_spark(old) == kept.by_delta_rs(old) == [(1, 1.5)]
    maintain(kept, keep_days=0)
    # What is gone is not said to be kept; the empty version before the first write reads no file.
    assert maintain(kept, keep_days=7).kept == {old - 1: "replaced within 7 days", live: "live"}


@pytest.mark.lakehouse
def test_a_file_of_no_version_is_a_writes_until_it_is_old(kept: Kept) -> None:
    kept.put([(1, 1.5)])
    under_way = folder(kept) / "day=2008-03-02" / "part-00000-under-way.snappy.parquet"
    under_way.parent.mkdir()
    under_way.write_bytes(b"not yet named by any version")
    maintain(kept, in_flight=vacuum.IN_FLIGHT)
    assert under_way.exists()
    os.utime(under_way, (time.time() - 3700,) * 2)
    maintain(kept, in_flight=vacuum.IN_FLIGHT)
    assert not under_way.exists()


@pytest.mark.lakehouse
def test_writes_that_race_maintain_lose_nothing(kept: Kept) -> None:
    nights = [date(2008, 4, 1) + timedelta(days=number) for number in range(3)]

    def write(night: date) -> None:
        for attempt in range(2):
            kept.put([(night.day, float(attempt))], night)

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write, night) for night in nights]
        rounds = 0
        while not all(one.done() for one in writing) or not rounds:
            kept.append([(100 + rounds, 0.5)])
            maintain(kept, in_flight=timedelta(minutes=10))
            rounds += 1
        for one in writing:
            one.result()
    expected = sorted([*((night.day, 1.0) for night in nights), *((100 + number, 0.5) for number in range(rounds))])
    assert kept.by_spark() == kept.by_delta_rs() == expected
    maintain(kept)
    assert kept.by_spark() == kept.by_delta_rs() == expected


@pytest.mark.parametrize("kept", ["gold"], indirect=True)
@pytest.mark.lakehouse
def test_a_pinned_version_is_readable_when_its_log_has_aged_by_forty_days(kept: Kept) -> None:
    # A checkpoint is when Delta cleans its log: let every second commit make one.
    kept.session.sql(f"alter table {kept.table} set tblproperties ('delta.checkpointInterval' = '2')")
    pinned = kept.put([(1, 1.5)])
    kept.put([(2, 2.5)])
    pins.pin(kept.settings, kept.table, pinned, "run-1")
    for path in folder(kept).rglob("*"):
        os.utime(path, (FORTY_DAYS_AGO, FORTY_DAYS_AGO))
    for number in range(2):
        kept.append([(number, 0.5)])
    maintain(kept)
    assert kept.by_spark(pinned) == kept.by_delta_rs(pinned) == [(1, 1.5)]
    unpin(kept)


@pytest.mark.parametrize("kept", ["ops"], indirect=True)
@pytest.mark.lakehouse
def test_a_pinned_version_that_lost_a_file_is_reported_and_nothing_is_taken(kept: Kept) -> None:
    pinned = kept.put([(1, 1.5)])
    kept.put([(2, 2.5)])
    live = kept.put([(3, 3.5)])
    pins.pin(kept.settings, kept.table, pinned, "run-1")
    [lost] = map(Path, log.opened(kept.settings, kept.table, pinned).file_uris())
    lost.unlink()
    before = Folder(kept.settings, kept.table).data()
    with pytest.raises(LakehouseError, match=rf"{kept.table} version {pinned} \(pinned for run-1\) lacks 1 files .*release its pin"):
        maintain(kept)
    assert Folder(kept.settings, kept.table).data() == before
    unpin(kept)
    assert maintain(kept).kept == {live: "live"}


@pytest.mark.parametrize("kept", ["ops"], indirect=True)
@pytest.mark.lakehouse
def test_files_that_somebody_else_removes_meanwhile_are_missed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put([(1, 1.5)])
    kept.put([(2, 2.5)])
    remove = vacuum.remove

    def and_more(session: SparkSession, settings: Settings, table: tables.Table, doomed: Any, **how: Any) -> None:
        remove(session, settings, table, doomed, **how)
        for uri in log.opened(settings, table).file_uris():
            Path(uri).unlink()

    monkeypatch.setattr(maintenance.vacuum, "remove", and_more)
    with pytest.raises(LakehouseError, match=rf"{kept.table}: 1 files that versions .* need are gone"):
        maintain(kept)


@pytest.mark.parametrize("kept", ["ops"], indirect=True)
@pytest.mark.lakehouse
def test_the_check_that_a_vacuum_needs_off_is_on_again_afterwards(kept: Kept) -> None:
    kept.put([(1, 1.5)])
    kept.put([(2, 2.5)])
    names = ("spark.databricks.delta.retentionDurationCheck.enabled", "spark.databricks.delta.vacuum.logging.enabled")
    before = [kept.session.conf.get(name, None) for name in names]
    maintain(kept)
    assert [kept.session.conf.get(name, None) for name in names] == before
    with pytest.raises(Exception, match="retention"):
        kept.session.sql(f"vacuum {kept.table} retain 0 hours")


@pytest.mark.lakehouse
def test_all_tables_of_a_use_case_are_maintained_pins_that_are_over_released_and_a_second_run_commits_nothing(
    session: SparkSession, installation: Settings, use_case: UseCase
) -> None:
    table = tables.alerts(use_case)
    pins.pin(installation, table, log.version(installation, table), "a run long ago", until=date(2008, 3, 1))
    everything = [str(table) for table in (*tables.of(use_case), *tables.SHARED)]
    done = maintenance.maintain(session, installation, use_case)
    assert [one.table for one in done] == everything
    assert all("live" in one.kept.values() for one in done)
    assert pins.held(installation, table, date(2008, 3, 1)) == []
    again = maintenance.maintain(session, installation, use_case)
    assert [(one.version, one.compacted, one.files_before) for one in again] == [(one.version, 0, one.files_after) for one in done]
    assert str(done[0]).startswith(f"{everything[0]}: {done[0].files_before} -> ")
