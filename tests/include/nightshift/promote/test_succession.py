"""Which reign follows which: exactly one is open, nights have one champion at most, and who was rolled back does not return by himself."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.nightshift.errors import RegistryError
from include.nightshift.promote import succession

START = date(2018, 7, 1)
Reign = dict[str, Any]


def reign(version: str, first: int, last: int | None = None, act: str = "promote") -> Reign:
    """From and until so many nights after the first."""
    return {
        "model_version": version,
        "report_digest": f"report of {version}",
        "act": act,
        "from_night": START + timedelta(days=first),
        "until_night": None if last is None else START + timedelta(days=last),
    }


def test_nobody_reigns_before_the_first_promotion_and_then_the_one_without_an_end() -> None:
    assert succession.open_reign([]) is None
    assert succession.open_reign([reign("1", 0, 4), now := reign("2", 5)]) is now


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([reign("1", 0), reign("2", 5)], "1, 2"),
        ([reign("1", 0), reign("2", 5), reign("3", 7)], "1, 2, 3"),
        ([reign("1", 0, 4)], "no version"),
    ],
)
def test_two_open_reigns_or_reigns_of_which_none_is_open_are_refused_by_name(rows: list[Reign], found: str) -> None:
    with pytest.raises(RegistryError, match=rf"^ops.champion_history: {found} reigns without an end, expected one. `describe history"):
        succession.open_reign(rows)


def test_a_night_has_the_champion_whose_first_and_last_night_it_lies_between() -> None:
    rows = [reign("1", 0, 4), reign("2", 5, 4), reign("3", 5)]
    found = {night: succession.over(rows, START + timedelta(days=night)) for night in (-1, 0, 4, 5, 500)}
    assert {night: row and row["model_version"] for night, row in found.items()} == {-1: None, 0: "1", 4: "1", 5: "3", 500: "3"}


@pytest.mark.parametrize("others", [[], [reign("3", 4)]])
def test_a_night_with_two_champions_is_refused_by_name(others: list[Reign]) -> None:
    with pytest.raises(RegistryError, match=r"night 2018-07-05: versions 1, 2(, 3)? reign, expected one at most. `describe history"):
        succession.over([reign("1", 0, 4), reign("2", 4), *others], START + timedelta(days=4))


def test_a_reign_of_one_night_began_and_one_that_ends_before_its_first_did_not() -> None:
    assert succession.began(reign("1", 5))
    assert succession.began(reign("1", 5, 5))
    assert not succession.began(reign("1", 5, 4))


def test_whom_a_rollback_follows_is_barred_and_nobody_else() -> None:
    rows = [reign("1", 0, 4), reign("2", 5, 6), reign("1", 7, 9, "rollback"), reign("3", 10)]
    assert succession.barred(rows) == {"report of 2"}
    assert succession.barred(rows[:2]) == set()


@pytest.mark.parametrize(
    ("rows", "before"),
    [
        ([], None),
        ([reign("1", 0)], None),
        ([reign("1", 0, 4), reign("2", 5)], "1"),
        ([reign("1", 0, 4), reign("2", 5, 6), reign("3", 7)], "2"),
        # The second was rolled back: before the first, which reigns again, there is none.
        ([reign("1", 0, 4), reign("2", 5, 6), reign("1", 7, act="rollback")], None),
        # And from the fourth the way leads past it.
        ([reign("1", 0, 4), reign("2", 5, 6), reign("1", 7, 8, "rollback"), reign("4", 9)], "1"),
    ],
)
def test_the_predecessor_is_who_was_promoted_before_and_was_not_rolled_back(rows: list[Reign], before: str | None) -> None:
    found = succession.predecessor(rows)
    assert (found and found["model_version"]) == before


@given(firsts=st.lists(st.integers(-3, 20), min_size=1, max_size=8))
def test_however_reigns_follow_each_other_one_is_open_and_each_night_from_the_first_has_one_champion(firsts: list[int]) -> None:
    rows: list[Reign] = []
    for number, first in enumerate(firsts):
        rows = succession.followed(rows, reign(str(number), first))
    assert [row["model_version"] for row in rows] == [str(number) for number in range(len(firsts))]
    assert succession.open_reign(rows) is rows[-1]
    assert rows[-1]["from_night"] == START + timedelta(days=max(firsts))
    begins = rows[0]["from_night"]
    assert succession.over(rows, begins - timedelta(days=1)) is None
    assert all(succession.over(rows, begins + timedelta(days=night)) for night in range(30))


def test_the_reign_that_follows_changes_no_row_that_was_handed_in() -> None:
    rows = [reign("1", 5)]
    new = reign("2", 3)
    [ended, follows] = succession.followed(rows, new)
    assert (ended["until_night"], follows["from_night"]) == (START + timedelta(days=4), START + timedelta(days=5))
    assert rows == [reign("1", 5)]
    assert new == reign("2", 3)
