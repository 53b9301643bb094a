"""What the scan changes: what a cut knows stays exactly as it was, and the edges are reached."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from include.nightshift.features.leaks.changes import ONCE, SINGLY, TOGETHER, together
from include.nightshift.features.leaks.world import TICK, Cut, Hand, Rows, cuts, made_up
from include.usecases.card_fraud.usecase import USE_CASE


def world_and_cuts(seed: int) -> tuple[Rows, list[Cut]]:
    world = made_up(USE_CASE, seed)
    return Rows(world.events.to_pylist(), world.verdicts.to_pylist()), cuts(USE_CASE, world, seed, 3)


CHANGES = {**SINGLY, **ONCE, TOGETHER: together}
UNKNOWN = {name for name in CHANGES if name not in ("order of rows", "unrelated entities", TOGETHER)}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(UNKNOWN))
def test_what_a_cut_knows_is_left_exactly_as_it_was(name: str, seed: int) -> None:
    rows, places = world_and_cuts(seed)
    for cut in places:

        def known(rows: Rows, cut: Cut = cut) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            events = [row for row in rows.events if row["tx_datetime"] <= cut.at and row["day"] <= cut.night]
            return events, [row for row in rows.verdicts if row["reported_at"] <= cut.at and row["day"] <= cut.night]

        step = CHANGES[name](Hand(USE_CASE, name, 50_000_000), rows, cut)
        assert known(step.rows) == known(rows)
        assert {row["transaction_id"] for row in known(rows)[0]} >= step.compared or name == "other nights"
        for row in step.rows.events:
            assert row["day"] >= row["tx_datetime"].date() >= row["day"] - timedelta(days=35)
            assert row["known_at"] == datetime.combine(row["day"] + timedelta(days=1), datetime.min.time(), row["tx_datetime"].tzinfo)
        assert all(row["day"] >= row["reported_at"].date() for row in step.rows.verdicts)
        for side in (step.rows.events, step.rows.verdicts):
            assert len({row["transaction_id"] for row in side}) == len(side)


def test_changes_reach_the_instant_of_the_cut_and_the_microsecond_after_it() -> None:
    rows, places = world_and_cuts(1)
    for cut in places:
        after = together(Hand(USE_CASE, "edges", 50_000_000), rows, cut).rows
        new = [row for row in after.events if row["transaction_id"] > 50_000_000]
        own = [row for row in new if {name: row[name] for name in cut.ids} == cut.ids]
        assert any(row["tx_datetime"] == cut.at + TICK and row["day"] <= cut.night for row in own)
        assert any(row["tx_datetime"] == cut.at and row["day"] > cut.night for row in own)
        assert any(row["reported_at"] == cut.at + TICK for row in after.verdicts)
        peers = [row for row in rows.events if row["tx_datetime"] == cut.at and {n: row[n] for n in cut.ids} == cut.ids]
        assert len(peers) > 1


def test_unrelated_rows_share_no_id_with_those_compared_not_even_by_way_of_others() -> None:
    rows, places = world_and_cuts(1)
    for cut in places:
        step = ONCE["unrelated entities"](Hand(USE_CASE, "unrelated", 50_000_000), rows, cut)
        own = [row for row in rows.events if row["transaction_id"] in step.compared]
        assert {name: own[0][name] for name in cut.ids}.keys() == {"customer_id", "terminal_id"}
        assert [row for row in step.rows.events if row["transaction_id"] in step.compared] == own
        others = [row for row in step.rows.events if row["transaction_id"] not in step.compared]
        assert min(len(own), len(others)) > 200
        for name, value in cut.ids.items():
            assert value in {row[name] for row in own}
            assert not {row[name] for row in own} & {row[name] for row in others}
