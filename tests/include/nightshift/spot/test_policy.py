"""The plan: never late whatever the market does, and the cheapest where the market is what it is taken for."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.spot_policies import Job, Ours, replay
from include.nightshift.errors import ConfigurationError
from include.nightshift.spot import policy
from include.nightshift.spot.policy import ON_DEMAND, Market, Planner, Wish


def planner(market: Market, job: Job, tick_hours: float = 1.0) -> Planner:
    ticks = {"hours": job.ticks, "work_hours": job.work, "changeover_hours": job.changeover}
    return Planner(market=market, tick_hours=tick_hours, **{name: count * tick_hours for name, count in ticks.items()})


def run(offered: np.ndarray, job: Job, market: Market, tick_hours: float = 1.0) -> tuple[float, bool]:
    return replay(offered, sorted(market.prices), job, Ours(planner(market, job, tick_hours), 0, []))


@st.composite
def markets(draw: st.DrawFn) -> tuple[np.ndarray, Job, Market, float]:
    """Offers without any rule, a job that on-demand alone can finish, beliefs that may be wrong, and ticks of any length."""
    work, changeover, slack = draw(st.integers(1, 30)), draw(st.integers(1, 4)), draw(st.integers(0, 20))
    job = Job(work + changeover + slack, work, changeover)
    zones = draw(st.integers(1, 3))
    offered = np.array(draw(st.lists(st.booleans(), min_size=zones * job.ticks, max_size=zones * job.ticks))).reshape(zones, job.ticks)
    names = [f"zone-{number}" for number in range(zones)]
    market = Market({name: draw(st.sampled_from([0.1, 0.3, 0.9, 1.5])) for name in names})
    for name in names:
        market.ran(name, draw(st.sampled_from([0.0, 1.0, 1e6])))
        market.losses[name] = draw(st.sampled_from([0, 1, 10**6]))
        market.refused[name] = draw(st.sampled_from([0, 10**6]))
    market.drought_hours = draw(st.sampled_from([0.0, 1e6]))
    return offered, job, market, draw(st.sampled_from([0.05, 1.0, 24.0]))


@given(markets())
@settings(max_examples=200)
def test_no_market_makes_a_run_late(world: tuple[np.ndarray, Job, Market, float]) -> None:
    offered, job, market, tick = world
    _, in_time = run(offered, job, market, tick)
    assert in_time


def long_runs() -> list[bool]:
    """Whether jobs of many more ticks than the plan has steps come in time."""
    rng = np.random.default_rng(5)
    jobs = [Job(1000 + 4 + slack, 1000, 4) for slack in (5, 40, 300, 700)]
    market = {"zone-0": 0.3, "zone-1": 0.3}
    return [run(rng.random((2, job.ticks)) < 0.7, job, Market(market), 0.05)[1] for job in jobs]


def test_a_job_of_many_more_ticks_than_the_plan_has_steps_is_in_time_too() -> None:
    assert all(long_runs())


def test_a_plan_that_rounds_time_in_its_own_favour_is_found_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted defect."""
    monkeypatch.setattr(policy, "_whole", lambda steps, rounded: round(steps))
    assert not all(long_runs())


def test_with_spot_always_there_nothing_but_spot_is_paid_for() -> None:
    job = Job(40, 20, 2)
    cost, _ = run(np.ones((1, 40), dtype=bool), job, Market({"zone-0": 0.3}))
    assert cost == pytest.approx(0.3 * 22)


def test_without_any_time_to_lose_on_demand_runs_from_the_start() -> None:
    job = Job(22, 20, 2)
    cost, in_time = run(np.ones((1, 22), dtype=bool), job, Market({"zone-0": 0.3}))
    assert in_time
    assert cost == 22


def test_a_deadline_that_cannot_be_kept_any_more_is_missed_by_as_little_as_possible() -> None:
    late = planner(Market({"zone-0": 0.3}), Job(30, 20, 2))
    assert late.wish(10, 20, None) == Wish((), "on_demand")
    assert late.wish(10, 20, ON_DEMAND) == Wish((), "keep")
    assert late.wish(40, 25, None) == Wish((), "on_demand"), "more work than was planned for"


def test_the_place_whose_useful_hour_is_cheapest_is_asked_first() -> None:
    market = Market({"dear": 0.5, "cheap": 0.3, "restless": 0.3})
    for _ in range(50):
        market.ran("restless", 1.0)
        market.lost("restless")
    assert market.ranked(0.2) == ["cheap", "restless", "dear"]
    wish = planner(market, Job(40, 20, 1)).wish(40, 20, None)
    assert wish.places == ("cheap", "restless", "dear")


def test_on_demand_is_left_for_spot_where_that_pays_and_leaves_time() -> None:
    market = Market({"zone-0": 0.3})
    plan = planner(market, Job(60, 40, 1))
    assert plan.wish(60, 40, ON_DEMAND).places == ("zone-0",)
    assert plan.wish(3, 2, ON_DEMAND) == Wish((), "keep"), "lost in its first hour, it would leave too little"
    assert plan.wish(60, 40, ON_DEMAND, starting_hours=1) == Wish((), "keep")


def test_a_start_that_takes_too_long_to_keep_the_deadline_is_given_up_for_on_demand() -> None:
    plan = planner(Market({"zone-0": 0.3}), Job(30, 20, 3))
    assert plan.wish(26, 20, "zone-0", starting_hours=3).otherwise == "keep"
    assert plan.wish(23, 20, "zone-0", starting_hours=3).otherwise == "on_demand"
    assert plan.wish(23, 20, "zone-0").otherwise == "keep", "it works, and if it is lost there is time for on-demand"


def test_what_was_met_moves_the_rates() -> None:
    market = Market({"a": 0.3, "b": 0.3})
    before = market.loss_rate("a"), market.return_rate, market.another("a")
    market.ran("a", 1.0)
    market.lost("a")
    assert market.loss_rate("a") == pytest.approx(3 / 17)
    market.asked(["a", "b"], None, 4.0)
    assert market.return_rate == pytest.approx(2 / 5)
    market.asked(["a"], "b", 4.0)
    assert market.return_rate == pytest.approx(3 / 5)
    assert market.another("a") < before[2]
    assert (market.loss_rate("a") > before[0], market.loss_rate("b") == before[0]) == (True, True)


@pytest.mark.parametrize(("loss", "comes_back"), [(0.05, 0.2), (0.3, 0.6)])
def test_in_a_market_of_the_rates_it_believes_in_the_plan_costs_what_it_says(loss: float, comes_back: float) -> None:
    """The table's own promise beside the mean of simulated runs; the rates are held fast, as if known."""
    job = Job(30, 18, 2)
    rates = policy._Rates(policy._coarse(loss), 0.05, policy._coarse(comes_back), 0.3)
    rng = np.random.default_rng(11)
    costs = []
    for _ in range(600):
        # One place: lost with the rate, and back with the other.
        offer, offered = rng.random() < 0.5, []
        for _ in range(job.ticks):
            offered.append(offer)
            offer = rng.random() >= rates.loss if offer else rng.random() < rates.comes_back
        costs.append((offered[0], replay(np.array([offered]), ["zone-0"], job, Fixed(job, rates))[0]))
    table = policy._solve(job.ticks, job.work, job.changeover, rates)
    for state, first in ((policy._SOME, True), (policy._NONE, False)):
        seen = np.array([cost for offer, cost in costs if offer is first])
        assert abs(seen.mean() - table[job.ticks, state, job.work]) < 4 * seen.std() / math.sqrt(len(seen)) + 0.25


class Fixed(Ours):
    """The planner with rates that nothing moves."""

    def __init__(self, job: Job, rates: policy._Rates) -> None:
        plan = planner(Market({"zone-0": rates.price}), job)
        object.__setattr__(plan, "_rates", lambda place: rates)
        super().__init__(plan, 0, [])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Market({}),
        lambda: Market({"zone-0": 0.0}),
        lambda: Planner(market=Market({"a": 0.3}), hours=1, work_hours=0, changeover_hours=0.1, tick_hours=0.1),
        lambda: Planner(market=Market({"a": 0.3}), hours=1, work_hours=1, changeover_hours=-0.1, tick_hours=0.1),
    ],
)
def test_a_market_without_places_and_a_run_without_work_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        make()


@pytest.mark.parametrize(("hours", "work"), [(12, 0.02), (12, 1), (12, 6), (200, 1)])
def test_with_time_to_spare_a_machine_that_is_to_be_had_is_taken_at_once(hours: float, work: float) -> None:
    market = Market({"a": 0.3, "b": 0.31})
    planner = Planner(market=market, hours=hours, work_hours=work, changeover_hours=4 / 3600, tick_hours=2 / 3600)
    assert planner.wish(hours, work, None).places == ("a", "b")
