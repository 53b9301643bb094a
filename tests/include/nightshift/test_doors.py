import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from include.nightshift import doors
from include.nightshift.errors import ConfigurationError
from include.nightshift.operate.environment import environment
from include.nightshift.settings import Settings

WORD = "a-word-of-more-than-thirty-two-characters"


def test_tokens_are_made_once_for_their_owner_only_and_each_door_has_its_own(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with ThreadPoolExecutor(8) as starters:
        list(starters.map(lambda _: doors.make(settings), range(8)))
    spark, mlflow = doors.token(settings, "spark"), doors.token(settings, "mlflow")
    doors.make(settings)
    assert (spark, mlflow) == (doors.token(settings, "spark"), doors.token(settings, "mlflow"))
    assert spark != mlflow
    assert spark is not None
    assert len(spark) == 43
    folder = tmp_path / "doors"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {"spark.token": 0o600, "mlflow.token": 0o600}


def test_no_token_is_in_what_processes_are_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    doors.make(settings)
    told = " ".join(environment(settings, {}).values())
    assert str(doors.token(settings, "spark")) not in told
    assert str(doors.token(settings, "mlflow")) not in told


@pytest.mark.parametrize(("content", "mode"), [(WORD, 0o640), (WORD, 0o604), ("", 0o600), ("short", 0o600), (f"{WORD} {WORD}", 0o600)])
def test_a_token_that_others_may_know_or_guess_is_none(tmp_path: Path, content: str, mode: int) -> None:
    settings = Settings(home=tmp_path)
    doors.make(settings)
    path = tmp_path / "doors" / "spark.token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"spark\.token has mode {mode:04o} .*make up") as raised:
        doors.token(settings, "spark")
    assert WORD not in str(raised.value)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}"):
        doors.make(settings)


def test_a_missing_token_is_named_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"mlflow\.token is missing.*make up"):
        doors.token(Settings(home=tmp_path), "mlflow")
    elsewhere = Settings(home=tmp_path, spark_remote="sc://lake.example:15002/;use_ssl=true", spark_token_file=tmp_path / "given")
    with pytest.raises(ConfigurationError, match=r"given is missing.*lake\.example.*0600"):
        doors.token(elsewhere, "spark")


def test_a_server_elsewhere_is_shown_the_token_that_a_setting_names_and_no_other(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text(WORD + "\n")
    given.chmod(0o600)
    elsewhere = Settings(home=tmp_path, spark_remote="sc://lake.example:15002", mlflow_uri="https://mlflow.example")
    doors.make(elsewhere)
    assert not (tmp_path / "doors").exists(), "it opens no door itself"
    assert doors.token(elsewhere, "spark") is doors.token(elsewhere, "mlflow") is None
    named = Settings(home=tmp_path, spark_remote="sc://lake.example:15002", spark_token_file=given)
    assert doors.token(named, "spark") == WORD
    assert "mlflow.token" in str(doors._file(named, "mlflow"))


def test_mlflows_client_shows_the_token_and_not_what_the_shell_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    doors.make(settings)
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "from-the-shell")
    doors.introduce(settings)
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == doors.token(settings, "mlflow")
    assert not {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} & os.environ.keys()


def test_mlflow_elsewhere_is_asked_as_the_shell_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    doors.introduce(Settings(home=tmp_path, mlflow_uri="https://mlflow.example"))
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "somebody"
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ
