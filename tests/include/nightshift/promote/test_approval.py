"""Approval: who has a hand in a candidate does not answer for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from include.nightshift.promote.approval import Involved, authors, objections
from include.usecases.card_fraud.usecase import USE_CASE

APPROVERS = ("operator", "admin")
NOBODY = Involved(triggered_by=None)


def test_an_approver_who_has_no_hand_in_it_may_answer() -> None:
    involved = Involved(triggered_by="admin", released_by=frozenset({"admin"}), authors=frozenset({"Ada", "ada@example.org"}))
    assert objections("operator", APPROVERS, involved) == ()


@pytest.mark.parametrize(
    ("by", "involved", "said"),
    [
        (None, NOBODY, "nobody answered in time"),
        ("", NOBODY, "nobody answered in time"),
        ("analyst", NOBODY, "analyst is none of the approvers (admin, operator)"),
        ("operator", Involved(triggered_by="operator"), "operator started the training"),
        ("operator", Involved(triggered_by=None, released_by=frozenset({"operator"})), "let rows out of quarantine"),
        ("operator", Involved(triggered_by=None, authors=frozenset({"operator"})), "wrote of its recipe"),
        ("operator", Involved(triggered_by=None, authors=frozenset({"Operator"})), "wrote of its recipe"),
        ("operator", Involved(triggered_by=None, authors=frozenset({"operator@bank.example"})), "wrote of its recipe"),
    ],
)
def test_whoever_has_a_hand_in_it_may_not(by: str | None, involved: Involved, said: str) -> None:
    [objection] = objections(by, APPROVERS, involved)
    assert said in objection


def test_every_objection_is_told() -> None:
    everything = Involved(triggered_by="eve", released_by=frozenset({"eve"}), authors=frozenset({"eve"}))
    assert len(objections("eve", APPROVERS, everything)) == 4


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def commit(root: Path, path: str, who: str) -> str:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    with (root / path).open("a") as file:
        file.write("x\n")
    git = ["git", "-C", str(root), "-c", f"user.name={who}", "-c", f"user.email={who.lower()}@example.org"]
    subprocess.run([*git, "add", path], check=True)
    subprocess.run([*git, "commit", "--quiet", "--no-gpg-sign", "-m", "change"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_authors_are_those_who_touched_the_use_case_since_the_champion(checkout: Path) -> None:
    champion = commit(checkout, "include/usecases/card_fraud/recipes.py", "Ada")
    commit(checkout, "README.md", "Bob")
    commit(checkout, "include/usecases/other/recipes.py", "Cyd")
    commit(checkout, "dbt_project/models/card_fraud/features.sql", "Dan")
    candidate = commit(checkout, "include/usecases/card_fraud/recipes.py", "Eve")
    commit(checkout, "include/usecases/card_fraud/recipes.py", "Fay")
    assert authors(checkout, USE_CASE, champion, candidate) == {"Dan", "dan@example.org", "Eve", "eve@example.org"}
    assert {"Ada", "Eve"} < (authors(checkout, USE_CASE, None, candidate) or set())
    assert authors(checkout, USE_CASE, candidate, candidate) == frozenset()


def test_where_nobody_can_tell_who_the_authors_are_nobody_is_named(checkout: Path, tmp_path: Path) -> None:
    known = commit(checkout, "include/usecases/card_fraud/recipes.py", "Ada")
    assert authors(checkout, USE_CASE, "0" * 40, known) is None
    assert authors(tmp_path / "elsewhere", USE_CASE, None, known) is None
    assert authors(checkout, USE_CASE, None, "unknown") is None
