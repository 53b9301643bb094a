import hashlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.lakehouse import jars
from include.nightshift.operate import preflight, setup
from include.nightshift.settings import ROOT


def test_an_environment_is_current_only_when_it_was_completed_from_this_very_lock(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("numpy==2\n")
    assert not setup.is_current(tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "nightshift.lock.sha256").write_text(hashlib.sha256(b"numpy==2\n").hexdigest())
    assert setup.is_current(tmp_path)
    (tmp_path / "requirements.lock").write_text("numpy==3\n")
    assert not setup.is_current(tmp_path)


def test_an_installation_that_fails_leaves_no_stamp_and_says_which_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requirements.lock").write_text("numpy==2\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ncase "$*" in *requirements.lock*) echo no such hash; exit 3;; esac\n')
    python.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"installing 350 packages .* exit code 3"):
        setup.make_environment(tmp_path)
    assert "no such hash" in capsys.readouterr().err
    assert not setup.is_current(tmp_path)


def test_the_lock_is_installed_with_hashes_and_compiled_whatever_the_shell_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text("numpy==2\n")
    commands: list[list[str]] = []
    monkeypatch.setattr(setup, "_step", lambda what, command, advice: commands.append(command))
    (tmp_path / ".venv").mkdir()
    setup.make_environment(tmp_path)
    install = next(command for command in commands if str(tmp_path / "requirements.lock") in command)
    assert {"--require-hashes", "--compile-bytecode"} <= set(install)
    assert setup.is_current(tmp_path)


def test_jars_for_s3_are_missed_only_where_tables_lie_there_and_their_room_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jars").mkdir()
    for name in jars.DELTA:
        (tmp_path / "jars" / name).touch()
    assert not setup.lacks_jars(tmp_path, s3=False)
    assert setup.lacks_jars(tmp_path, s3=True)

    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path))
    monkeypatch.setenv("NIGHTSHIFT_LAKEHOUSE", "s3a://lake/nights")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(3e9)))
    assert setup.main() == 1
    assert f"{tmp_path} has 3.0 GB of free disk, 4 GB are needed" in capsys.readouterr().err


def test_pips_index_is_uvs_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    setup._step("looking", ["sh", "-c", f'printf %s "$UV_DEFAULT_INDEX" > {seen}'], "")
    assert seen.read_text() == "https://mirror.example/simple"


def test_another_python_is_refused_before_any_of_our_modules_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight, "python", lambda: "this is Python 3.8")
    monkeypatch.setitem(sys.modules, "include.nightshift.settings", None)
    assert setup.main() == 1
    assert capsys.readouterr().err == "nightshift: this is Python 3.8\n"


def test_setup_needs_nothing_but_the_standard_library() -> None:
    # -S and -I: no site-packages, nothing of this environment.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import include.nightshift.operate.setup, include.nightshift.settings"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_machine_that_only_trains_has_the_versions_of_the_lock() -> None:
    pinned = re.compile(r"^([a-z0-9-]+)==([^\s;\\]+)", re.M)
    lock = dict(pinned.findall((ROOT / "requirements.lock").read_text()))
    training = dict(pinned.findall((ROOT / "requirements-training.txt").read_text()))
    assert {"numpy", "xgboost", "pyarrow"} <= training.keys()
    assert training == {name: lock[name] for name in training}
    assert not [name for name in training if "airflow" in name or "spark" in name]


def test_make_alone_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert targets is not None
    listed = subprocess.run(["make", "-C", str(ROOT), "--no-print-directory"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([a-z-]+) ", listed, re.M) == [name for name in targets[1].split() if name != "setup"]


def test_make_without_a_python_says_so_in_one_sentence() -> None:
    done = subprocess.run(["make", "-C", str(ROOT), "setup", "PYTHON="], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "there is no python3.11 on the path" in done.stderr
