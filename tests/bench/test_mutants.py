"""Mutants: changes that tests notice are told from those that they do not, and none is made of what nobody decides by."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

from bench import mutants as bench
from include.nightshift.settings import ROOT

PROGRAM = """
from bench import mutants
for tests in ("verdict", "question"):
    mutants.TESTED = {"verdict": (tests,)}
    print("status", mutants.main(["--modules", "verdict", "--sample", "2", "--processes", "2"]))
"""


def test_a_sample_is_tried_and_what_the_tests_do_not_notice_is_named() -> None:
    """Planted: tests of something else, which no change of a verdict can make fail. In a process of its own, because it forks."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    sees, blind, _ = re.split("status .*", done.stdout)
    assert re.findall("status .*", done.stdout) == ["status 0", "status 1"]
    assert "verdict       2 mutants,   0 survived" in sees
    assert "verdict       2 mutants,   2 survived" in blind
    assert blind.count("NO REASON KNOWN") == 2


def test_each_mutant_is_its_module_with_one_change_and_every_reason_is_of_one_that_there_is() -> None:
    there = set()
    for module in bench.TESTED:
        every = list(bench.mutants(module))
        assert len({mutant.source for mutant in every}) == len(every)
        for mutant in every:
            ast.parse(mutant.source)
        there |= {mutant.name for mutant in every}
    assert bench.KNOWN.keys() <= there
