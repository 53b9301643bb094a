"""Revisions, marks and records of lists, on real tables and without the server: who draws and who writes the lists is stood in for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from include.nightshift.errors import PublicationError
from include.nightshift.lakehouse import log, records, storage, tables
from include.nightshift.score import publications
from include.nightshift.score.publications import Decision, Published
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import USE_CASE

UNHURRIED = hypothesis(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NIGHTS = [date(2026, 3, 11) + timedelta(days=n) for n in range(3)]
MONDAY, TONIGHT, TOMORROW = NIGHTS
ALERTS = tables.alerts(USE_CASE)


def rows(night: date, *people: int) -> list[dict[str, Any]]:
    """A list, drawn as the query draws it."""
    return [
        {"day": night, "rank": rank, "customer_id": who, "score": 1 / rank, "transaction_id": who, "model_version": "3"}
        for rank, who in enumerate(people, 1)
    ]


@dataclass
class Desk:
    """Publishes what was put on it."""

    settings: Settings
    drawn: dict[date, list[dict[str, Any]]] = field(default_factory=dict)

    def publish(self, *decisions: Decision, by: str | None = None) -> list[Published]:
        return list(publications.publish(None, self.settings, USE_CASE, decisions, triggered_by=by).values())  # type: ignore[arg-type]

    def out(self, night: date) -> list[tuple[Any, ...]]:
        """Who is on the list that is out, with revision and mark."""
        found = log.columns(self.settings, ALERTS, ALERTS.names, {"day": [night]}).to_pylist()
        return [(row["customer_id"], row["revision"], row["mark"]) for row in sorted(found, key=lambda row: int(row["rank"]))]

    def records(self, night: date) -> list[dict[str, Any]]:
        found = records.read(self.settings, tables.PUBLICATIONS, day=night)
        return sorted(found, key=lambda record: int(record["revision"]))

    def versions(self) -> list[int]:
        return [log.version(self.settings, table) for table in (ALERTS, tables.PUBLICATIONS)]


@pytest.fixture
def desk(records_home: Settings, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for table in (
        tables.features(USE_CASE),
        tables.scores(USE_CASE),
        *map(tables.silver, USE_CASE.feeds),
        *map(tables.bronze, USE_CASE.feeds),
    ):
        DeltaTable.create(storage.location(records_home, table), table.arrow([]).schema, partition_by=list(table.partition))
    desk = Desk(records_home, {MONDAY: rows(MONDAY, 1, 2), TONIGHT: rows(TONIGHT, 2, 3), TOMORROW: rows(TOMORROW, 3, 4)})

    def draw(session: object, use_case: object, nights: Sequence[date]) -> dict[date, list[dict[str, Any]]]:
        whole = {column: None for column in ALERTS.names}
        return {night: [whole | row for row in desk.drawn[night]] for night in nights if desk.drawn[night]}

    def write(session: object, settings: Settings, use_case: object, lists: Mapping[date, Any]) -> int:
        for night, each in lists.items():
            now = log.columns(settings, ALERTS, ALERTS.names, {"day": [night]}).sort_by("rank")
            if not now.equals(ALERTS.arrow(each.rows)):
                predicate = f"day = '{night}'"
                write_deltalake(storage.location(settings, ALERTS), ALERTS.arrow(each.rows), mode="overwrite", predicate=predicate)
        return log.version(settings, ALERTS)

    monkeypatch.setattr(publications, "_drawn", draw)
    monkeypatch.setattr(publications, "_write", write)
    monkeypatch.setattr(publications, "_digested", lambda session, use_case, nights: {})
    return desk


def decision(night: date, state: publications.State = "published", mark: str | None = None, *reasons: str) -> Decision:
    return Decision(night=night, state=state, mark=mark, reasons=reasons, model_version="3", model_sha256="a" * 64)


def test_a_list_appears_with_its_revision_and_asked_for_again_commits_nothing(desk: Desk) -> None:
    [out] = desk.publish(decision(TONIGHT))
    assert (out.revision, out.state, out.mark, out.rows) == (1, "published", None, 2)
    assert desk.out(TONIGHT) == [(2, 1, None), (3, 1, None)]
    before = desk.versions()
    assert desk.publish(decision(TONIGHT)) == [out]
    assert desk.versions() == before


@pytest.mark.parametrize("what", ["another list", "another mark", "other words"])
def test_whatever_is_another_list_or_mark_is_the_next_revision_and_the_records_of_both_stay(desk: Desk, what: str) -> None:
    desk.publish(decision(TONIGHT, "marked", "odd", "moved"))
    if what == "another list":
        desk.drawn[TONIGHT] = rows(TONIGHT, 3, 2)
    changed = {"another mark": ("fallback", "moved"), "other words": ("odd", "moved a lot")}.get(what, ("odd", "moved"))
    [out] = desk.publish(decision(TONIGHT, "marked", *changed))
    assert out.revision == 2
    assert {(revision, mark) for _, revision, mark in desk.out(TONIGHT)} == {(2, changed[0])}
    assert [(record["revision"], record["mark"]) for record in desk.records(TONIGHT)] == [(1, "odd"), (2, changed[0])]


def test_a_held_night_shows_the_list_before_it_marked_stale_and_says_since_when(desk: Desk) -> None:
    desk.publish(decision(MONDAY))
    [out] = desk.publish(decision(TONIGHT, "held", "stale", "half the rows"))
    assert (out.state, out.mark, out.revision) == ("held", "stale", 1)
    assert desk.out(TONIGHT) == [(1, 1, "stale"), (2, 1, "stale")]
    because = log.columns(desk.settings, ALERTS, ["marked_because"], {"day": [TONIGHT]}).column(0).unique().to_pylist()
    assert because == [f"the list of night {MONDAY} stands; half the rows"]
    [record] = desk.records(TONIGHT)
    assert (record["state"], record["mark"], json.loads(record["reasons"])) == ("held", "stale", ["half the rows"])


def test_of_nights_that_are_decided_together_a_held_one_shows_the_one_before_it(desk: Desk) -> None:
    desk.publish(decision(TOMORROW, "held", "stale", "late"), decision(MONDAY), decision(TONIGHT, "held", "stale", "half"))
    assert [desk.out(night) for night in NIGHTS] == [
        [(1, 1, None), (2, 1, None)],
        [(1, 1, "stale"), (2, 1, "stale")],
        [(1, 1, "stale"), (2, 1, "stale")],
    ]


def test_a_night_that_has_a_list_of_its_own_keeps_it_when_it_is_held_later(desk: Desk) -> None:
    desk.publish(decision(MONDAY), decision(TONIGHT))
    before = desk.versions()
    [out] = desk.publish(decision(TONIGHT, "held", "stale", "half the rows"))
    assert (out.state, out.mark, out.revision) == ("published", None, 1)
    assert desk.versions() == before


def test_a_held_night_that_is_mended_gets_its_own_list_as_the_next_revision(desk: Desk) -> None:
    desk.publish(decision(MONDAY), decision(TONIGHT, "held", "stale", "half the rows"))
    [out] = desk.publish(decision(TONIGHT))
    assert out.revision == 2
    assert desk.out(TONIGHT) == [(2, 2, None), (3, 2, None)]


def test_without_a_list_before_it_nothing_is_out_and_an_empty_list_has_revisions_too(desk: Desk) -> None:
    assert [out.revision for out in desk.publish(decision(TONIGHT, "held", "stale", "half"))] == [1]
    assert [out.revision for out in desk.publish(decision(TONIGHT, "held", "stale", "half"))] == [1]
    desk.drawn[TONIGHT] = []
    assert [(out.revision, out.rows) for out in desk.publish(decision(TONIGHT))] == [(2, 0)]
    assert [record["state"] for record in desk.records(TONIGHT)] == ["held", "published"]


def test_what_a_killed_run_published_without_a_record_gets_the_record_of_its_revision(desk: Desk) -> None:
    desk.publish(decision(TONIGHT))
    desk.drawn[TONIGHT] = rows(TONIGHT, 4)
    desk.publish(decision(TONIGHT))
    records.amend(desk.settings, tables.PUBLICATIONS, lambda kept: [record for record in kept if record["revision"] == 1])
    assert [out.revision for out in desk.publish(decision(TONIGHT))] == [2]
    assert [record["revision"] for record in desk.records(TONIGHT)] == [1, 2]


def test_whoever_started_a_held_run_stays_a_party_to_it_whoever_runs_it_again(desk: Desk) -> None:
    held = decision(TONIGHT, "held", "stale", "half")
    for by in (None, "ann", None, "bob", "ann"):
        desk.publish(held, by=by)
    assert [record["triggered_by"] for record in desk.records(TONIGHT)] == ["ann,bob"]
    desk.publish(decision(TONIGHT, "held", "stale", "a quarter"), by="cy")
    assert desk.records(TONIGHT)[-1]["triggered_by"] == "ann,bob,cy"
    desk.publish(decision(TONIGHT))
    assert desk.records(TONIGHT)[-1]["triggered_by"] == "ann,bob,cy"


def test_a_list_can_be_published_again_as_the_next_revision_once_for_each_reason(desk: Desk) -> None:
    def again(because: str, state: publications.State = "published") -> Published:
        return publications.republish(None, desk.settings, USE_CASE, decision(TONIGHT, state, None, "half"), because)  # type: ignore[arg-type]

    with pytest.raises(PublicationError, match="it has no list yet"):
        again("rolled back")
    desk.publish(decision(TONIGHT, "published", None, "half"))
    assert [again(because).revision for because in ("rolled back", "rolled back", "rolled back again")] == [2, 2, 3]
    with pytest.raises(PublicationError, match="is not published again: half"):
        again("rolled back", "held")
    assert desk.out(TONIGHT) == [(2, 3, None), (3, 3, None)]


def test_nights_without_a_champion_are_said_to_be_skipped_and_those_with_a_list_are_left_alone(desk: Desk) -> None:
    desk.publish(decision(TONIGHT))
    for _ in range(2):
        publications.skip(desk.settings, USE_CASE, [MONDAY, TONIGHT], "nobody reigns")
    assert [(record["revision"], record["state"], record["reasons"]) for record in desk.records(MONDAY)] == [
        (0, "skipped", '["nobody reigns"]')
    ]
    assert [record["state"] for record in desk.records(TONIGHT)] == ["published"]
    assert [out.revision for out in desk.publish(decision(MONDAY))] == [1]


@UNHURRIED
@given(
    st.builds(
        Decision,
        night=st.dates(),
        state=st.sampled_from(["published", "marked", "held"]),
        mark=st.none() | st.sampled_from(["stale", "odd"]),
        reasons=st.lists(st.text()).map(tuple),
        model_version=st.none() | st.text(),
        model_sha256=st.none() | st.text(),
    )
)
def test_a_decision_survives_its_way_between_tasks(made: Decision) -> None:
    assert Decision.from_dict(json.loads(json.dumps(made.as_dict()))) == made
