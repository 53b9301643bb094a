"""Purge: nothing on disk tells of rows that are gone, and both engines go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, pins, purge, storage
from include.nightshift.lakehouse.files import Folder

if TYPE_CHECKING:
    from tests.include.nightshift.lakehouse.conftest import Kept

Ask = Callable[[str], list[tuple[Any, ...]]]

CARD, AMOUNT = 7_412_906_358_174_205_693, 73_519.37
TRACES = [str(CARD).encode(), struct.pack("<q", CARD), str(AMOUNT).encode(), struct.pack("<d", AMOUNT)]
NEXT = date(2008, 3, 2)


def folder(kept: Kept) -> Path:
    return Path(storage.location(kept.settings, kept.table))


def readable(path: Path) -> Iterator[bytes]:
    """A file as it is and, where it is Parquet, as whoever opens it sees it: values, and what the footer says of them."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
        footer = pq.read_metadata(path)
        yield repr([footer.row_group(number).to_dict() for number in range(footer.num_row_groups)]).encode()
        yield repr(footer.metadata).encode()


def telling(kept: Kept) -> list[str]:
    """The files of the table that tell of the planted card or amount."""
    paths = [path for path in sorted(folder(kept).rglob("*")) if path.is_file()]
    return [path.name for path in paths if any(trace in text for text in readable(path) for trace in TRACES)]


def plant(kept: Kept) -> None:
    """Put the card in, have a checkpoint made while it is there, and take it out, one way naming it in the log."""
    kept.put([(1, 1.5), (CARD, AMOUNT)])
    for number in range(10):
        kept.append([(number, float(number))], night=NEXT)
    if kept.table.is_record:
        log.opened(kept.settings, kept.table).create_checkpoint()
        log.opened(kept.settings, kept.table).delete(f"card = {CARD}")
    else:
        kept.session.sql(f"delete from {kept.table} where card = {CARD}")


@pytest.mark.lakehouse
def test_after_a_purge_no_byte_of_the_folder_tells_of_what_was_removed_and_everybody_goes_on(kept: Kept, analyst: Ask) -> None:
    plant(kept)
    found = telling(kept)
    for kind in ("snappy.parquet", ".json", ".checkpoint.parquet"):
        assert any(name.endswith(kind) for name in found), (kind, found)
    content, before = kept.by_spark(), log.version(kept.settings, kept.table)
    assert (CARD, AMOUNT) not in content
    assert analyst(f"select count(*) from {kept.table}") == [(11,)]

    done = purge.purge(kept.session, kept.settings, kept.table)

    assert telling(kept) == []
    assert (done.version, done.given_up) == (log.version(kept.settings, kept.table), ())
    assert done.version > before
    assert (done.data_files, done.log_files > 10, done.changed) == (1, True, True)
    assert kept.by_spark() == kept.by_delta_rs() == content
    assert analyst(f"select count(*) from {kept.table}") == [(11,)]
    for read in (kept.by_spark, kept.by_delta_rs):
        with pytest.raises(Exception, match=r"DELTA_VERSION_NOT_FOUND|cannot be read"):
            read(before)
    # Written on, past Spark's next checkpoint (every tenth version).
    for number in range(20, 31):
        kept.append([(number, 0.5)])
        assert (number, 0.5) in kept.by_delta_rs()
    kept.put([(40, 0.5)], night=NEXT)
    assert kept.by_spark() == kept.by_delta_rs() == [(1, 1.5), *((number, 0.5) for number in range(20, 31)), (40, 0.5)]
    assert analyst(f"select max(card) from {kept.table}") == [(40,)]
    assert telling(kept) == []


@pytest.mark.lakehouse
def test_the_folder_then_holds_the_live_version_its_log_and_nothing_else(kept: Kept) -> None:
    plant(kept)
    # Spark writes a checkpoint of every tenth version by itself, and with these its VACUUM would end with the twentieth.
    for number in range(18 - log.version(kept.settings, kept.table)):
        kept.append([(number, 0.125)])
    content = kept.by_spark()
    (folder(kept) / "_delta_log" / "._last_checkpoint.crc").touch()
    (folder(kept) / "day=2008-03-01").mkdir(exist_ok=True)
    stray = [folder(kept) / "day=2008-03-01" / ".part-0.snappy.parquet.crc", folder(kept) / "_delta_log" / "_commit_1.json.tmp"]
    for path in stray:
        path.touch()
        os.utime(path, (0, 0))
    version = purge.purge(kept.session, kept.settings, kept.table).version
    assert version == (19 if kept.table.is_record else 22)
    assert kept.by_spark() == kept.by_delta_rs() == content
    names = {file.path for file in Folder(kept.settings, kept.table).files()}
    live = {uri.removeprefix(f"{folder(kept)}/") for uri in log.opened(kept.settings, kept.table).file_uris()}
    checksums = {str(Path(path).with_name(f".{Path(path).name}.crc")) for path in live}
    own = {f"_delta_log/{version:020d}.json", f"_delta_log/{version:020d}.checkpoint.parquet", "_delta_log/_last_checkpoint"}
    assert live | own <= names <= live | checksums | own | {f"_delta_log/.{version:020d}.json.crc"}
    pointer = json.loads((folder(kept) / "_delta_log/_last_checkpoint").read_text())
    actions = pq.read_table(folder(kept) / f"_delta_log/{version:020d}.checkpoint.parquet").to_pylist()
    assert pointer == {"version": version, "size": len(actions)}
    assert sum(bool(action["add"]) for action in actions) == len(live)
    assert not any(action["remove"] for action in actions)

    again = purge.purge(kept.session, kept.settings, kept.table)
    assert (again.changed, again.version) == (False, version)
    assert names == {file.path for file in Folder(kept.settings, kept.table).files()}


@pytest.mark.lakehouse
def test_pins_hold_a_purge_up_until_they_are_given_up(kept: Kept) -> None:
    first, second = kept.put([(CARD, AMOUNT)]), kept.put([(1, 1.5)])
    pinned = [pins.pin(kept.settings, kept.table, first, "run-1"), pins.pin(kept.settings, kept.table, second, "an audit")]
    for give_up in ((), pinned[:1]):
        with pytest.raises(LakehouseError, match=rf"{kept.table} is pinned: .*version {second} for an audit until released.*give_up"):
            purge.purge(kept.session, kept.settings, kept.table, give_up=give_up)
        assert kept.by_delta_rs(first) == [(CARD, AMOUNT)]
    done = purge.purge(kept.session, kept.settings, kept.table, give_up=pinned)
    assert done.given_up == tuple(pinned)
    assert pins.held(kept.settings, kept.table, datetime.now(UTC).date()) == []
    # What is left may be pinned, and a purge that has nothing to take asks for no pin.
    left = pins.pin(kept.settings, kept.table, done.version, "run-2")
    assert not purge.purge(kept.session, kept.settings, kept.table).changed
    pins.release(kept.settings, [left])


@pytest.mark.lakehouse
def test_a_write_that_may_be_under_way_holds_a_purge_up_and_keeps_its_file(kept: Kept) -> None:
    kept.put([(CARD, AMOUNT)])
    kept.put([(1, 1.5)])
    under_way = folder(kept) / "part-00000-under-way"
    under_way.write_bytes(b"not yet named by any version")
    with pytest.raises(LakehouseError, match=r"1 files that no version names are younger than 1:00:00 .*nothing was taken"):
        purge.purge(kept.session, kept.settings, kept.table)
    assert under_way.exists()
    assert telling(kept)
    os.utime(under_way, (time.time() - 3700,) * 2)
    purge.purge(kept.session, kept.settings, kept.table)
    assert not under_way.exists()
    assert telling(kept) == []


@pytest.mark.lakehouse
def test_writers_at_the_same_time_lose_nothing_and_the_card_is_gone_all_the_same(kept: Kept) -> None:
    plant(kept)
    content = kept.by_delta_rs()

    def write(number: int) -> None:
        rows, night = [(number, 0.25)], date(2008, 4, 1) + timedelta(days=number)
        try:
            kept.put(rows, night)
        except LakehouseError as error:
            # The purge took the entry of its commit before the write could read it; a task is tried again, too.
            if "run the task again" not in str(error):
                raise
            kept.put(rows, night)

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write, number) for number in range(4)]
        refusals = []
        while not all(one.done() for one in writing):
            try:
                purge.purge(kept.session, kept.settings, kept.table)
            except LakehouseError as error:
                # A file of theirs that no version names yet: purge waits for nobody, so it is asked again.
                refusals.append(str(error))
                time.sleep(0.2)
        for one in writing:
            one.result()
    assert all("may be under way" in refusal for refusal in refusals), refusals
    # An attempt that lost against a purge leaves a file of no version; nobody writes any more.
    purge.purge(kept.session, kept.settings, kept.table, in_flight=timedelta(0))
    assert telling(kept) == []
    assert kept.by_spark() == kept.by_delta_rs() == sorted([*content, *((number, 0.25) for number in range(4))])
