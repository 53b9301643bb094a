"""Views for analysts: the tables' own columns, persons joined in under their pseudonyms, and nothing replaced without need."""

from __future__ import annotations

from dataclasses import replace

import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.lakehouse import tables, views
from include.nightshift.lakehouse.tables import Table, TableColumn
from include.nightshift.lakehouse.views import View
from include.nightshift.usecase import UseCase

ROOMS = Table(
    schema="gold",
    name="rooms",
    comment="One row per room.",
    columns=(
        TableColumn("day", "date", "The night."),
        TableColumn("guest", "string", "Who, isn't it."),
        TableColumn("room", "int", "Where."),
        TableColumn("born_at", "timestamp", "The guest's birth."),
    ),
)


def view(*personal: str, table: Table = ROOMS) -> View:
    return View(table, tables.PSEUDONYMS, frozenset(personal))


def test_personal_columns_are_joined_in_and_the_others_are_as_they_were() -> None:
    assert view("guest", "born_at", "plate").query == (
        "select t.day, p1.pseudonym as guest, t.room, p2.pseudonym as born_at\n"
        "from gold.rooms t\n"
        "left join silver.pseudonyms p1 on p1.column_name = 'guest' and p1.value = cast(t.guest as string)\n"
        "left join silver.pseudonyms p2 on p2.column_name = 'born_at' and p2.value = cast(unix_micros(t.born_at) as string)"
    )
    assert view().query == "select t.day, t.guest, t.room, t.born_at\nfrom gold.rooms t"


def test_a_view_says_what_the_table_says_and_which_columns_are_pseudonyms() -> None:
    ddl = view("guest").ddl()
    assert ddl.startswith(
        "create or replace view analyst.rooms (\n  day comment 'The night.',\n  guest comment 'Who, isn\\'t it. A pseudonym.',"
    )
    assert f"'nightshift.definition' = '{view('guest').digest}'" in ddl


def test_another_column_comment_or_pseudonym_is_another_definition() -> None:
    changed = [
        replace(ROOMS, comment="One row per room and night."),
        replace(ROOMS, columns=ROOMS.columns[:-1]),
        replace(ROOMS, columns=(*ROOMS.columns[:-1], replace(ROOMS.columns[-1], comment="Its birth."))),
    ]
    digests = {view("guest", table=table).digest for table in (ROOMS, *changed)} | {view().digest}
    assert len(digests) == 5
    assert view("guest").digest == view("guest", "plate").digest


def test_silver_and_gold_of_a_use_case_are_shown_and_raw_rows_are_not(use_case: UseCase) -> None:
    shown = {str(view): [column.name for column in view.hidden] for view in views.of(use_case)}
    assert shown == {
        "analyst.transactions": ["customer_id"],
        "analyst.fraud_labels": [],
        "analyst.card_fraud_features": ["customer_id"],
        "analyst.card_fraud_scores": ["customer_id"],
        "analyst.card_fraud_alerts": ["customer_id"],
    }


def test_two_tables_that_would_be_one_view_are_refused() -> None:
    class Silent:
        def sql(self, query: str) -> None:
            raise AssertionError(query)

    with pytest.raises(ConfigurationError, match=r"analyst\.rooms would show both gold\.rooms and silver\.rooms"):
        views.create(Silent(), [view("guest"), view("guest", table=replace(ROOMS, schema="silver"))])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="with and without pseudonyms"):
        views.create(Silent(), [view("guest"), view()])  # type: ignore[arg-type]
