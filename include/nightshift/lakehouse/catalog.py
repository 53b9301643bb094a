"""Catalog: schemas, tables and views as the server knows them. `python -m include.nightshift.lakehouse.catalog` creates what is missing.

Tables lie at `<lakehouse>/<schema>/<table>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.nightshift import settings as settings_module
from include.nightshift import usecase
from include.nightshift.lakehouse import log, stale, storage, tables, views
from include.nightshift.lakehouse import session as lakehouse

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

SCHEMAS = {
    "bronze": "Landed rows as they came, with their provenance.",
    "silver": "Typed, deduplicated, checked rows; rejected ones in silver.quarantine.",
    "gold": "What models read and people act on.",
    "ops": "What the platform did, decided and measured.",
    views.SCHEMA: "Silver and gold for people: persons under pseudonyms.",
}


def create(session: SparkSession, settings: Settings) -> list[str]:
    """Create the schemas and tables that the catalog lacks, bring columns, comments and the analysts' views up to date.

    A table whose files are there is entered as it is: a catalog may be lost, and tables on S3 outlive the machine.

    Returns:
        The names of the tables that the catalog lacked.
    """
    use_cases = usecase.registered(settings)
    wanted = {str(table): table for table in (*tables.SHARED, *(table for use_case in use_cases for table in tables.of(use_case)))}
    present: set[str] = set()
    for schema, comment in SCHEMAS.items():
        location = lakehouse.literal(f"{settings.lakehouse_location}/{schema}")
        session.sql(f"create schema if not exists {schema} comment {lakehouse.literal(comment)} location {location}")
        present |= {f"{schema}.{row['tableName']}" for row in lakehouse.rows(session, f"show tables in {schema}")}
    missing = [table for name, table in wanted.items() if name not in present]
    for table in missing:
        if storage.is_table(settings, table):
            session.sql(f"create table if not exists {table} using delta location {lakehouse.literal(storage.location(settings, table))}")
            present.add(str(table))
        else:
            session.sql(table.ddl())
    for name in sorted(present & set(wanted)):
        _extend(session, settings, wanted[name])
    views.create(session, [view for use_case in use_cases for view in views.of(use_case)])
    return [str(table) for table in missing]


def _extend(session: SparkSession, settings: Settings, table: Table) -> None:
    """Add the columns that a table of an earlier version lacks, null in the rows it has, and say anew what is described otherwise by now.

    Nights of features that lack a new one are stale: a model must not learn that a feature was once unknown.
    """
    held = {field.name: field.metadata.get("comment") for field in log.opened(settings, table).schema().fields}
    added = [column for column in table.columns if column.name not in held]
    if added:
        stale.mark_unfilled(settings, table, [column.name for column in added])
        session.sql(f"alter table {table} add columns ({', '.join(column.ddl() for column in added)})")
    # One commit for all: dbt's own `persist_docs` makes one for each column, each night.
    reworded = [column for column in table.columns if column.name in held and held[column.name] != column.comment]
    if reworded:
        changes = ", ".join(f"{column.name} comment {lakehouse.literal(column.comment)}" for column in reworded)
        session.sql(f"alter table {table} alter column {changes}")
    if log.opened(settings, table).metadata().description != table.comment:
        session.sql(f"comment on table {table} is {lakehouse.literal(table.comment)}")


if __name__ == "__main__":
    installed = settings_module.load()
    made = create(lakehouse.connect(installed), installed)
    print(f"tables: {len(made)} created" + (f" ({', '.join(made)})" if made else ""))  # noqa: T201
