"""Two tables to keep, take from and read again: one that Spark writes, one that delta-rs does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import pytest

from include.nightshift.lakehouse import log, records, storage, writes
from include.nightshift.lakehouse.tables import Table, TableColumn
from include.nightshift.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NIGHT = date(2008, 3, 1)
ODD = "bronze.x: 50% é/ü #1"
"""A partition value whose folder is spelled otherwise on disk than in the log, and otherwise again by each writer."""

Row = tuple[int, float]


@dataclass(frozen=True)
class Kept:
    """A table, and how its own writer writes it."""

    session: SparkSession
    settings: Settings
    table: Table

    def put(self, rows: Sequence[Row], night: date = NIGHT, word: str = ODD) -> int:
        """Make a night hold these rows and no others; returns the version that does."""
        slice_ = {"day": [night], "word": [word]}
        made = self.table.arrow([{"day": night, "word": word, "card": card, "amount": amount} for card, amount in rows])
        if self.table.is_record:
            return records.replace(self.settings, self.table, made.to_pylist(), slice_).version
        frame = writes.in_memory(self.session, made)
        return writes.replace(self.session, self.settings, self.table, frame, slice_, rows_expected=len(rows)).version

    def append(self, rows: Sequence[Row], night: date = NIGHT) -> None:
        """One more file."""
        from deltalake import write_deltalake

        made = self.table.arrow([{"day": night, "word": ODD, "card": card, "amount": amount} for card, amount in rows])
        if self.table.is_record:
            # Again, as every writer of records does: delta-rs refuses an append that a removal overtook.
            writes.retried(lambda: write_deltalake(log.opened(self.settings, self.table), made, mode="append"), str(self.table))
        else:
            place = storage.location(self.settings, self.table)
            writes.in_memory(self.session, made).coalesce(1).write.format("delta").mode("append").save(place)

    def by_delta_rs(self, version: int | None = None) -> list[Row]:
        rows = log.opened(self.settings, self.table, version).to_pyarrow_table().to_pylist()
        return sorted((row["card"], row["amount"]) for row in rows)

    def by_spark(self, version: int | None = None) -> list[Row]:
        then = "" if version is None else f" version as of {version}"
        rows = self.session.sql(f"select card, amount from {self.table}{then}").toArrow().to_pylist()
        return sorted((row["card"], row["amount"]) for row in rows)


@pytest.fixture(params=["gold", "ops"])
def kept(request: pytest.FixtureRequest, session: SparkSession, installation: Settings) -> Iterator[Kept]:
    table = Table(
        schema=request.param,
        name="kept",
        comment="One row per card.",
        partition=("day", "word"),
        columns=(
            TableColumn("day", "date", "The night."),
            TableColumn("word", "string", "A word."),
            TableColumn("card", "bigint", "A number."),
            TableColumn("amount", "double", "An amount."),
        ),
    )
    session.sql(table.ddl())
    yield Kept(session, installation, table)
    session.sql(f"drop table {table}")
