"""Who may let a held list out, who is told that it is held, and in which words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake

from include.nightshift import notify
from include.nightshift.errors import PublicationError
from include.nightshift.lakehouse import records, storage, tables
from include.nightshift.score import held
from include.nightshift.score.publications import Decision, Published
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import USE_CASE

NIGHT = date(2026, 3, 12)
SCORES = tables.scores(USE_CASE)
HELD = Decision(night=NIGHT, state="held", mark="stale", reasons=("volume (data): 40% of what recent nights had",), model_version="3")


@pytest.fixture
def settings(records_home: Settings) -> Settings:
    """A night that ann ran by hand and whose list is held; ann, bob and cy are approvers."""
    DeltaTable.create(storage.location(records_home, SCORES), SCORES.arrow([]).schema, partition_by=list(SCORES.partition))
    write_deltalake(storage.location(records_home, SCORES), SCORES.arrow([{"day": NIGHT, "role": "champion", "score": 0.5}]), mode="append")
    installed = replace(records_home, approvers=("ann", "bob", "cy"))
    known(installed, triggered_by="ann,cy")
    return installed


def known(settings: Settings, **told: Any) -> None:
    record = {"day": NIGHT, "use_case": USE_CASE.name, "revision": 1, "state": "held", "reasons": json.dumps(HELD.reasons)} | told
    records.replace(settings, tables.PUBLICATIONS, [record], {"day": [NIGHT]})


def test_an_approver_who_did_not_start_the_held_run_may_let_it_out(settings: Settings) -> None:
    assert held.releasable(settings, USE_CASE, NIGHT, by="bob")["revision"] == 1
    known(settings, triggered_by=None)
    assert held.releasable(settings, USE_CASE, NIGHT, by="ann")["revision"] == 1


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("ann", "who started the run that was held: a second person"),
        ("cy", "who started the run that was held: a second person"),
        ("dan", "only ann, bob, cy may"),
        (None, "by nobody: only ann, bob, cy may"),
        ("", "only ann, bob, cy may"),
    ],
)
def test_nobody_else_may(settings: Settings, by: str | None, said: str) -> None:
    with pytest.raises(PublicationError, match=said):
        held.releasable(settings, USE_CASE, NIGHT, by=by)


@pytest.mark.parametrize(
    ("told", "said"),
    [({"state": "published"}, "published, not held"), ({"use_case": "other"}, "unknown, not held")],
    ids=["out", "unknown"],
)
def test_a_list_that_is_not_held_cannot_be_let_out(settings: Settings, told: dict[str, Any], said: str) -> None:
    known(settings, **told)
    with pytest.raises(PublicationError, match=said):
        held.releasable(settings, USE_CASE, NIGHT, by="bob")


def test_the_newest_revision_counts(settings: Settings) -> None:
    again = {"day": NIGHT, "use_case": USE_CASE.name, "revision": 2, "state": "published", "reasons": "[]"}
    records.amend(settings, tables.PUBLICATIONS, lambda kept: [*kept, again])
    with pytest.raises(PublicationError, match="published, not held"):
        held.releasable(settings, USE_CASE, NIGHT, by="bob")


def test_without_scores_there_is_nothing_to_let_out_and_the_reasons_say_what_to_mend(settings: Settings) -> None:
    write_deltalake(storage.location(settings, SCORES), SCORES.arrow([]), mode="overwrite")
    with pytest.raises(PublicationError, match=r"nothing was scored. Mend what holds it: volume \(data\)"):
        held.releasable(settings, USE_CASE, NIGHT, by="bob")


@pytest.mark.parametrize(
    ("mark", "rows", "said"),
    [
        ("stale", 100, "The list before it is out, marked stale"),
        ("stale", 0, "No list is out"),
        (None, 100, "Its own list from before is out"),
    ],
)
def test_the_message_says_what_was_seen_what_is_out_and_what_to_do(mark: str | None, rows: int, said: str) -> None:
    words = held.advice(USE_CASE, HELD, Published(NIGHT, 1, "held", mark, rows, 7), more=2)
    for part in (str(NIGHT), "and 2 more nights", HELD.reasons[0], said, "clear `scores`", "card_fraud_publish"):
        assert part in words


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], bool]]:
    sent: list[tuple[str, list[str], bool]] = []

    def warn(settings: Settings, title: str, lines: Sequence[str], *, where: str, failure: bool = False) -> bool:
        sent.append((title, list(lines), failure))
        return True

    monkeypatch.setattr(notify, "warn", warn)
    return sent


def test_each_list_that_is_held_or_marked_is_told_and_no_other(tmp_path: Path, notices: list[tuple[str, list[str], bool]]) -> None:
    days = [date(2026, 3, day) for day in (12, 13, 14, 15)]
    decisions = [
        HELD,
        replace(HELD, night=days[1], state="marked", mark="odd"),
        replace(HELD, night=days[2], state="published", mark=None, reasons=()),
        replace(HELD, night=days[3]),
    ]
    # The last one is held again, and was let out before.
    marks = ("stale", "odd", None, "anyway")
    out = {
        decision.night: Published(decision.night, 1, decision.state, mark, 9, 7) for decision, mark in zip(decisions, marks, strict=True)
    }
    held.tell(Settings(home=tmp_path), USE_CASE, decisions, out)
    assert [(title, failure) for title, _, failure in notices] == [
        ("card_fraud 2026-03-12: list held", True),
        ("card_fraud 2026-03-13: list marked odd", False),
    ]
    assert notices[0][1] == list(HELD.reasons)
    assert [decision.night for decision in held.still_held(decisions, out)] == [NIGHT]
