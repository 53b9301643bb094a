from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.settings import Settings

UGLY_TEXT = "it's a \\ back\"slash\n\\' or 1=1 -- é"


def test_nobody_at_the_door_is_said_in_time_and_with_the_address(tmp_path: Path) -> None:
    with pytest.raises(LakehouseError, match=r"sc://127\.0\.0\.1:1 .*make up"):
        lakehouse.connect(Settings(home=tmp_path, spark_remote="sc://127.0.0.1:1"), wait_seconds=0)


def test_parameters_are_bound_by_name_and_casts_and_times_are_left_alone() -> None:
    bound = lakehouse.bind("select a::int, '10:30' from t where day = :night and n = :n", {"night": date(2026, 11, 20), "n": 3})
    assert bound == "select a::int, '10:30' from t where day = date'2026-11-20' and n = 3"
    with pytest.raises(KeyError, match="night"):
        lakehouse.bind("select :night", {})


def test_a_value_that_has_no_literal_is_refused() -> None:
    with pytest.raises(TypeError, match="no SQL literal for list"):
        lakehouse.literal([1])  # type: ignore[arg-type]


def test_a_slice_is_one_clause_per_column() -> None:
    clause = lakehouse.where({"day": [date(2026, 11, 20)], "feed": ["a", "b"]})
    assert clause == "day in (date'2026-11-20') and feed in ('a', 'b')"


@pytest.mark.lakehouse
def test_every_kind_of_value_goes_in_and_comes_back_as_it_was(session: SparkSession) -> None:
    values = {
        "text": UGLY_TEXT,
        "day": date(2026, 2, 28),
        "at": datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=UTC),
        "yes": True,
        "n": -(2**62),
        "amount": Decimal("12.30"),
    }
    query = "select " + ", ".join(f":{name} as {name}" for name in values)
    assert lakehouse.rows(session, query, **values) == [values]


@pytest.mark.lakehouse
def test_a_session_that_a_restarted_server_has_forgotten_is_opened_anew(installation: Settings) -> None:
    held = lakehouse.connect(installation)
    # What this client then sends is what it would send after the server was started again behind its back.
    held.client._server_session_id = "of the server before"
    opened = lakehouse.connect(installation)
    assert opened is not held
    assert lakehouse.rows(opened, "select 1 as one") == [{"one": 1}]
