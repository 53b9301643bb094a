"""Airflow's database: on SQLite by default, on a real PostgreSQL where the machine has one; found out of date whatever took it back."""

import json
import subprocess
from pathlib import Path

import psycopg2
import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.operate import database
from include.nightshift.operate.environment import prepare_home
from include.nightshift.settings import Settings

CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    prepare_home(settings)
    return settings


def test_a_home_without_a_database_is_not_current_and_none_is_made_by_asking(settings: Settings) -> None:
    assert not database.is_current(settings)
    assert not (settings.home / "airflow" / "airflow.db").exists()


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_postgresql_is_current_once_migrated_until_somebody_empties_it(
    settings: Settings, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION, postgresql.replace("postgresql://", "postgresql+psycopg2://"))
    database.migrate(settings)
    assert database.is_current(settings)
    with psycopg2.connect(postgresql) as session, session.cursor() as cursor:
        cursor.execute("select count(*) from dag_run")
        assert cursor.fetchone() == (0,)
        cursor.execute("drop schema public cascade; create schema public")
    session.close()
    assert not database.is_current(settings)


@pytest.mark.parametrize(
    "connection", ["postgresql+psycopg2://airflow:hunter2@127.0.0.1:1/airflow", "postgres+nothing://airflow:hunter2@127.0.0.1/airflow", "?"]
)
def test_a_database_that_cannot_be_reached_is_said_without_its_password(
    settings: Settings, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION, connection)
    (settings.home / "airflow" / "migrated").write_text("before")
    with pytest.raises(ConfigurationError, match=r"database does not answer: .+ mend AIRFLOW__DATABASE__SQL_ALCHEMY") as refused:
        database.is_current(settings)
    assert "hunter2" not in str(refused.value)


@pytest.mark.processes
def test_a_migration_that_fails_leaves_no_stamp(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = settings.home / "airflow" / "migrated"
    stamp.write_text(json.dumps("of an earlier Airflow"))
    monkeypatch.setenv(CONNECTION, "sqlite:////nowhere/at/all/airflow.db")
    with pytest.raises(subprocess.CalledProcessError):
        database.migrate(settings)
    assert not stamp.exists()
