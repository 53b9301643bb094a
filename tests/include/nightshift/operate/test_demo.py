"""The demo's door: what it refuses before anything is started or written, and what to do then."""

import os
from datetime import date
from pathlib import Path

import pytest
from deltalake import write_deltalake

from include.nightshift.lakehouse import storage, tables
from include.nightshift.operate import demo
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path))
    monkeypatch.setattr(demo.processes, "up", lambda settings: pytest.fail("the demo went on"))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--nights", "0"], "NIGHTS=0: run at least one live night"),
        (["--history", "2026-01-01..2026-02-01"], "HISTORY names nights of your own files: give LANDING too"),
        (["--landing", "."], "LANDING needs HISTORY=FIRST..LAST"),
        (["--landing", ".", "--history", "2026-02-01..2026-01-01"], "HISTORY"),
        (["--landing", ".", "--history", "2026-01-01..2026-02-01"], "name the folder above your feeds"),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_sentence(arguments: list[str], advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(arguments) == 1
    told = capsys.readouterr().err
    assert advice in told
    assert told.count("\n") == 1


def test_a_home_with_nights_in_it_is_left_alone(home: Path, use_case: UseCase, capsys: pytest.CaptureFixture[str]) -> None:
    table = tables.silver(use_case.events)
    path = storage.location(Settings(home=home), table)
    write_deltalake(path, tables.NIGHTS.arrow([{"day": date(2026, 1, 5)}]), partition_by=["day"])
    assert demo.main([]) == 1
    assert "holds nights 2026-01-05..2026-01-05 already" in capsys.readouterr().err
    assert not (home / "landing").exists()


@pytest.mark.parametrize(
    ("last", "published", "trained_as_of"),
    [(date(2018, 6, 23), "published", date(2018, 5, 18)), (date(2018, 6, 22), None, date(2018, 6, 22))],
)
def test_long_files_of_your_own_begin_with_the_published_recipe_which_knows_none_of_the_nights_that_judge_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_case: UseCase, last: date, published: str | None, trained_as_of: date
) -> None:
    """Verdicts take 7 nights and 28 judge: with all that is known by 23 June, those of 20 May to 16 June."""
    for feed in use_case.feeds:
        for night in (date(2018, 4, 1), date(2018, 12, 31)):
            path = tmp_path / "files" / feed.name / f"{night}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    told: list[demo.Story] = []
    monkeypatch.setattr(demo, "_tell", lambda settings, story, tell: told.append(story))
    with pytest.MonkeyPatch.context() as environment:
        environment.setattr(os, "environ", dict(os.environ))
        assert demo.main(["--landing", str(tmp_path / "files"), "--history", f"2018-04-01..{last}", "--nights", "3"]) == 0
    assert told == [demo.Story(date(2018, 4, 1), last, 3, trained_as_of, published)]
