"""The person: how their rows are told in each table. Nothing here shows an id; SQL meets ids as rows of a view, never as text."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from include.nightshift import usecase
from include.nightshift.erase.search import Wanted
from include.nightshift.ingest import erased, silver
from include.nightshift.lakehouse import storage, tables, writes
from include.nightshift.lakehouse.session import literal, where

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


@dataclass(frozen=True, repr=False)
class Person:
    """One person, as the values of two columns."""

    entity: str
    """The column of their id."""
    key: str
    """The column of their events."""
    id: str
    """Canonical, as are the keys."""
    keys: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return "Person()"

    @cached_property
    def rows(self) -> erased.Erased:
        """What tells their rows in landed files and in bronze."""
        return erased.of({(self.entity, erased.ENTITY): {self.id}, (self.key, erased.KEY): self.keys})

    @cached_property
    def wanted(self) -> Wanted:
        """What must not be found any more."""
        return Wanted({self.entity: frozenset({int(self.id)}), self.key: frozenset(map(int, self.keys))})


def concerned(settings: Settings, use_case: UseCase) -> list[UseCase]:
    """The use cases that know the same persons: those of the same events and the same entity."""
    every = usecase.registered(settings)
    return [other for other in every if (other.events.name, other.entity) == (use_case.events.name, use_case.entity)]


def holders(use_cases: Sequence[UseCase]) -> list[Table]:
    """Every table that can hold a person, in walking order: whoever rebuilds one reads those before it."""
    feeds = {feed.name: feed for use_case in use_cases for feed in use_case.feeds}.values()
    gold = [table(use_case) for table in (tables.features, tables.scores, tables.alerts) for use_case in use_cases]
    return [*map(tables.bronze, feeds), *map(tables.silver, feeds), tables.QUARANTINE, tables.PSEUDONYMS, *gold]


class Finder:
    """Finds the person's rows. Addresses are columns that name a row in its table, its night first where it has one."""

    def __init__(self, session: SparkSession, settings: Settings, use_cases: Sequence[UseCase], person: Person) -> None:
        self._session = session
        self._settings = settings
        self._feeds = {feed.name: feed for use_case in use_cases for feed in use_case.feeds}
        self._person = person

    def addresses(self, table: Table) -> pa.Table:
        """The addresses of their rows in a table."""
        with self._views() as (ids, keys):
            if table == tables.QUARANTINE:
                return self._in_quarantine(ids, keys)
            if table == tables.PSEUDONYMS:
                return self._pseudonyms(ids, keys)
            if table.schema == "bronze":
                return self._in_bronze(table, ids, keys)
            named = [column for column in ("day", "role", "rank", self._person.key) if column in table.names]
            return self._session.sql(f"select {', '.join(named)} from {table} where {self._condition(table, ids, keys)}").toArrow()

    def keys(self, table: Table) -> set[str]:
        """Keys of their events that a table tells of; none where it has no entity to go by."""
        entity, key = self._person.entity, self._person.key
        if table == tables.QUARANTINE or not {entity, key} <= set(table.names):
            return set()
        with self._views() as (ids, _):
            found = self._session.sql(f"select distinct {key} from {table} where {_as_number(table, entity)} in (table {ids})")
            return erased.whole_numbers(found.toArrow()[key])

    def shared(self, table: Table) -> set[str]:
        """Those of their keys that another person's row bears too."""
        entity, key = _as_number(table, self._person.entity), _as_number(table, self._person.key)
        with self._views() as (ids, keys):
            theirs, others = f"{key} in (table {keys})", f"{entity} not in (table {ids})"
            found = self._session.sql(f"select distinct {key} as shared from {table} where {theirs} and {others}")
            return erased.whole_numbers(found.toArrow()["shared"])

    def remove(self, table: Table, addresses: pa.Table) -> None:
        """Delete rows in one commit that names none of them. Files that held one are written anew.

        Raises:
            WriteConflictError: other writers won every attempt.
        """
        view = f"doomed_{uuid.uuid4().hex}"
        writes.in_memory(self._session, addresses).createOrReplaceTempView(view)
        same = [f"t.{name} = d.{name}" for name in addresses.column_names]
        if "day" in addresses.column_names:
            # Said as values too: nights without them are then not read.
            same.append(where({"t.day": sorted(set(addresses["day"].to_pylist()))}))
        # By its path: by its name, Spark would also write the unchanged table to its catalog.
        place = f"delta.`{storage.location(self._settings, table)}`"
        try:
            writes.retried(
                lambda: self._session.sql(f"merge into {place} t using {view} d on {' and '.join(same)} when matched then delete"),
                str(table),
            )
        finally:
            self._session.catalog.dropTempView(view)

    def _condition(self, table: Table, ids: str, keys: str) -> str:
        """By the entity where the table has one, else by the key."""
        if self._person.entity in table.names:
            return f"{self._person.entity} in (table {ids})"
        return f"{self._person.key} in (table {keys})"

    def _in_bronze(self, table: Table, ids: str, keys: str) -> pa.Table:
        """Spark leaves out what is plainly somebody else's; the rest is decided as landed rows are."""
        decides, view = (self._person.entity, ids) if self._person.entity in table.names else (self._person.key, keys)
        columns = [name for name in (self._person.entity, self._person.key) if name in table.names]
        number = _as_number(table, decides)
        near = self._session.sql(
            f"select day, _row, _text, {', '.join(columns)} from {table} where {number} in (table {view}) or {number} is null"
        ).toArrow()
        return self._person.rows.among(near).select(["day", "_row"])

    def _in_quarantine(self, ids: str, keys: str) -> pa.Table:
        """Rows whose raw values hold a number of theirs, decided as landed rows are."""
        import pyarrow as pa

        feeds = where({"feed": sorted(self._feeds)})
        numbers = "transform(regexp_extract_all(raw, '[0-9]+', 0), n -> regexp_replace(n, '^0+(?=[0-9])', ''))"
        near = self._session.sql(
            f"with every as (select collect_list(cast(value as string)) as listed from (table {ids} union all table {keys})) "
            f"select day, feed, _row, rule, raw from {tables.QUARANTINE} cross join every "
            f"where {feeds} and arrays_overlap({numbers}, transform(listed, n -> replace(n, '-', '')))"
        ).toArrow()
        raws = [json.loads(raw) for raw in near["raw"].to_pylist()]
        malformed = [rule == silver.MALFORMED for rule in near["rule"].to_pylist()]
        decided = near.select(["day", "feed", "_row"])
        for name in (self._person.entity, self._person.key):
            texts = [None if bad else raw.get(name) for raw, bad in zip(raws, malformed, strict=True)]
            decided = decided.append_column(name, pa.array(texts, pa.string()))
        lines = [raw.get("text") if bad else None for raw, bad in zip(raws, malformed, strict=True)]
        decided = decided.append_column("_text", pa.array(lines, pa.string()))
        return self._person.rows.among(decided).select(["day", "feed", "_row"])

    def _pseudonyms(self, ids: str, keys: str) -> pa.Table:
        """Where it is written who stands behind a pseudonym."""
        names = ((literal(self._person.entity), ids), (literal(self._person.key), keys))
        theirs = " or ".join(f"column_name = {name} and value in (select cast(value as string) from {view})" for name, view in names)
        return self._session.sql(f"select column_name, value from {tables.PSEUDONYMS} where {theirs}").toArrow()

    @contextmanager
    def _views(self) -> Iterator[tuple[str, str]]:
        """Views of the person's id and keys, for the length of a query."""
        import pyarrow as pa

        names = f"ids_{uuid.uuid4().hex}", f"keys_{uuid.uuid4().hex}"
        try:
            for name, listed in zip(names, ([self._person.id], self._person.keys), strict=True):
                values = pa.table({"value": pa.array(sorted(map(int, listed)), pa.int64())})
                writes.in_memory(self._session, values).createOrReplaceTempView(name)
            yield names
        finally:
            for name in names:
                self._session.catalog.dropTempView(name)


def _as_number(table: Table, column: str) -> str:
    """The column as a number, null where it says none; bronze holds text."""
    return f"try_cast(nullif(trim({column}), '') as bigint)" if table.schema == "bronze" else column
