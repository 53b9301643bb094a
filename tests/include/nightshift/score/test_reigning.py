"""Right before a list goes out: whoever scored it still reigns over its night, or it stays in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.courts import DAY, START, Court
from include.nightshift.errors import PublicationError
from include.nightshift.promote import history, registry
from include.nightshift.score import decide
from include.nightshift.score.publications import Decision

SCORED = Decision(night=START, state="published", model_version="1")


@pytest.fixture
def court(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Court:
    """Version 1 reigns over a night that has no list yet."""
    court = Court(tmp_path).open()
    monkeypatch.setattr(registry, "client", lambda settings: court.alias)
    history.crown(court.settings, court.use_case, court.approved("1"), why="gates passed")
    return court


def test_a_list_by_whoever_reigns_goes_out(court: Court) -> None:
    decide.check_reign(court.settings, court.use_case, [SCORED])


def test_a_list_by_whoever_reigned_until_a_moment_ago_stays_in(court: Court) -> None:
    history.crown(court.settings, court.use_case, court.approved("2", "1"), why="gates passed")
    for mark, state in ((None, "published"), ("odd", "marked")):
        with pytest.raises(PublicationError, match="was scored by version 1, and version 2 reigns over it by now: nothing was published"):
            decide.check_reign(court.settings, court.use_case, [replace(SCORED, mark=mark, state=state)])  # type: ignore[arg-type]


def test_a_night_over_which_nobody_reigns_gets_no_champions_list(court: Court) -> None:
    with pytest.raises(PublicationError, match="nobody reigns over it by now"):
        decide.check_reign(court.settings, court.use_case, [replace(SCORED, night=START - DAY)])


def test_lists_of_those_who_stand_in_and_held_ones_say_so_themselves(court: Court) -> None:
    history.crown(court.settings, court.use_case, court.approved("2", "1"), why="gates passed")
    stood_in = replace(SCORED, state="marked", mark="fallback")
    decide.check_reign(court.settings, court.use_case, [stood_in, replace(SCORED, state="held", mark="stale")])
