"""The chained records: whoever alters, removes, puts in or moves a row is found, and the row is named."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.nightshift.errors import ChainError
from include.nightshift.lakehouse import chain, log, records
from include.nightshift.lakehouse.records import Record
from include.nightshift.lakehouse.tables import ACTS, APPROVALS, CHAMPION_HISTORY, GATE_REPORTS, Table
from include.nightshift.settings import Settings

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
NIGHT, DAY = date(2026, 3, 1), timedelta(days=1)
TEXT = st.text("aé'", max_size=3)


def act(name: str, **said: Any) -> Record:
    return {"act_id": name, "use_case": "card_fraud", "act": "freeze", "night": NIGHT, "by": "ann", "at": NOON, "why": "it's odd"} | said


def reign(version: str, first: date, last: date | None = None) -> Record:
    return {"use_case": "card_fraud", "model_version": version, "from_night": first, "until_night": last, "at": NOON}


def sealed(table: Table, said: list[Record]) -> list[Record]:
    """The rows as `append` would have written them, one after the other."""
    return chain._sealed(table, [], said)


def chained(count: int) -> list[Record]:
    return sealed(ACTS, [act(f"a{number}", detail=None if number % 2 else "{}") for number in range(1, count + 1)])


def numbers(found: list[chain.Fault]) -> list[int | None]:
    return [fault.seq for fault in found]


def resealed(row: Record) -> Record:
    return row | {"seal": chain.seal(ACTS, row)}


def of(settings: Settings, table: Table = ACTS) -> list[Record]:
    return sorted(records.read(settings, table), key=lambda row: row["seq"] or 0)


def tampered(settings: Settings, change: Callable[[list[Record]], list[Record]], table: Table = ACTS) -> list[chain.Fault]:
    """What is found after somebody wrote the table by other ways."""
    records.amend(settings, table, change)
    return chain.verify(settings)


def test_every_table_of_decisions_is_chained_and_its_chain_is_last_but_for_later_columns() -> None:
    assert {str(table) for table in chain.CHAINED} == {
        "ops.gate_reports",
        "ops.approvals",
        "ops.champion_history",
        "ops.acts",
        "ops.erasures",
    }
    for table in chain.CHAINED:
        assert table.names[-3:] == ["seq", "before", "seal"]
        assert set(table.names) - set(table.sealed) == {"seal", *(["until_night"] if table is CHAMPION_HISTORY else [])}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8))
def test_what_was_appended_holds(names: list[str]) -> None:
    assert chain.faults(ACTS, sealed(ACTS, [act(name) for name in names])) == []


ELSE = {
    "act_id": TEXT,
    "use_case": st.none() | TEXT,
    "act": st.sampled_from(["rollback", "Freeze"]),
    "night": st.none() | st.dates(),
    "by": TEXT,
    "at": st.datetimes(timezones=st.just(UTC)),
    "why": st.none() | TEXT,
    "detail": st.none() | TEXT,
    "before": st.text("0123456789abcdef", max_size=64),
    "seal": st.text("0123456789abcdef", min_size=1, max_size=64),
}


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 9), st.sampled_from(sorted(ELSE)))
def test_an_altered_row_is_named_whatever_was_altered(data: st.DataObject, count: int, column: str) -> None:
    rows = chained(count)
    row = data.draw(st.sampled_from(rows))
    other = data.draw(ELSE[column].filter(lambda value: value != row[column]))
    found = chain.faults(ACTS, [row | {column: other} if each is row else each for each in rows])
    assert numbers(found) == [row["seq"]]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 9))
def test_a_row_whose_number_was_altered_is_named_with_the_place_that_it_left(data: st.DataObject, count: int) -> None:
    rows = chained(count)
    row = data.draw(st.sampled_from(rows))
    number = data.draw(st.integers(-1, count + 3).filter(lambda number: number != row["seq"]))
    found = numbers(chain.faults(ACTS, [row | {"seq": number} if each is row else each for each in rows]))
    assert number in found
    assert (row["seq"] in found) == (row["seq"] < max(count, number))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 9))
def test_a_row_that_was_altered_and_sealed_anew_is_named(data: st.DataObject, count: int) -> None:
    rows = chained(count)
    row = data.draw(st.sampled_from(rows[:-1]))
    forged = resealed(row | {"by": "bob"} | data.draw(st.sampled_from([{}, {"before": "0" * 64}])))
    assert numbers(chain.faults(ACTS, [forged if each is row else each for each in rows])) == [row["seq"]]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 9))
def test_missing_rows_are_named(data: st.DataObject, count: int) -> None:
    rows = chained(count)
    gone = data.draw(st.sets(st.sampled_from(range(1, count)), min_size=1))
    found = chain.faults(ACTS, [row for row in rows if row["seq"] not in gone])
    assert numbers(found) == [seq for seq in sorted(gone) if seq - 1 not in gone]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 9))
def test_rows_that_follow_a_missing_one_do_not_take_its_number_unseen(data: st.DataObject, count: int) -> None:
    rows = chained(count)
    gone = data.draw(st.integers(1, count - 1))
    moved = [row if row["seq"] < gone else row | {"seq": row["seq"] - 1} for row in rows if row["seq"] != gone]
    assert chain.faults(ACTS, moved)[0].seq == gone
    assert chain.faults(ACTS, [resealed(row) for row in moved], [{"ops.acts": chain._head(rows[-1])}])


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 9))
def test_a_row_that_was_put_in_is_named(data: st.DataObject, count: int) -> None:
    rows = chained(count)
    beside = data.draw(st.sampled_from(rows))
    unsealed = dict.fromkeys(ACTS.names) | act("forged")
    for put_in, named in (
        (unsealed, None),
        (unsealed | {"seq": beside["seq"]}, beside["seq"]),
        (dict(beside), beside["seq"]),
        (resealed(beside | {"act_id": "forged"}), beside["seq"]),
        (resealed(unsealed | {"seq": count + 2, "before": rows[-1]["seal"]}), count + 1),
        (resealed(unsealed | {"seq": 0, "before": ""}), 0),
        (resealed(unsealed), None),
    ):
        found = chain.faults(ACTS, data.draw(st.permutations([*rows, put_in])))
        assert numbers(found) == [named], put_in


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 9))
def test_rows_that_changed_places_are_named_and_those_that_lie_in_another_order_are_none(data: st.DataObject, count: int) -> None:
    rows = chained(count)
    one, other = sorted(data.draw(st.lists(st.sampled_from(range(count)), min_size=2, max_size=2, unique=True)))
    swapped = list(rows)
    swapped[one], swapped[other] = rows[other] | {"seq": one + 1}, rows[one] | {"seq": other + 1}
    assert numbers(chain.faults(ACTS, swapped)) == [one + 1, other + 1]
    assert chain.faults(ACTS, data.draw(st.permutations(rows))) == []


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 9))
def test_a_chain_that_was_cut_or_sealed_anew_is_found_by_a_kept_head(data: st.DataObject, count: int) -> None:
    rows = chained(count)
    nights = data.draw(st.sets(st.integers(1, count), min_size=1))
    kept = [{"ops.acts": chain._head(rows[seq - 1]), "ops.other": "3:a"} for seq in nights]
    assert chain.faults(ACTS, rows, kept) == []
    cut = data.draw(st.integers(0, count))
    forged = sealed(ACTS, [row | {"by": "bob"} if row["seq"] > cut else row for row in rows])
    for left in (rows[:cut], forged):
        assert chain.faults(ACTS, left) == []
        assert numbers(chain.faults(ACTS, left, kept)) == sorted(seq for seq in nights if seq > cut)
    unsealed = [row | {"seq": None, "before": None, "seal": None} for row in rows]
    assert len(chain.faults(ACTS, unsealed, kept)) == len(kept)
    # A figure that nothing could have sealed is a fault, not an error.
    assert [fault.seq for fault in chain.faults(ACTS, [rows[0] | {"detail": float("nan")}])] == [1]


def test_a_fault_says_the_table_the_row_what_was_seen_and_where_to_look() -> None:
    [fault] = chain.faults(ACTS, [row | {"by": "bob"} if row["seq"] == 2 else row for row in chained(3)])
    assert str(fault).startswith("ops.acts row 2: it was altered, because its seal is that of other words: act_id a2, use_case card_fraud")
    assert "`describe history ops.acts`" in fault.advice


def test_an_appended_record_is_sealed_and_one_that_stands_already_changes_nothing(records_home: Settings) -> None:
    for name in ("one", "two", "three"):
        written = chain.append(records_home, ACTS, act(name), {"act_id": name})
        assert (written.changed, written.version) == (True, log.version(records_home, ACTS))
        again = chain.append(records_home, ACTS, act(name, by="bob"), {"act_id": name})
        assert (again.changed, again.version) == (False, written.version)
    rows = of(records_home)
    assert [(row["seq"], row["act_id"], row["by"]) for row in rows] == [(1, "one", "ann"), (2, "two", "ann"), (3, "three", "ann")]
    assert [row["before"] for row in rows] == ["", *(row["seal"] for row in rows[:-1])]
    assert chain.append(records_home, ACTS, act("three"), {"act_id": "three", "by": "bob"}).changed
    assert chain.append(records_home, ACTS, act("three"), {}).changed
    assert chain.verify(records_home) == []
    assert chain.heads(records_home) == {"ops.acts": f"5:{of(records_home)[-1]['seal']}"}


def test_each_way_to_tamper_with_a_table_is_found(records_home: Settings) -> None:
    for number in range(5):
        chain.append(records_home, ACTS, act(f"a{number}"), {})
    kept, rows = chain.heads(records_home), of(records_home)
    assert numbers(tampered(records_home, lambda held: [row | {"at": row["at"] + DAY} if row["seq"] == 3 else row for row in held])) == [3]
    assert numbers(tampered(records_home, lambda held: [row for row in rows if row["seq"] not in (2, 3)])) == [2]
    assert numbers(tampered(records_home, lambda held: [*rows, act("forged")])) == [None]
    assert numbers(tampered(records_home, lambda held: [*rows, rows[3]])) == [4]
    assert tampered(records_home, lambda held: rows[::-1]) == []
    assert tampered(records_home, lambda held: rows[:4]) == []
    assert numbers(chain.verify(records_home, ACTS, [kept])) == [5]
    assert chain.verify(records_home, APPROVALS, [kept]) == []


def test_what_is_sealed_is_the_same_after_a_round_trip_through_delta(records_home: Settings) -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    reports: list[Record] = [
        {"report_digest": "a", "level": 0.1 + 0.2, "judged_at": NOON, "passed": True, "judged_before": 0, "figures": "é'\"\\\n\0😀"},
        {"report_digest": "b", "level": 1, "judged_at": NOON.astimezone(east), "passed": False, "as_of": NIGHT, "question": None},
        {"report_digest": "c", "level": -0.0, "judged_at": datetime(1, 1, 1), "holdout_first": date(1, 1, 1), "recipe": ""},
        {"report_digest": "d", "level": 5e-324, "judged_at": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)},
        {"report_digest": "e", "level": 1.7976931348623157e308, "judged_at": None},
    ]
    for report in reports:
        chain.append(records_home, GATE_REPORTS, report, {"report_digest": report["report_digest"]})
    assert chain.verify(records_home) == []
    assert [row["level"] for row in of(records_home, GATE_REPORTS)] == [report["level"] for report in reports]
    said = {"b": 1.0, "a": NOON, "d": NIGHT, "e": None, "c": "é"}
    assert chain.canonical(said) == '{"a":"2026-03-01T12:00:00.123456+00:00","b":1.0,"c":"\\u00e9","d":"2026-03-01"}'
    assert chain.canonical({"a": NOON.replace(microsecond=0).astimezone(east)}) == '{"a":"2026-03-01T12:00:00.000000+00:00"}'


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_no_number_is_refused(records_home: Settings, figure: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        chain.append(records_home, GATE_REPORTS, {"report_digest": "a", "level": figure}, {})
    assert log.version(records_home, GATE_REPORTS) == 0


def test_rows_of_an_earlier_version_are_chained_by_the_first_change_in_the_order_of_their_moment(records_home: Settings) -> None:
    old = [{"report_digest": name, "at": NOON + hours * timedelta(hours=1)} for name, hours in (("c", 1), ("b", 0), ("d", 2), ("a", 1))]
    records.amend(records_home, APPROVALS, lambda held: old)
    assert (chain.verify(records_home), chain.heads(records_home)) == ([], {})
    assert not chain.append(records_home, APPROVALS, {"report_digest": "d"}, {"report_digest": "d"}).changed
    assert chain.append(records_home, APPROVALS, {"report_digest": "e", "at": NOON}, {"report_digest": "e"}).changed
    assert [row["report_digest"] for row in of(records_home, APPROVALS)] == ["b", "a", "c", "d", "e"]
    assert chain.verify(records_home) == []
    late = {"report_digest": "f", "at": NOON}
    [fault] = tampered(records_home, lambda held: [*held, late], APPROVALS)
    assert (fault.table, fault.seq, "report_digest f" in fault.what) == ("ops.approvals", None, True)
    # It stays as it was put in: the next change neither sees it nor seals it.
    assert chain.append(records_home, APPROVALS, late, {"report_digest": "f"}).changed
    assert chain.verify(records_home, APPROVALS) == [fault]
    assert len(records.read(records_home, APPROVALS, report_digest="f")) == 2


def test_a_reign_is_closed_and_the_next_begun_in_one_commit(records_home: Settings) -> None:
    def crown(version: str, first: date) -> None:
        def change(held: list[Record]) -> list[Record]:
            ended = [row if row["until_night"] else row | {"until_night": first - DAY} for row in held]
            return [*ended, reign(version, first)]

        before = log.version(records_home, CHAMPION_HISTORY)
        assert chain.amend(records_home, CHAMPION_HISTORY, change).version == before + 1

    for number in range(4):
        crown(str(number), NIGHT + number * 5 * DAY)
    rows = of(records_home, CHAMPION_HISTORY)
    assert [row["until_night"] for row in rows] == [NIGHT + 4 * DAY, NIGHT + 9 * DAY, NIGHT + 14 * DAY, None]
    assert chain.verify(records_home) == []
    # No seal covers when a reign ended: it follows from the rows after it.
    for seq, until in ((1, None), (2, NIGHT), (4, NIGHT + 99 * DAY)):
        edited = [row | {"until_night": until} if row["seq"] == seq else row for row in rows]
        [fault] = tampered(records_home, lambda held, edited=edited: edited, CHAMPION_HISTORY)  # type: ignore[misc]
        assert (fault.seq, str(until) in fault.what) == (seq, True)


@pytest.mark.parametrize(
    ("reigns", "faulty"),
    [
        ([reign("1", NIGHT)], []),
        ([reign("1", NIGHT, NIGHT + 3 * DAY), reign("2", NIGHT + 4 * DAY)], []),
        # Withdrawn before it began: the first goes on, as a reign of its own, from the night of the withdrawn one or from an earlier one.
        ([reign("1", NIGHT, NIGHT + 3 * DAY), reign("2", NIGHT + 4 * DAY, NIGHT + 3 * DAY), reign("1", NIGHT + 4 * DAY)], []),
        ([reign("1", NIGHT, NIGHT + DAY), reign("2", NIGHT + 4 * DAY, NIGHT + 3 * DAY), reign("1", NIGHT + 2 * DAY)], []),
        ([reign("1", NIGHT, NIGHT + 3 * DAY), reign("2", NIGHT + 4 * DAY, NIGHT + 3 * DAY), reign("1", NIGHT + 2 * DAY)], [1]),
        ([reign("1", NIGHT), reign("2", NIGHT + 4 * DAY)], [1]),
        ([reign("1", NIGHT, NIGHT + 2 * DAY), reign("2", NIGHT + 4 * DAY)], [1]),
        ([reign("1", NIGHT), reign("2", NIGHT + 4 * DAY) | {"use_case": "other"}], []),
    ],
)
def test_reigns_leave_no_gap_and_do_not_overlap(reigns: list[Record], faulty: list[int]) -> None:
    assert numbers(chain.faults(CHAMPION_HISTORY, sealed(CHAMPION_HISTORY, reigns))) == faulty


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held[1:],
        lambda held: [held[0] | {"why": "another"}, *held[1:], act("new")],
        lambda held: [held[0] | {"seal": None}, *held[1:]],
        lambda held: [*held, held[0] | {"act_id": "new"}],
        lambda held: [*held, held[0]],
    ],
)
def test_a_change_of_what_is_sealed_is_refused(records_home: Settings, change: Callable[[list[Record]], list[Record]]) -> None:
    for name in ("one", "two"):
        chain.append(records_home, ACTS, act(name), {})
    with pytest.raises(ChainError, match=r"ops\.acts: a change was to (alter or remove row 1|repeat a seal) of .*; nothing was written"):
        chain.amend(records_home, ACTS, change)
    assert log.version(records_home, ACTS) == 2


def test_a_chain_that_was_tampered_with_still_grows_and_still_tells(records_home: Settings) -> None:
    for name in ("one", "two"):
        chain.append(records_home, ACTS, act(name), {})
    found = tampered(records_home, lambda held: [row | {"by": "bob"} if row["seq"] == 1 else row for row in held])
    chain.append(records_home, ACTS, act("three"), {})
    assert chain.verify(records_home) == found
    assert numbers(found) == [1]


def _append(settings: Settings, name: str, count: int) -> None:
    for number in range(count):
        chain.append(settings, ACTS, act(f"{name}{number}"), {"act_id": f"{name}{number}"})


def test_two_processes_that_append_at_once_leave_one_chain(records_home: Settings) -> None:
    # Spawned, not forked: delta-rs's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(records_home, name, 6)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    rows = of(records_home)
    assert [row["seq"] for row in rows] == list(range(1, 13))
    assert {row["act_id"] for row in rows} == {f"{name}{number}" for name in "ab" for number in range(6)}
    assert chain.verify(records_home) == []


def test_a_writer_that_is_killed_leaves_a_chain_that_holds(records_home: Settings) -> None:
    context = multiprocessing.get_context("spawn")
    for kill in range(3):
        begun = log.version(records_home, ACTS)
        writer = context.Process(target=_append, args=(records_home, f"k{kill}-", 10_000))
        writer.start()
        deadline = time.monotonic() + 60
        while log.version(records_home, ACTS) < begun + 3 and time.monotonic() < deadline:
            time.sleep(0.01 * (kill + 1))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
        assert writer.exitcode == -signal.SIGKILL
        assert log.version(records_home, ACTS) >= begun + 3
        assert chain.verify(records_home) == []
        assert chain.append(records_home, ACTS, act(f"after{kill}"), {}).changed
    assert chain.verify(records_home) == []
    assert [row["seq"] for row in of(records_home)] == list(range(1, len(of(records_home)) + 1))
