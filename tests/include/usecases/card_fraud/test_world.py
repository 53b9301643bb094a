"""The simulated world: fraud in the right measure, honest habits, and changes that change what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.nights import between
from include.usecases.card_fraud.reporting import AllAfter
from include.usecases.card_fraud.world import Day, Frauds, Kind, Simulator, World

FIRST = date(2026, 1, 1)
CHANGE = date(2026, 3, 1)
SMALL = World.of_size(400)


def days_from(first: date, number: int) -> Iterator[date]:
    return between(first, first + timedelta(days=number - 1))


def lived(world: World, first: date, number: int) -> Day:
    """Several days as one."""
    simulator = Simulator(world)
    days = [simulator.day(day) for day in days_from(first, number)]
    return Day(*(np.concatenate([getattr(day, name) for day in days]) for name in vars(days[0])))


def test_compromises_of_a_day_do_not_depend_on_which_days_were_asked_before() -> None:
    world, day = World.of_size(10_000), date(2026, 2, 14)
    asked_before = Simulator(world)
    for earlier in days_from(day - timedelta(days=3), 3):
        asked_before.day(earlier)
    for column in vars(alone := Simulator(world).day(day)):
        np.testing.assert_array_equal(getattr(asked_before.day(day), column), getattr(alone, column))
    assert len(Simulator(world).compromised_terminals(day)) > 20


def test_volume_and_share_of_fraud_are_what_was_asked_for() -> None:
    month = lived(World.of_size(10_000), FIRST, 30)
    assert 9_800 < len(month) / 30 < 10_200
    assert 0.006 < (month.fraud > 0).mean() < 0.010
    assert {Kind(kind) for kind in np.unique(month.fraud)} == {Kind.GENUINE, Kind.LARGE, Kind.TERMINAL, Kind.CARD}


def test_a_small_world_has_the_volume_it_was_asked_for() -> None:
    world = World.of_size(1_000)
    assert (world.customers, world.terminals) == (500, 1_000)
    assert 950 < len(lived(world, FIRST, 10)) / 10 < 1_050


def test_customers_pay_within_reach_or_at_the_nearest_terminal() -> None:
    for world in (SMALL, replace(SMALL, reach_km=0.2)):
        people, day = Simulator(world).people, Simulator(world).day(FIRST)
        away = np.linalg.norm(people.home[day.customer_id] - people.shops[day.terminal_id], axis=1)
        nearest = np.array([np.linalg.norm(people.shops - home, axis=1).min() for home in people.home])
        assert (away <= np.maximum(world.reach_km, nearest[day.customer_id]) + 1e-9).all()


def test_customers_keep_their_own_habits() -> None:
    month = lived(World.of_size(1_000), FIRST, 40)
    genuine = month.fraud == Kind.GENUINE
    amount = np.log(month.cents[genuine])
    customer = month.customer_id[genuine]
    means = np.bincount(customer, amount) / np.maximum(np.bincount(customer), 1)
    within = np.sqrt(((amount - means[customer]) ** 2).mean())
    assert within < 0.75 * amount.std(), "a customer's amounts are closer to each other than to everybody's"
    hour = (month.tx_datetime - month.tx_datetime.astype("datetime64[D]")).astype(int) // 3600
    assert ((hour >= 8) & (hour < 20)).mean() > 0.7
    assert 0.03 < (hour < 7).mean() < 0.15


def test_a_compromised_terminal_is_fraud_for_weeks_and_clean_otherwise() -> None:
    world = World.of_size(2_000)
    simulator, number = Simulator(world), 60
    held = [simulator.compromised_terminals(day) for day in days_from(FIRST, number)]
    runs = np.array([np.isin(np.arange(world.terminals), held_now) for held_now in held])
    whole = (~runs[0] & ~runs[-1]) & runs.any(axis=0)
    assert whole.any()
    lasted, (shortest, longest) = runs[:, whole].sum(axis=0), world.frauds.terminal_days
    assert lasted.min() >= shortest
    assert shortest < np.median(lasted) < longest
    struck = total = 0
    for day, held_now in zip(days_from(FIRST, number), held, strict=True):
        today = simulator.day(day)
        at_held = np.isin(today.terminal_id, held_now)
        assert not (today.fraud[~at_held] == Kind.TERMINAL).any()
        struck, total = struck + int((today.fraud[at_held] > 0).sum()), total + int(at_held.sum())
    assert 0.88 < struck / total <= 1


def test_a_compromised_card_pays_some_amounts_far_beyond_its_habit() -> None:
    world = World.of_size(5_000)
    simulator, days = Simulator(world), lived(world, FIRST, 20)
    stolen = days.fraud == Kind.CARD
    ratio = days.cents[stolen] / 100 / simulator.people.mean[days.customer_id[stolen]]
    assert 3.5 < np.median(ratio) < 6.5
    today = simulator.day(FIRST)
    on_held = np.isin(today.customer_id, simulator.compromised_cards(FIRST))
    assert not (today.fraud[~on_held] == Kind.CARD).any()
    assert 0 < (today.fraud[on_held] == Kind.CARD).mean() < 0.7


def test_implausible_amounts_lie_above_nearly_everything_genuine() -> None:
    days = lived(World.of_size(10_000), FIRST, 10)
    large, genuine = days.cents[days.fraud == Kind.LARGE], days.cents[days.fraud == Kind.GENUINE]
    assert large.min() >= 35_000
    assert large.min() > np.quantile(genuine, 0.9995)


def test_a_harmful_change_brings_bursts_of_small_sums_at_night_and_ends_the_old_way_of_charging_cards() -> None:
    days = lived(World.of_size(10_000, change="harmful", change_on=CHANGE), CHANGE, 14)
    burst = days.fraud == Kind.BURST
    assert 60 < burst.sum() / 14 < 100
    assert 0.007 < (days.fraud > 0).mean() < 0.013
    assert not (days.fraud == Kind.CARD).any()
    second = (days.tx_datetime - days.tx_datetime.astype("datetime64[D]")).astype(int)
    assert second[burst].max() < 7 * 3600
    assert days.cents[burst].max() <= 1_200
    night = days.tx_datetime[burst].astype("datetime64[D]").astype(int)
    sizes = np.unique(night * 1_000_000 + days.customer_id[burst], return_counts=True)[1]
    assert sizes.min() >= 5
    assert sizes.max() <= 9


def test_after_a_harmful_change_terminals_are_hit_in_part_and_for_less_time() -> None:
    world = World.of_size(10_000, change="harmful", change_on=CHANGE)
    simulator = Simulator(world)
    assert len(simulator.compromised_terminals(CHANGE)) < 0.7 * len(simulator.compromised_terminals(CHANGE - timedelta(days=1)))
    days = lived(world, CHANGE, 7)
    held = np.concatenate([simulator.compromised_terminals(day) for day in days_from(CHANGE, 7)])
    assert 0.2 < (days.fraud[np.isin(days.terminal_id, held)] == Kind.TERMINAL).mean() < 0.6


def test_a_harmful_change_leaves_honest_customers_as_they_were() -> None:
    plain, changed = World.of_size(2_000), World.of_size(2_000, change="harmful", change_on=CHANGE)
    untouched = []
    for world in (plain, changed):
        day = Simulator(world).day(CHANGE)
        genuine = day.fraud == Kind.GENUINE
        untouched.append(set(zip(day.tx_datetime[genuine], day.customer_id[genuine], day.cents[genuine], strict=True)))
    assert len(untouched[0] & untouched[1]) > 0.98 * len(untouched[0])


def test_a_benign_change_grows_volume_and_amounts_by_a_tenth_and_keeps_the_frauds() -> None:
    plain = lived(World.of_size(5_000), CHANGE, 20)
    changed = lived(World.of_size(5_000, change="benign", change_on=CHANGE), CHANGE, 20)
    assert len(changed) / len(plain) == pytest.approx(1.10, abs=0.02)
    genuine = [days.cents[days.fraud == Kind.GENUINE].mean() for days in (plain, changed)]
    assert genuine[1] / genuine[0] == pytest.approx(1.10, abs=0.02)
    assert set(np.unique(changed.fraud)) == set(np.unique(plain.fraud))
    assert (changed.fraud > 0).mean() == pytest.approx((plain.fraud > 0).mean(), rel=0.15)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"customers": 0}, "at least one customer"),
        ({"seed": -1}, "seed not negative"),
        ({"reach_km": 0.0}, "above 0"),
        ({"customers": 400_000}, "take fewer"),
        ({"change": "harmful"}, "set both"),
        ({"change_on": CHANGE}, "set both"),
        ({"change": "gradual", "change_on": CHANGE}, "harmful or benign"),
        ({"town_share": 1.5}, "town_share"),
    ],
)
def test_an_impossible_world_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        World(**wrong)


def test_impossible_thieves_are_refused_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="is a share"):
        Frauds(card_hit=1.2)
    with pytest.raises(ConfigurationError, match="is no range"):
        Frauds(terminal_days=(9, 3))
    with pytest.raises(ConfigurationError, match="at least one"):
        AllAfter(days=0)
