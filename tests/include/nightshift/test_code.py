from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from include.nightshift import code

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """The git of a checkout that counts as this project's."""

    def run(*asked: str) -> str:
        who = ("-c", "user.name=one", "-c", "user.email=one@example.org")
        return subprocess.run(["git", "-C", str(tmp_path), *who, *asked], check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(code, "ROOT", tmp_path)
    return run


def committed(git: Git, folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    git("add", "--all")
    git("commit", "--message", "one")
    return git("rev-parse", "HEAD")


def test_the_code_is_named_by_its_commit_and_by_whether_it_is_more_than_that(git: Git, tmp_path: Path) -> None:
    assert (code.commit(), code.dirty(), code.name()) == ("unknown", None, "unknown")
    git("init")
    first = committed(git, tmp_path, one="1")
    assert (code.commit(), code.dirty(), code.name()) == (first, False, first)
    (tmp_path / "one.py").write_text("2")
    assert (code.commit(), code.dirty(), code.name()) == (first, True, f"{first}-dirty")
    committed(git, tmp_path)
    assert code.dirty() is False
    (tmp_path / "more.py").write_text("3")
    assert code.dirty() is True


def test_an_earlier_commit_is_laid_out_as_it_was(git: Git, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    git("init")
    first = committed(git, tmp_path, one="1")
    committed(git, tmp_path, one="2", two="2")
    folder = tmp_path_factory.mktemp("laid")
    assert code.laid_out(first, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"one.py": "1"}


@pytest.mark.parametrize("asked", ["unknown", "0" * 40, "{first}-dirty", "--output=x"])
def test_code_that_git_does_not_have_is_not_laid_out(asked: str, git: Git, tmp_path: Path) -> None:
    git("init")
    first = committed(git, tmp_path, one="1")
    folder = tmp_path / "laid"
    folder.mkdir()
    assert not code.laid_out(asked.format(first=first), folder)
    assert not list(folder.iterdir())


def test_packages_are_named_by_the_lock_file(tmp_path: Path) -> None:
    assert code.packages(tmp_path) is None
    (tmp_path / code.LOCK).write_text("a==1")
    first = code.packages(tmp_path)
    (tmp_path / code.LOCK).write_text("a==2")
    assert first != code.packages(tmp_path)
    assert code.packages() is not None
