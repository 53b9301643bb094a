import json
from datetime import date
from pathlib import Path

import pytest

from include.nightshift import settings as settings_module
from include.nightshift.operate.environment import USERS, environment, nightshift_variables, prepare_home
from include.nightshift.settings import ROOT, Ports, Settings


def test_a_child_process_loads_the_settings_of_its_parent(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        usecases=("card_fraud", "other"),
        feed_spans={"transactions": (date(2018, 4, 1), None), "fraud_labels": (None, date(2018, 9, 30))},
        clock=False,
        ports=Ports(airflow=4001, mlflow=4004, spark=4005, jdbc=4006),
        lakehouse_memory="2g",
        approver="somebody",
    )
    loaded = settings_module.load(nightshift_variables(settings))
    same = ("home", "usecases", "feed_spans", "clock", "ports", "lakehouse_memory", "approver")
    resolved = ("landing_folder", "landing_location", "lakehouse_location", "spark_url", "mlflow_url", "airflow_url", "passwords_file")
    for name in same + resolved:
        assert getattr(loaded, name) == getattr(settings, name), name
    assert nightshift_variables(loaded) == nightshift_variables(settings)
    assert {
        f"NIGHTSHIFT_{name.upper()}" for name in Settings.__dataclass_fields__ if name not in ("ports", "binds")
    } <= nightshift_variables(settings).keys()


def test_where_things_lie_and_listen_follows_the_settings_whatever_the_shell_says(tmp_path: Path) -> None:
    shell = {
        "AIRFLOW_HOME": "/elsewhere",
        "AIRFLOW__API__PORT": "1",
        "AIRFLOW__CORE__DAGS_FOLDER": "/elsewhere",
        "NIGHTSHIFT_HOME": "/elsewhere",
    }
    told = environment(Settings(home=tmp_path, ports=Ports(airflow=4001)), shell)
    assert told["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert told["AIRFLOW__API__PORT"] == "4001"
    assert told["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert told["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:4001/execution/"
    assert told["AIRFLOW__CORE__DAGS_FOLDER"] == str(ROOT / "dags")
    assert told["NIGHTSHIFT_HOME"] == str(tmp_path)


def test_database_and_scale_are_the_callers_to_choose(tmp_path: Path) -> None:
    told = environment(Settings(home=tmp_path), {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://db/airflow"})
    assert told["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql://db/airflow"
    assert told["AIRFLOW__CORE__PARALLELISM"] == "4"
    assert environment(Settings(home=tmp_path), {})["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{tmp_path}/airflow/airflow.db"


def test_bytecode_is_written_even_where_the_shell_forbids_it(tmp_path: Path) -> None:
    assert "PYTHONDONTWRITEBYTECODE" not in environment(Settings(home=tmp_path), {"PYTHONDONTWRITEBYTECODE": "1"})


def test_secrets_are_made_once_readable_by_the_owner_only_and_are_in_no_environment(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    passwords = prepare_home(settings)
    kept = settings.home / "airflow" / "airflow.cfg"
    secrets = kept.read_text()
    assert prepare_home(settings) == {}
    assert passwords.keys() == USERS.keys() == json.loads(settings.passwords_file.read_text()).keys()
    assert len(set(passwords.values())) == len(passwords)
    assert all(len(password) >= 24 for password in passwords.values())
    assert kept.read_text() == secrets
    for path in (kept, settings.passwords_file):
        assert path.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    values = [line.partition(" = ")[2] for line in secrets.splitlines() if " = " in line]
    told = " ".join(environment(settings).values())
    assert len(values) == 3
    assert not [secret for secret in (*values, *passwords.values()) if secret in told]


def test_two_homes_have_nothing_in_common(tmp_path: Path) -> None:
    one = prepare_home(Settings(home=tmp_path / "one"))
    two = prepare_home(Settings(home=tmp_path / "two"))
    assert not set(one.values()) & set(two.values())


@pytest.mark.parametrize("name", ["DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"])
def test_nobody_is_told_that_this_runs(tmp_path: Path, name: str) -> None:
    assert environment(Settings(home=tmp_path), {name: "false"})[name] == "true"
