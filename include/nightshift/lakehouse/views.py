"""Views for people: tables as `analyst.*` shows them, persons under their pseudonyms. Their text holds no key and nobody's value.

A person without a pseudonym is null, never the value itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.nightshift.errors import ConfigurationError
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.lakehouse import tables

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.lakehouse.tables import Table, TableColumn
    from include.nightshift.usecase import UseCase

SCHEMA = "analyst"
_DEFINITION = "nightshift.definition"
"""The property that tells a view of today's text from one of yesterday's."""


@dataclass(frozen=True)
class View:
    """What analysts see of one table: its columns in their order, the personal ones as pseudonyms."""

    table: Table
    mapping: Table
    """Which pseudonym stands for which value: `silver.pseudonyms`."""
    personal: frozenset[str]
    """Names of columns that name or describe a person; those that the table lacks are none of its business."""

    def __str__(self) -> str:
        return f"{SCHEMA}.{self.table.name}"

    @property
    def hidden(self) -> list[TableColumn]:
        """The table's columns that are shown as pseudonyms."""
        return [column for column in self.table.columns if column.name in self.personal]

    @property
    def query(self) -> str:
        """The table, joined once for each hidden column."""
        places = {column.name: f"p{number}" for number, column in enumerate(self.hidden, start=1)}
        shown = [f"{places[name]}.pseudonym as {name}" if name in places else f"t.{name}" for name in self.table.names]
        joins = [
            f"\nleft join {self.mapping} {places[column.name]} on {places[column.name]}.column_name = {lakehouse.literal(column.name)} "
            f"and {places[column.name]}.value = {as_text(f't.{column.name}', column.type)}"
            for column in self.hidden
        ]
        return f"select {', '.join(shown)}\nfrom {self.table} t{''.join(joins)}"

    @property
    def digest(self) -> str:
        """Changes with everything that the view says."""
        return hashlib.sha256(self._ddl("").encode()).hexdigest()

    def ddl(self) -> str:
        """`create or replace view …`."""
        return self._ddl(f"tblproperties ('{_DEFINITION}' = '{self.digest}')\n")

    def _ddl(self, properties: str) -> str:
        hidden = {column.name for column in self.hidden}
        comments = {c.name: c.comment + (" A pseudonym." if c.name in hidden else "") for c in self.table.columns}
        columns = ",\n  ".join(f"{name} comment {lakehouse.literal(comment)}" for name, comment in comments.items())
        comment = f"comment {lakehouse.literal(self.table.comment)}"
        return f"create or replace view {self} (\n  {columns}\n)\n{comment}\n{properties}as {self.query}"


def as_text(expression: str, type_: str) -> str:
    """A personal value, in SQL, as the text that is digested, whatever the session's time zone; `pseudonyms.texts` in Python."""
    return f"cast(unix_micros({expression}) as string)" if type_ == "timestamp" else f"cast({expression} as string)"


def of(use_case: UseCase) -> tuple[View, ...]:
    """What analysts see of the use case: silver and gold. Bronze and quarantine hold rows as they came, and have no view."""
    personal = frozenset(name for feed in use_case.feeds for name in feed.personal)
    return tuple(View(table, tables.PSEUDONYMS, personal) for table in tables.of(use_case) if table.schema in ("silver", "gold"))


def create(session: SparkSession, views: Iterable[View]) -> list[str]:
    """Make the views that are missing or say something else by now; returns their names. The others are not touched: replacing takes
    a view away for a moment, and somebody may be asking.

    Raises:
        ConfigurationError: two tables would be one view.
    """
    wanted: dict[str, View] = {}
    for view in views:
        if wanted.setdefault(str(view), view) != view:
            raise ConfigurationError(
                f"{view} would show both {wanted[str(view)].table} and {view.table}, or one of them with and without pseudonyms: "
                "give the feed, or the use case, another name"
            )
    present = {f"{SCHEMA}.{row['viewName']}" for row in lakehouse.rows(session, f"show views in {SCHEMA}")}
    made = [view for name, view in wanted.items() if name not in present or _digest(session, view) != view.digest]
    for view in made:
        session.sql(view.ddl())
    return [str(view) for view in made]


def _digest(session: SparkSession, view: View) -> str | None:
    found = {row["key"]: row["value"] for row in lakehouse.rows(session, f"show tblproperties {view}")}
    return found.get(_DEFINITION)
