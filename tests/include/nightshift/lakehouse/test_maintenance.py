"""Maintain: a pinned version stays byte for byte, one that nobody pinned is gone, and a write at the same time loses nothing."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, maintenance, pins, tables, vacuum
from include.nightshift.lakehouse.files import Folder
from include.nightshift.lakehouse.maintenance import Maintained
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

AT_ONCE: dict[str, Any] = {"keep_days": 0, "in_flight": timedelta(0)}
NEXT = date(2008, 3, 2)


def maintain(kept: Any, **how: Any) -> Maintained:
    return maintenance.maintain_table(kept.session, kept.settings, kept.table, **(how or AT_ONCE))


def folder(kept: Any) -> Path:
    return Path(log.location(kept.settings, kept.table))


def file_bytes(kept: Any, version: int) -> dict[str, str]:
    """The files of a version, and what is in them."""
    uris = log.opened(kept.settings, kept.table, version).file_uris()
    return {uri: hashlib.sha256(Path(uri).read_bytes()).hexdigest() for uri in uris}


@pytest.mark.lakehouse
def test_a_pinned_version_stays_byte_for_byte_and_one_that_nobody_pinned_is_gone(kept: Any) -> None:
    pinned, unpinned, live = kept.put([(1, 1.5), (2, 2.5)]), kept.put([(3, 3.5)]), kept.put([(4, 4.5)])
    kept.put([(9, 9.5)], night=NEXT)
    pins.pin(kept.settings, kept.table, pinned, "run-1")
    before = file_bytes(kept, pinned)
    done = maintain(kept)
    assert file_bytes(kept, pinned) == before
    assert kept.by_spark(pinned) == kept.by_delta_rs(pinned) == [(1, 1.5), (2, 2.5)]
    for refused in (unpinned, live):
        # The night's other files are the live version's own: only what was replaced is gone.
        with pytest.raises(Exception, match="(?i)not.?(be.?)?(found|exist)|no such file"):
            kept.by_spark(unpinned)
        with pytest.raises(Exception, match="(?i)no such file|not found"):
            kept.by_delta_rs(unpinned)
        assert refused
    assert kept.by_spark() == kept.by_delta_rs() == [(4, 4.5), (9, 9.5)]
    assert done.kept == {pinned: "pinned for run-1", done.version: "live"}
    assert done.files_before - done.files_after == 1
    assert done.bytes_before > done.bytes_after == sum(file.size for file in Folder(kept.settings, kept.table).data())
    pins.release(kept.settings, pins.held(kept.settings, kept.table, datetime.now(UTC).date()))
