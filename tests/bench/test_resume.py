"""A small sample of `bench/resume.py`, and that what it counts can be otherwise than hoped."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.resume import Tally, _verdict, litter, reads
from include.nightshift.settings import ROOT
from include.nightshift.train.checkpoint import Checkpoint, Checkpoints


@pytest.mark.processes
def test_trees_killed_anywhere_end_as_if_undisturbed_and_a_trainer_that_forgets_its_dice_does_not() -> None:
    line = [sys.executable, "-m", "bench.resume", "--recipes", "trees", "--kills", "4", "--inside", "1"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (words for words in done.stdout.splitlines() if "planted defect " in words)
    assert " 0 byte for byte; 0 unreadable" in found
    assert done.stdout.splitlines()[-1].endswith("target 1 ok")


SOUND = {"kills": 5, "runs": 2, "resumed": 1, "identical": 2}


@pytest.mark.parametrize(
    ("seen", "missed", "status"),
    [
        ({}, [], 0),
        ({}, ["trees"], 1),
        ({"identical": 1}, [], 1),
        ({"unreadable": 1}, [], 1),
        ({"resumed": 0}, [], 1),
        ({"kills": 4}, [], 1),
    ],
)
def test_it_is_short_where_anything_is_not_as_it_should_be(seen: dict[str, int], missed: list[str], status: int) -> None:
    tally = Tally(**SOUND | seen, inside=Counter({"state half written": 2}))  # type: ignore[arg-type]
    assert _verdict([tally], missed, kills=5, inside=2) == status
    assert _verdict([tally], missed, kills=5, inside=3) == 1


def test_a_checkpoint_is_read_only_where_it_is_what_its_hashes_say(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {}).save(Checkpoint(step=7, machine={}, history=()), [b"where it ", b"stood"])
    assert reads(tmp_path, 7)
    assert not litter(tmp_path)
    state, manifest = tmp_path / "00000007.state", tmp_path / "00000007.json"
    state.write_bytes(b"where it Stood")
    assert not reads(tmp_path, 7)
    body = json.loads(manifest.read_text())["body"] | {"state_sha256": hashlib.sha256(state.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps({"body": body, "body_sha256": "0"}))
    assert not reads(tmp_path, 7)
    manifest.write_text("{")
    assert not reads(tmp_path, 7)


def test_what_stands_during_a_write_alone_is_told_from_what_stands_after_it(tmp_path: Path) -> None:
    assert litter(tmp_path / "none") == {}
    for name in (
        "lock",
        "00000003.json",
        "00000003.state",
        "00000001.state",
        "00000005.state",
        ".00000006.state.tmp",
        ".00000005.json.tmp",
    ):
        (tmp_path / name).touch()
    assert {name: where for (name, _, _), where in litter(tmp_path).items()} == {
        "00000001.state": "old state left to remove",
        "00000005.state": "state without its manifest",
        ".00000006.state.tmp": "state half written",
        ".00000005.json.tmp": "manifest half written",
    }
    before = litter(tmp_path).keys()
    (tmp_path / ".00000006.state.tmp").write_bytes(b"of another process")
    assert [name for name, _, _ in litter(tmp_path).keys() - before] == [".00000006.state.tmp"]
