"""The world that the scan makes up, of any use case."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.features.leaks.world import TICK, made_up
from include.nightshift.lakehouse import tables
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.usecase import USE_CASE


def test_the_made_up_world_has_silvers_types_and_what_it_is_about() -> None:
    world = made_up(USE_CASE, 1)
    assert world.events.schema == tables.silver(USE_CASE.events).arrow([]).schema
    assert world.verdicts.schema == tables.silver(USE_CASE.labels).arrow([]).schema
    assert world.events.equals(made_up(USE_CASE, 1).events)
    events = {row["transaction_id"]: row for row in world.events.to_pylist()}
    verdicts = world.verdicts.to_pylist()
    assert len(events) == len(world.events) > 500
    delay = timedelta(days=USE_CASE.label_delay_days)
    waits = [row["reported_at"] - events[row["transaction_id"]]["tx_datetime"] for row in verdicts]
    for some in (
        [row for row in events.values() if row["day"] > row["tx_datetime"].date()],
        [wait for wait in waits if wait == delay],
        [wait for wait in waits if wait == delay + TICK],
        [wait for wait in waits if wait < delay],
        [row for row in verdicts if row["day"] > row["reported_at"].date()],
        [row for row in verdicts if row["day"] < events[row["transaction_id"]]["day"]],
    ):
        assert len(some) > 20
    assert 0.3 < sum(row["tx_fraud"] for row in verdicts) / len(verdicts) < 0.7


def test_a_use_case_that_no_world_can_be_made_up_for_is_refused(other: UseCase) -> None:
    columns = tuple(replace(c, type="date") if c.name == "filed_at" else c for c in other.events.columns)
    with pytest.raises(ConfigurationError, match=r"makes up claims\.filed_at as timestamp, and the contract says date"):
        made_up(replace(other, events=replace(other.events, columns=columns)), 1)
