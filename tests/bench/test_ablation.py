"""Which features the ablation takes away: those that are worth no more together than the figures can tell from nothing."""

from collections.abc import Sequence

import pytest

from bench.ablation import Benefit, eliminated

WORTH = {"carries": 0.02, "twin": 0.01, "other_twin": 0.01, "noise": -0.001, "little": 0.0005}


def worth(gone: Sequence[str]) -> Benefit:
    """Each feature's own, but a twin is worth nothing beside the other."""
    alone = sum(WORTH[name] for name in gone if "twin" not in name)
    return Benefit(alone + (0.01 if {"twin", "other_twin"} <= set(gone) else 0), error=0.001)


def test_features_go_one_after_another_until_what_went_is_worth_an_error() -> None:
    gone = list(eliminated(list(WORTH), worth))
    assert [name for name, _ in gone] == ["noise", "twin", "little"]
    assert gone[-1][1].mean == pytest.approx(-0.0005)


def test_where_each_is_worth_something_none_goes_and_where_none_is_all_do() -> None:
    assert list(eliminated(["carries"], worth)) == []
    assert [name for name, _ in eliminated(["noise", "little"], worth)] == ["noise", "little"]
