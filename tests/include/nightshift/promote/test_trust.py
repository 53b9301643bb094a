"""The model that scores a night is the one that was judged and approved, byte for byte, or the list says who stands in and why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from bench.courts import DAY, START, Court
from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import chain, records, tables
from include.nightshift.lakehouse.records import Record
from include.nightshift.lakehouse.tables import Table
from include.nightshift.promote import history, succession, trust
from include.nightshift.train import models


def altered(court: Court, table: Table, change: Callable[[Record], Record | None]) -> None:
    """Write to a table past the chain, as somebody with a shell would."""

    def tampered(held: list[Record]) -> list[Record]:
        return [new for row in held if (new := change(row)) is not None]

    records.amend(court.settings, table, tampered)


def newest(change: Callable[[Record], Record | None]) -> Callable[[Record], Record | None]:
    """The change of the second row only."""
    return lambda row: change(row) if row["seq"] == 2 else row


@pytest.fixture
def reigned(court: Court) -> Court:
    """Version 1 reigns over ten nights, 2 from then on."""
    history.crown(court.settings, court.use_case, court.approved("1"), why="gates passed")
    court.published(START + 9 * DAY)
    history.crown(court.settings, court.use_case, court.approved("2", "1"), why="gates passed")
    return court


TONIGHT = START + 10 * DAY


def scoring(court: Court) -> tuple[str, str | None]:
    found = trust.reigning(court.settings, court.use_case, TONIGHT)
    assert found is not None
    assert models.sha256(found.folder) == found.model_sha256
    assert bool(found.reasons) == (found.mark is not None)
    return found.version, found.mark


def folders(court: Court, version: str) -> list[Path]:
    """Where the model lies, verified copies included."""
    kept = [path.parent for path in court.home.glob("champions/*/*/verified.json") if f'"version": "{version}"' in path.read_text()]
    return [court.home / "models" / court.use_case.name / version, *kept]


def test_each_night_is_scored_by_the_champion_of_that_night_and_by_nobody_before_the_first(reigned: Court) -> None:
    nights = [START - DAY, START, TONIGHT - DAY, TONIGHT, START + 500 * DAY]
    found = trust.reigning_over(reigned.settings, reigned.use_case, nights)
    assert [(found[night].version, found[night].mark) if night in found else None for night in nights] == [
        None,
        ("1", None),
        ("1", None),
        ("2", None),
        ("2", None),
    ]
    assert found[TONIGHT].folder.joinpath("model.ubj").read_bytes() == b"model 2"


def test_a_moved_alias_changes_nothing(reigned: Court) -> None:
    reigned.alias.set_registered_model_alias("", "", "1")
    assert scoring(reigned) == ("2", None)


def test_changed_bytes_beside_a_verified_copy_change_nothing(reigned: Court) -> None:
    for version in ("1", "2"):
        (reigned.home / "models" / reigned.use_case.name / version / "model.ubj").write_bytes(b"forged")
    assert scoring(reigned) == ("2", None)


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b"forged"), lambda path: path.unlink(), lambda path: shutil.rmtree(path.parent)]
)
def test_without_the_champions_bytes_the_one_before_scores_and_the_list_is_marked(reigned: Court, damage: Callable[[Path], object]) -> None:
    for folder in folders(reigned, "2"):
        damage(folder / "model.ubj")
    assert scoring(reigned) == ("1", "fallback")
    found = trust.reigning(reigned.settings, reigned.use_case, TONIGHT)
    assert found is not None
    assert "the model server does not answer" in found.reasons[0]
    assert found.reasons[1] == "version 1 scores, as it was verified before"


def test_a_copy_that_was_changed_is_made_anew_from_the_local_one(reigned: Court) -> None:
    (folders(reigned, "2")[1] / "model.ubj").write_bytes(b"forged")
    assert scoring(reigned) == ("2", None)
    assert (folders(reigned, "2")[1] / "model.ubj").read_bytes() == b"model 2"


TAMPERED: dict[str, tuple[Table, Callable[[Record], Record | None], str]] = {
    "report failed": (tables.GATE_REPORTS, newest(lambda row: row | {"passed": False}), "did not pass"),
    "report gone": (tables.GATE_REPORTS, newest(lambda row: None), "holds 0 reports"),
    "report of other bytes": (tables.GATE_REPORTS, newest(lambda row: row | {"model_sha256": "0" * 64}), "its document"),
    "report's document": (tables.GATE_REPORTS, newest(lambda row: row | {"document": "{}"}), "was altered after it was judged"),
    "report without document": (tables.GATE_REPORTS, newest(lambda row: row | {"document": None}), "does not hold"),
    "report's figures": (tables.GATE_REPORTS, newest(lambda row: row | {"figures": '{"average_precision": 1}'}), "does not hold"),
    "approval gone": (tables.APPROVALS, newest(lambda row: None), "nobody answered"),
    "approval by another": (tables.APPROVALS, newest(lambda row: row | {"by": "eve"}), "does not hold"),
    "rejection": (tables.APPROVALS, newest(lambda row: row | {"answer": "Reject"}), "ann answered Reject"),
    "reign's bytes": (tables.CHAMPION_HISTORY, newest(lambda row: row | {"model_sha256": "0" * 64}), "the history says model_sha256"),
    "reign's reason": (tables.CHAMPION_HISTORY, newest(lambda row: row | {"why": "because"}), "does not hold"),
    "reign ended": (
        tables.CHAMPION_HISTORY,
        newest(lambda row: row | {"until_night": START + 9 * DAY}),
        "nobody reigns over night 2010-01-20, though version 2 began before",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_altered_in_a_table_is_said_and_the_champion_that_was_verified_scores(reigned: Court, name: str) -> None:
    table, change, said = TAMPERED[name]
    altered(reigned, table, change)
    assert scoring(reigned) == ("2", "fallback")
    found = trust.reigning(reigned.settings, reigned.use_case, TONIGHT)
    assert found is not None
    assert said in "; ".join(found.reasons)


def test_a_reign_that_was_put_in_is_not_looked_at_and_one_beside_another_is_said(reigned: Court) -> None:
    reigned.model("9")
    forged = {"use_case": reigned.use_case.name, "model_version": "9", "from_night": START, "report_digest": "9" * 64}
    records.amend(reigned.settings, tables.CHAMPION_HISTORY, lambda held: [*held, forged])
    assert scoring(reigned) == ("2", None)
    # With a number and a seal of its own it is the chain that does not hold.
    records.amend(reigned.settings, tables.CHAMPION_HISTORY, lambda held: [*held, forged | {"seq": 3, "before": "", "seal": "9" * 64}])
    assert scoring(reigned) == ("2", "fallback")


@pytest.mark.parametrize("last", [START - DAY, START + DAY], ids=["withdrawn", "ended"])
def test_a_reign_that_was_put_behind_the_one_of_tonight_takes_no_place_but_the_list_is_marked(reigned: Court, last: date) -> None:
    forged = {"use_case": reigned.use_case.name, "model_version": "9", "from_night": START, "until_night": last}
    forged |= {"report_digest": "9" * 64, "act": "promote"}
    chain.amend(reigned.settings, tables.CHAMPION_HISTORY, lambda rows: [*rows, forged])
    found = trust.reigning(reigned.settings, reigned.use_case, TONIGHT)
    assert found is not None
    assert (found.version, found.mark, len(found.reasons)) == ("2", "fallback", 2)
    said = "its until_night is None, expected 2010-01-19 by the rows after it: use_case card_fraud, model_version 2"
    assert said in found.reasons[0]


def test_who_reigns_is_who_the_history_says_though_the_report_is_one_that_was_rolled_back(reigned: Court) -> None:
    """`crown` refuses that; should it stand there all the same, the night is not silently another champion's."""
    settings, use_case = reigned.settings, reigned.use_case
    [_, second] = history.reigns(settings, use_case)
    history.rollback(settings, use_case, None, "ann", "it finds nothing")
    again = {name: value for name, value in second.items() if name not in ("seq", "before", "seal")}
    chain.amend(settings, tables.CHAMPION_HISTORY, lambda rows: succession.followed(rows, again))
    assert scoring(reigned) == ("2", None)


def test_a_night_that_nobody_reigns_over_names_who_began_last(reigned: Court) -> None:
    ended, night = {"until_night": START + 3 * DAY}, START + 5 * DAY
    altered(reigned, tables.CHAMPION_HISTORY, lambda row: row | ended if row["seq"] == 1 else row)
    found = trust.reigning(reigned.settings, reigned.use_case, night)
    assert found is not None
    assert (found.version, found.mark) == ("1", "fallback")
    assert found.reasons[0] == f"ops.champion_history: nobody reigns over night {night}, though version 1 began before"


def test_a_model_that_was_never_judged_does_not_score_though_the_history_says_so(reigned: Court) -> None:
    reigned.model("9")
    altered(reigned, tables.CHAMPION_HISTORY, newest(lambda row: row | {"model_version": "9"}))
    assert scoring(reigned) == ("1", "fallback")


def test_one_that_was_rolled_back_does_not_stand_in_nor_does_a_later_one(reigned: Court) -> None:
    history.rollback(reigned.settings, reigned.use_case, None, "ann", "it finds nothing")
    for folder in folders(reigned, "1"):
        (folder / "model.ubj").write_bytes(b"forged")
    assert scoring(reigned) == ("1-baseline", "baseline")
    found = trust.reigning(reigned.settings, reigned.use_case, START)
    assert found is not None
    assert (found.version, found.mark) == ("1-baseline", "baseline")


def test_without_any_verified_champion_a_baseline_that_was_judged_scores_and_without_that_nothing_does(reigned: Court) -> None:
    for version in ("1", "2"):
        for folder in folders(reigned, version):
            (folder / "model.ubj").write_bytes(b"forged")
    assert scoring(reigned) == ("2-baseline", "baseline")
    for folder in folders(reigned, "2"):
        (folder / "baseline" / "model.json").write_bytes(b"forged")
    assert scoring(reigned) == ("1-baseline", "baseline")
    for folder in folders(reigned, "1"):
        shutil.rmtree(folder / "baseline")
    with pytest.raises(RegistryError, match=r"version 2 reigns over card_fraud and cannot be trusted: .* so nothing scores"):
        trust.reigning(reigned.settings, reigned.use_case, TONIGHT)


def test_the_baseline_scores_from_the_night_on_that_a_person_asked_for_it_until_they_ask_for_the_champion(reigned: Court) -> None:
    settings, use_case = reigned.settings, reigned.use_case
    history.baseline(settings, use_case, "ann", "the model finds nothing")
    found = trust.reigning_over(settings, use_case, [TONIGHT - DAY, TONIGHT])
    assert [(one.version, one.mark) for one in found.values()] == [("1", None), ("2-baseline", "baseline")]
    assert found[TONIGHT].reasons[0] == "ann returned to the baseline: the model finds nothing"
    history.champion(settings, use_case, "ann", "it was the feed")
    assert scoring(reigned) == ("2", None)


def test_who_stands_in_for_scores_that_were_refused_is_the_champion_before_then_a_baseline(reigned: Court) -> None:
    seen: list[str] = []
    while stand_in := trust.instead(reigned.settings, reigned.use_case, TONIGHT, ["2", *seen], "every score is the same"):
        assert stand_in.reasons[0] == "every score is the same"
        seen.append(stand_in.version)
    assert seen == ["1", "2-baseline", "1-baseline"]


def test_rows_lead_back_to_the_model_that_they_bear_and_only_to_one_that_reigned(reigned: Court) -> None:
    for version, content in (("1", b"model 1"), ("2-baseline", b'"baseline 2"')):
        found = trust.verified(reigned.settings, reigned.use_case, version)
        assert found.version == version
        assert models.file(found.folder).read_bytes() == content
    reigned.model("9")
    for version in ("9", "9-baseline"):
        with pytest.raises(RegistryError, match=rf"version {version} gave scores of card_fraud, and ops\.champion_history has no such"):
            trust.verified(reigned.settings, reigned.use_case, version)
