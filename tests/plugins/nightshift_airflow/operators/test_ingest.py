"""The pull as Airflow runs it: the connection resolved by its name, its TLS mode kept, each night landed once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from pyarrow import parquet

from include.nightshift.operate.environment import prepare_home
from include.nightshift.settings import Settings
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it.
PULL = """
import json, os, sys
from dataclasses import replace
from include.nightshift.usecase import Pull
from include.usecases.card_fraud import usecase as card_fraud
pull = Pull(connection="switch", relation="pulled.transactions", watermark="written_at")
card_fraud.USE_CASE = replace(card_fraud.USE_CASE, events=replace(card_fraud.USE_CASE.events, pull=pull))

from airflow.sdk.exceptions import AirflowFailException
from include.nightshift.errors import LandingError
from nightshift_airflow.operators.ingest import PullOperator
answers = []
for connection, feed, nights, again in json.loads(sys.argv[1]):
    os.environ["AIRFLOW_CONN_SWITCH"] = connection
    operator = PullOperator(task_id="pull", use_case="card_fraud", feed=feed, nights="{{ params.nights }}", again="{{ params.again }}")
    operator.render_template_fields({"params": {"nights": nights, "again": again}})
    try:
        answers.append(operator.execute({}))
    except (AirflowFailException, LandingError) as error:
        answers.append([type(error).__name__, str(error)])
print("ANSWER" + json.dumps(answers))
"""
ADDRESSES = """
import json, sys
from airflow.sdk.exceptions import AirflowFailException
from nightshift_airflow import connections
answers = {}
for name in sys.argv[1:]:
    try:
        answers[name] = connections.postgresql(name)
    except AirflowFailException as error:
        answers[name] = "refused: " + str(error)
print("ANSWER" + json.dumps(answers))
"""
PASSWORD = "p@ss/w:rd?#%"


def ask(settings: Settings, program: str, *arguments: str, **connections: str) -> Any:
    """What the program answers, with these connections in its environment; the password that tests use is seen nowhere."""
    variables = {f"AIRFLOW_CONN_{name.upper()}": connection for name, connection in connections.items()}
    told = apart.run(settings, "-c", program, *arguments, **variables)
    assert not [word for word in (PASSWORD, quote(PASSWORD, safe="")) if word in told.output]
    return told.answer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    installed = Settings(home=tmp_path)
    prepare_home(installed)
    return installed


@pytest.fixture
def database(postgresql: str) -> Iterator[str]:
    """An Airflow connection's address of a database with three transactions, one of them of the second night."""
    connection = psycopg2.connect(postgresql)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "create schema pulled; create table pulled.transactions (transaction_id bigint primary key, tx_datetime timestamptz, "
            "customer_id bigint, terminal_id bigint, tx_amount numeric(12,2), written_at timestamptz not null); "
            "insert into pulled.transactions select g, now(), g, g, g, timestamptz '2021-03-01 22:00Z' + g * interval '40 minutes' "
            "from generate_series(1, 3) g"
        )
    yield postgresql.replace("postgresql://airflow@", f"postgres://airflow:{quote(PASSWORD, safe='')}@")
    with connection, connection.cursor() as cursor:
        cursor.execute("drop schema pulled cascade")
    connection.close()


def test_each_night_of_a_range_is_landed_once_and_again_when_asked(settings: Settings, database: str) -> None:
    def pull(*calls: tuple[str, bool]) -> Any:
        return ask(settings, PULL, json.dumps([(database, "transactions", *call) for call in calls]))

    landed = settings.landing_folder / "transactions" / "2021-03-01.parquet"
    both = {"rows": {"2021-03-01": 2, "2021-03-02": 1}, "late": {"2021-03-01": 0, "2021-03-02": 0}}
    assert pull(("2021-03-01..2021-03-02", False)) == [both]
    assert parquet.read_table(landed)["transaction_id"].to_pylist() == [1, 2]
    table = parquet.read_table(landed)
    parquet.write_table(table.slice(1), landed)  # still one that was pulled, and no more what the source holds
    first = {"rows": {"2021-03-01": 1}, "late": {"2021-03-01": 0}}
    assert pull(("2021-03-01", False), ("2021-03-01", True)) == [first, first | {"rows": {"2021-03-01": 2}}]
    assert parquet.read_table(landed) == table


def test_what_cannot_be_pulled_fails_with_its_reason_and_tls_that_was_asked_for_is_insisted_on(settings: Settings, database: str) -> None:
    nested = "?__extra__=" + quote('{"sslmode": "require", "keepalives": true}')
    calls = [
        (database + "?sslmode=require", "transactions", "2021-03-01", False),
        (database + nested, "transactions", "2021-03-01", False),
        (database, "fraud_labels", "2021-03-01", False),
        (database, "transactions", "yesterday", False),
    ]
    required, required_too, dropped, yesterday = ask(settings, PULL, json.dumps(calls))
    assert required == required_too
    assert required[0] == "LandingError"
    assert "server does not support SSL, but SSL was required" in required[1]
    # Retrying these changes nothing.
    assert dropped == ["AirflowFailException", "feed fraud_labels of card_fraud is not pulled: Feed.pull is None"]
    assert yesterday[0] == "AirflowFailException"
    assert "is no night" in yesterday[1]
    assert not (settings.landing_folder / "transactions" / "2021-03-01.parquet").exists()


def test_a_connection_becomes_an_address_with_all_its_extras_or_is_refused_with_advice(settings: Settings) -> None:
    addresses = {
        "url": (
            "postgres://u:p%40s@db.example:5433/shop?sslmode=verify-full",
            "postgresql://u:p%40s@db.example:5433/shop?sslmode=verify-full",
        ),
        "other_spelling": ("postgresql://u@db/shop", "postgresql://u@db/shop"),
        "odd_words": (
            '{"conn_type": "postgres", "host": "::1", "login": "a@b", "password": "c d", "schema": "s/x"}',
            "postgresql://a%40b:c%20d@[::1]/s%2Fx",
        ),
        "two_hosts": ('{"conn_type": "postgres", "host": "one,two", "schema": "s"}', "postgresql://one,two/s"),
        "socket": ('{"conn_type": "postgres", "host": "/run/pg", "schema": "s"}', "postgresql://%2Frun%2Fpg/s"),
        "extras": (
            '{"conn_type": "postgres", "host": "h", "extra": {"sslmode": "require", "keepalives": true, "options": "-c a=b"}}',
            "postgresql://h/?sslmode=require&keepalives=1&options=-c%20a%3Db",
        ),
        "of_mysql": ("mysql://u:p@h/s", "refused: connection 'of_mysql' is of type 'mysql'"),
        "no_json": (
            '{"conn_type": "postgres", "host": "h", "extra": "sslmode=require"}',
            "refused: connection 'no_json': its extras are no JSON",
        ),
        "nested": (
            '{"conn_type": "postgres", "host": "h", "extra": {"sslmode": {"a": 1}}}',
            "refused: connection 'nested': its extras are no plain values",
        ),
        "a_list": (
            '{"conn_type": "postgres", "host": "h", "extra": "[1]"}',
            "refused: connection 'a_list': its extras are no plain values",
        ),
    }
    answers = ask(settings, ADDRESSES, *addresses, "absent", **{name: connection for name, (connection, _) in addresses.items()})
    assert answers.pop("absent").startswith("refused: there is no connection 'absent': set AIRFLOW_CONN_ABSENT")
    for name, (_, expected) in addresses.items():
        assert answers[name].startswith(expected) if expected.startswith("refused") else answers[name] == expected, name
