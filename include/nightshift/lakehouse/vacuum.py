"""VACUUM by inventory: what is needed is said version by version, and only what nobody needs is taken.

A horizon would not do: a VACUUM that keeps an old version keeps all that came after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import writes
from include.nightshift.lakehouse.files import File, Folder

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import SparkSession

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

IN_FLIGHT = timedelta(hours=1)
"""A file that no version names may be a write's that has not ended; when it is older than this, the write has died."""

_INVENTORY = "files_to_remove"


def paths(opened: DeltaTable) -> frozenset[str]:
    """The files that a version reads, as they are on disk."""
    import pyarrow as pa

    return frozenset(unquote(path) for path in pa.table(opened.get_add_actions()).column("path").to_pylist())


def remove(session: SparkSession, settings: Settings, table: Table, doomed: Sequence[File], *, logged: bool = False) -> None:
    """Have Spark remove files from a table's folder, except those of the live version, which it looks up once more.

    Also for tables that delta-rs writes: unless `logged`, nothing is committed. Logged, the table's newest commit says
    that a VACUUM ended, and no more.

    Raises:
        LakehouseError: some are still there.
    """
    import pyarrow as pa

    folder = Folder(settings, table)
    inventory = pa.table(
        {
            "path": pa.array([folder.as_spark_says(file.path) for file in doomed], pa.string()),
            "length": pa.array([file.size for file in doomed], pa.int64()),
            "isDir": pa.array([False] * len(doomed), pa.bool_()),
            "modificationTime": pa.array([int(file.modified.timestamp() * 1000) for file in doomed], pa.int64()),
        }
    )
    # A view: thousands of names would not fit a statement.
    writes.in_memory(session, inventory).createOrReplaceTempView(_INVENTORY)
    conf = {
        # Refuses to take anything younger than the table's retention, which is ten years so that Spark reads old versions at all.
        "spark.databricks.delta.retentionDurationCheck.enabled": "false",
        "spark.databricks.delta.vacuum.logging.enabled": "true" if logged else "false",
    }
    try:
        with _configured(session, conf):
            session.sql(f"vacuum {table} using inventory (select * from {_INVENTORY}) retain 0 hours")
    finally:
        session.catalog.dropTempView(_INVENTORY)
    left = {file.path for file in doomed} & {file.path for file in folder.data()}
    if left:
        raise LakehouseError(
            f"{table}: VACUUM left {len(left)} of {len(doomed)} files that no kept version needs (the first: {min(left)}). "
            "A write may have taken them back (RESTORE): run it again; if it stays, compare the server's warehouse path with "
            f"{folder.location}"
        )


@contextmanager
def _configured(session: SparkSession, conf: Mapping[str, str]) -> Iterator[None]:
    """Settings of this session for a while; the other sessions never see them."""
    before = {name: session.conf.get(name, None) for name in conf}
    try:
        for name, value in conf.items():
            session.conf.set(name, value)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                session.conf.unset(name)
            else:
                session.conf.set(name, value)
