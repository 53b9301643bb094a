"""How often to save: no more work at risk than allowed, and no more saves than that and Young's interval ask for."""

import math

import pytest

from include.nightshift.train.pace import MEAN_LIFE_SECONDS, Pace


class Hours:
    """A clock that only the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def saves(at_risk: float, stretch: float, cost: float, stretches: int) -> list[float]:
    """Train so many stretches; returns the seconds of work between saves."""
    clock = Hours()
    pace, between, worked = Pace(at_risk, clock), [], 0.0
    for _ in range(stretches):
        clock.now += stretch
        assert pace.stretched() == pytest.approx(stretch)
        worked += stretch
        if pace.due:
            clock.now += cost
            assert pace.saved() == pytest.approx(cost)
            between.append(worked)
            worked = 0.0
    return between


def test_the_first_stretch_is_saved_to_learn_what_saving_costs() -> None:
    assert saves(60, stretch=1, cost=0.5, stretches=3) == [1]


def test_no_more_than_what_may_be_lost_is_ever_at_risk_and_not_much_less_is_saved() -> None:
    first, *others = saves(60, stretch=7, cost=0.5, stretches=200)
    assert first == 7
    assert set(others) == {56}, "the next stretch would have made it 63"


def test_a_save_that_costs_little_is_done_as_often_as_young_says() -> None:
    cost = 0.01
    interval = math.sqrt(2 * cost * MEAN_LIFE_SECONDS)
    assert interval < 30
    assert set(saves(60, stretch=1, cost=cost, stretches=300)[1:]) == {math.floor(interval)}


def test_nothing_at_risk_means_a_save_after_each_stretch_and_long_stretches_are_saved_one_by_one() -> None:
    assert saves(0, stretch=1, cost=0.5, stretches=5) == [1] * 5
    assert saves(60, stretch=100, cost=0.5, stretches=5) == [100] * 5


def test_at_a_minute_at_risk_saving_six_hundred_megabytes_takes_a_hundredth() -> None:
    """0.6 s for a durable save of that size (targets, A)."""
    between = saves(60, stretch=1, cost=0.6, stretches=3600)
    assert len(between) * 0.6 / 3600 <= 0.0105
