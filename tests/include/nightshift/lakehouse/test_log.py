"""What a table's log says: nights, rows and versions, of now and of then."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import date, timedelta

import pytest
from deltalake import CommitProperties, write_deltalake
from pyarrow import fs

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, records, storage
from include.nightshift.lakehouse.tables import NIGHTS, RETRAIN_REQUESTS
from include.nightshift.settings import ROOT, Settings

FIRST, SECOND = date(2020, 3, 1), date(2020, 3, 2)
Enter = Callable[[date, str, int], None]


@pytest.fixture
def enter(records_home: Settings) -> Enter:
    def entries(night: date, stage: str, rows: int) -> None:
        held = [{"day": night, "stage": stage, "rows_in": number} for number in range(rows)]
        records.replace(records_home, NIGHTS, held, {"day": [night], "stage": [stage]})

    return entries


def test_rows_are_counted_by_night_and_by_slice(records_home: Settings, enter: Enter) -> None:
    enter(SECOND, "features", 3)
    enter(FIRST, "features", 2)
    enter(FIRST, "scores", 5)
    assert list(log.rows_by_night(records_home, NIGHTS).items()) == [(FIRST, 7), (SECOND, 3)]
    assert log.rows_by_night(records_home, NIGHTS, {"day": [FIRST], "stage": ["features"]}) == {FIRST: 2}
    assert log.rows_by_night(records_home, NIGHTS, {"day": [SECOND], "stage": ["scores"]}) == {}


def test_the_extent_is_first_and_last_night_with_rows_also_of_an_old_version(records_home: Settings, enter: Enter) -> None:
    assert log.extent(records_home, NIGHTS) is None
    enter(FIRST, "features", 1)
    before = log.version(records_home, NIGHTS)
    enter(SECOND, "features", 1)
    assert log.extent(records_home, NIGHTS) == (FIRST, SECOND)
    assert log.extent(records_home, NIGHTS, before) == (FIRST, FIRST)
    enter(SECOND, "features", 0)
    assert log.extent(records_home, NIGHTS) == (FIRST, FIRST)


def test_a_mark_that_no_commit_bears_is_an_error(records_home: Settings, enter: Enter) -> None:
    enter(FIRST, "features", 1)
    with pytest.raises(LakehouseError, match=r"ops\.nights: the commit just made \(mine\) is not among the newest"):
        log.committed(records_home, NIGHTS, "mine")


def test_a_commit_is_found_with_its_own_version_while_others_commit(records_home: Settings) -> None:
    nothing = RETRAIN_REQUESTS.arrow([])

    def commit(mark: str) -> int:
        table = log.opened(records_home, RETRAIN_REQUESTS)
        write_deltalake(table, nothing, mode="append", commit_properties=CommitProperties(custom_metadata={"userMetadata": mark}))
        return table.version()

    enough = threading.Event()

    def others() -> None:
        while not enough.is_set():
            commit("another's")

    other = threading.Thread(target=others)
    other.start()
    try:
        for number in range(30):
            made = commit(f"mark {number}")
            assert log.committed(records_home, RETRAIN_REQUESTS, f"mark {number}") == log.Commit(made, 0)
    finally:
        enough.set()
        other.join()


def test_a_version_that_is_not_there_is_said(records_home: Settings) -> None:
    with pytest.raises(LakehouseError, match=r"ops\.nights version 99 cannot be read"):
        log.rows_by_night(records_home, NIGHTS, version=99)


def test_a_file_without_a_row_count_is_not_taken_for_empty(records_home: Settings) -> None:
    path = storage.location(records_home, NIGHTS)
    write_deltalake(path, NIGHTS.arrow([{"day": FIRST, "stage": "features"}]), mode="append")
    [entry] = sorted((records_home.home / "lakehouse/ops/nights/_delta_log").glob("*1.json"))
    lines = entry.read_text().splitlines()

    stripped = [json.loads(line) for line in lines]
    for action in stripped:
        action.get("add", {}).pop("stats", None)
    entry.write_text("\n".join(map(json.dumps, stripped)) + "\n")
    with pytest.raises(LakehouseError, match="no row count"):
        log.rows_by_night(records_home, NIGHTS)


def test_the_last_change_of_a_night_is_the_newest_commit_that_brought_or_took_its_rows(records_home: Settings, enter: Enter) -> None:
    assert log.last_change(records_home, NIGHTS, FIRST) is None
    enter(FIRST, "features", 1)
    enter(SECOND, "features", 2)
    table = log.opened(records_home, NIGHTS)
    write_deltalake(table, table.to_pyarrow_table().slice(0, 1), mode="append")
    table.update_incremental()
    table.optimize.compact()
    found = {night: log.last_change(records_home, NIGHTS, night) for night in (FIRST, SECOND)}
    # Merging files is none: it changes no row.
    assert log.version(records_home, NIGHTS) == 4
    appended = table.to_pyarrow_table().column("day").to_pylist()
    twice = max(set(appended), key=appended.count)
    assert found[twice]
    assert (found[twice].version, found[twice].operation) == (3, "WRITE")  # type: ignore[union-attr]
    table.delete(f"day = '{FIRST}'")
    assert "ops.nights version 5 (DELETE) changed night 2020-03-01 last" in str(log.last_change(records_home, NIGHTS, FIRST))


READ = """
from include.nightshift import settings
from include.nightshift.lakehouse import records, tables
assert len(records.read(settings.load(), tables.NIGHTS)) == 36
"""


def test_processes_that_read_a_table_end_as_their_program_does(records_home: Settings, enter: Enter) -> None:
    for night in range(12):
        enter(FIRST + timedelta(days=night), "features", 3)
    # Where Arrow reads through Python, one in twenty is aborted after its last line, and far more where tables are wider. So both: that
    # it does not, and that nobody is.
    assert isinstance(log.dataset(log.opened(records_home, NIGHTS)).filesystem.base_fs, fs.LocalFileSystem)
    environ = os.environ | {"NIGHTSHIFT_HOME": str(records_home.home), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", READ]
    started = [subprocess.Popen(line, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) for _ in range(12)]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said[-500:]
