"""Who reigns over which night, and what it takes to change that; what needs no model server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bench.courts import DAY, START, Court
from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import chain, log, records, tables
from include.nightshift.promote import acts, copies, history, report
from include.nightshift.promote.proof import Papers


def crowned(court: Court, version: str, champion: str | None = None) -> str:
    """Judge, approve and crown; returns the digest."""
    digest = court.approved(version, champion)
    history.crown(court.settings, court.use_case, digest, why="gates passed")
    return digest


def reigns(court: Court) -> list[tuple[Any, ...]]:
    """The history in its order: version, act, first and last night, counted from the first night that anybody could have."""
    return [
        (row["model_version"], row["act"], (row["from_night"] - START).days, row["until_night"] and (row["until_night"] - START).days)
        for row in history.reigns(court.settings, court.use_case)
    ]


def rolled_back(court: Court, to: str | None = None, act_id: str | None = None) -> str:
    row = history.rollback(court.settings, court.use_case, to, "ann", "it finds nothing", act_id=act_id)
    return str(row["model_version"])


def killed_rolling_back(court: Court, act_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The act is kept, and the process ends before the history changes."""
    with monkeypatch.context() as patch:
        patch.setattr(history, "_amend", lambda *told: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rolled_back(court, act_id=act_id)


def test_a_champion_reigns_from_the_first_free_night_until_the_next_ones_and_old_nights_keep_theirs(court: Court) -> None:
    assert history.champions(court.settings, court.use_case, [START]) == {}
    crowned(court, "1")
    court.published(START + 4 * DAY)
    crowned(court, "2", "1")
    assert court.alias.champion == "2"
    nights = [START - DAY, START, START + 4 * DAY, START + 5 * DAY, START + 500 * DAY]
    assert [history.champions(court.settings, court.use_case, nights).get(night) for night in nights] == [None, "1", "1", "2", "2"]
    assert reigns(court) == [("1", "promote", 0, 4), ("2", "promote", 5, None)]
    [first, second] = history.reigns(court.settings, court.use_case)
    assert (second["by"], second["why"]) == ("ann", "gates passed")
    assert first["model_sha256"] != second["model_sha256"]
    assert chain.verify(court.settings) == []


def test_the_same_promotion_twice_changes_nothing_even_when_its_approval_has_expired_by_then(court: Court) -> None:
    digest = court.judged("1")
    court.answered(digest, valid=timedelta(hours=1))
    row = history.crown(court.settings, court.use_case, digest, why="gates passed")
    court.alias.set_registered_model_alias("", "", "9")
    court.answered(digest, valid=-timedelta(hours=1))
    before = log.version(court.settings, tables.CHAMPION_HISTORY)
    assert history.crown(court.settings, court.use_case, digest, why="another word")["why"] == row["why"]
    assert log.version(court.settings, tables.CHAMPION_HISTORY) == before
    assert court.alias.champion == "1"


Stage = Callable[[Court], str]


def no_report(court: Court) -> str:
    court.answered("f" * 64)
    return "f" * 64


def failed_report(court: Court) -> str:
    court.answered(digest := court.judged("2", "1", passed=False))
    return digest


def altered_document(court: Court) -> str:
    court.answered(digest := court.judged("2", "1", document='{"passed": true}'))
    return digest


def document_of_something_else(court: Court) -> str:
    digest = report.digest("{}")
    told = {"report_digest": digest, "use_case": court.use_case.name, "document": "{}", "passed": True}
    chain.append(court.settings, tables.GATE_REPORTS, told, {})
    court.answered(digest)
    return digest


def altered_column(court: Court) -> str:
    digest = court.judged("2", "1", passed=False)
    records.amend(
        court.settings,
        tables.GATE_REPORTS,
        lambda held: [row | {"passed": True} if row["report_digest"] == digest else row for row in held],
    )
    court.answered(digest)
    return digest


def other_bytes(court: Court) -> str:
    digest = court.approved("2", "1")
    (court.home / "models" / court.use_case.name / "2" / "model.ubj").write_bytes(b"another model")
    return digest


def no_answer(court: Court) -> str:
    return court.judged("2", "1")


def rejection(court: Court) -> str:
    court.answered(digest := court.approved("2", "1"), answer="Reject", by="bob")
    return digest


def expired(court: Court) -> str:
    court.answered(digest := court.judged("2", "1"), valid=-timedelta(minutes=1))
    return digest


def answer_to_another(court: Court) -> str:
    digest = court.judged("2", "1")
    court.answered(court.judged("3", "1"))
    return digest


def answer_for_another_version(court: Court) -> str:
    court.answered(digest := court.judged("2", "1"), model_version="3")
    return digest


def altered_answer(court: Court) -> str:
    court.answered(digest := court.judged("2", "1"), answer="Reject", by="bob")
    records.amend(court.settings, tables.APPROVALS, lambda held: [row | {"answer": "Approve"} for row in held])
    return digest


def answer_put_in(court: Court) -> str:
    digest = court.judged("2", "1")
    put_in = {"report_digest": digest, "use_case": court.use_case.name, "answer": "Approve", "by": "bob"}
    records.amend(court.settings, tables.APPROVALS, lambda held: [*held, put_in])
    return digest


def other_champion(court: Court) -> str:
    digest = court.approved("2", "1")
    crowned(court, "3", "1")
    return digest


def nobody_to_compare_with(court: Court) -> str:
    return court.approved("2", None)


def other_bytes_of_the_champion(court: Court) -> str:
    court.answered(digest := court.judged("2", "1", champion_sha256="0" * 64))
    return digest


def rolled_back_before(court: Court) -> str:
    digest = crowned(court, "2", "1")
    rolled_back(court)
    court.answered(digest)
    return digest


def frozen(court: Court) -> str:
    history.freeze(court.settings, court.use_case, "bob", "the feed is under repair")
    return court.approved("2", "1")


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (no_report, "holds 0 reports ffffffffffff, expected one"),
        (failed_report, "did not pass the gates"),
        (altered_document, "was altered after it was judged"),
        (document_of_something_else, "has a document that is none"),
        (altered_column, "its column passed says True, its document False"),
        (other_bytes, "Somebody changed|cannot be had"),
        (no_answer, "nobody answered"),
        (rejection, "bob answered Reject"),
        (expired, "was valid until"),
        (answer_to_another, "nobody answered"),
        (answer_for_another_version, "approved version 3, the report is of 2"),
        (altered_answer, "does not hold: it was altered"),
        (answer_put_in, "nobody answered"),
        (other_champion, r"version 2 was compared with version 1 .*, and by now version 3 .* reigns"),
        (nobody_to_compare_with, "compared with nobody, and by now version 1"),
        (other_bytes_of_the_champion, r"compared with version 1 \(000000000000\)"),
        (rolled_back_before, "the same evidence cannot bring it back"),
        (frozen, "promotions are frozen: bob asked for it .* the feed is under repair"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_without_all_that_speaks_for_it_is_refused_with_advice_and_nothing_changes(court: Court, stage: Stage, said: str) -> None:
    crowned(court, "1")
    digest = stage(court)
    before, alias = history.reigns(court.settings, court.use_case), court.alias.champion
    with pytest.raises(RegistryError, match=said):
        history.crown(court.settings, court.use_case, digest, why="gates passed")
    assert (history.reigns(court.settings, court.use_case), court.alias.champion) == (before, alias)


def test_a_refusal_names_the_report_by_its_first_twelve_characters(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    crowned(court, "1")
    digest = crowned(court, "2", "1")
    killed_rolling_back(court, "run-1", monkeypatch)
    held = records.read(court.settings, tables.GATE_REPORTS)
    records.amend(court.settings, tables.GATE_REPORTS, lambda rows: [])
    with pytest.raises(RegistryError, match=r"ops\.gate_reports holds no report [0-9a-f]{12}: train again"):
        rolled_back(court, act_id="run-1")
    records.amend(court.settings, tables.GATE_REPORTS, lambda rows: held)
    rolled_back(court, act_id="run-1")
    with pytest.raises(RegistryError, match=rf"^report {digest[:12]} let its model reign"):
        history.crown(court.settings, court.use_case, digest, why="gates passed")
    with pytest.raises(RegistryError, match=r"^the model of report ffffffffffff cannot be promoted: "):
        history.crown(court.settings, court.use_case, "f" * 64, why="gates passed")


def test_what_is_unfrozen_goes_on_and_all_is_in_the_acts(court: Court) -> None:
    crowned(court, "1")
    digest = court.approved("2", "1")
    history.freeze(court.settings, court.use_case, "bob", "look at the feed")
    with pytest.raises(RegistryError, match="card_fraud_reign"):
        history.crown(court.settings, court.use_case, digest, why="gates passed")
    history.unfreeze(court.settings, court.use_case, "ann", "it is well")
    history.crown(court.settings, court.use_case, digest, why="gates passed")
    assert [row[0] for row in reigns(court)] == ["1", "2"]
    done = sorted(records.read(court.settings, tables.ACTS), key=lambda act: act["seq"])
    assert [(act["act"], act["by"], act["why"]) for act in done] == [
        ("freeze", "bob", "look at the feed"),
        ("unfreeze", "ann", "it is well"),
    ]


@pytest.mark.parametrize(("by", "why"), [("", "a reason"), ("ann", " ")])
def test_an_act_needs_who_and_why(court: Court, by: str, why: str) -> None:
    with pytest.raises(RegistryError, match="say who asks and why"):
        history.freeze(court.settings, court.use_case, by, why)


def test_an_act_of_one_name_is_done_once_and_the_name_is_its_own(court: Court) -> None:
    history.freeze(court.settings, court.use_case, "ann", "first", act_id="run-7")
    again = history.freeze(court.settings, court.use_case, "bob", "again", act_id="run-7")
    assert (again["by"], len(records.read(court.settings, tables.ACTS))) == ("ann", 1)
    with pytest.raises(RegistryError, match="act run-7 is freeze of card_fraud, not unfreeze"):
        history.unfreeze(court.settings, court.use_case, "ann", "other", act_id="run-7")


def test_a_rollback_leads_to_the_champion_before_from_the_next_list_on(court: Court) -> None:
    crowned(court, "1")
    court.published(START + DAY)
    crowned(court, "2", "1")
    court.published(START + 5 * DAY)
    assert rolled_back(court) == "1"
    assert reigns(court) == [("1", "promote", 0, 1), ("2", "promote", 2, 5), ("1", "rollback", 6, None)]
    assert court.alias.champion == "1"
    [act] = records.read(court.settings, tables.ACTS)
    assert (act["act"], act["by"], act["night"], act["why"]) == ("rollback", "ann", START + 6 * DAY, "it finds nothing")
    assert history.champions(court.settings, court.use_case, [START + 5 * DAY]) == {START + 5 * DAY: "2"}
    assert chain.verify(court.settings) == []


def test_a_reign_that_is_rolled_back_before_its_first_list_covers_no_night(court: Court) -> None:
    crowned(court, "1")
    court.published(START + DAY)
    crowned(court, "2", "1")
    rolled_back(court)
    assert reigns(court) == [("1", "promote", 0, 1), ("2", "promote", 2, 1), ("1", "rollback", 2, None)]
    assert history.champions(court.settings, court.use_case, [START + 2 * DAY]) == {START + 2 * DAY: "1"}
    assert chain.verify(court.settings) == []


def test_one_rollback_after_another_goes_further_back_never_forth_and_ends_where_nobody_was_before(court: Court) -> None:
    for version, champion in (("1", None), ("2", "1"), ("3", "2")):
        crowned(court, version, champion)
    assert [rolled_back(court), rolled_back(court)] == ["2", "1"]
    with pytest.raises(RegistryError, match=r"nobody was promoted before version 1 .* card_fraud_reign"):
        rolled_back(court)
    for version in ("2", "3"):
        with pytest.raises(RegistryError, match=rf"version {version} was rolled back itself, and needs a new report"):
            rolled_back(court, version)
    # With a new report, a version returns.
    digest = court.judged("3", "1", as_of=START + DAY)
    court.answered(digest)
    history.crown(court.settings, court.use_case, digest, why="judged anew")
    assert [row[:2] for row in reigns(court)][-1] == ("3", "promote")
    assert rolled_back(court) == "1"


def test_a_rollback_to_a_named_version_takes_one_that_reigned_and_whose_evidence_holds(court: Court) -> None:
    for version, champion in (("1", None), ("2", "1"), ("3", "2")):
        crowned(court, version, champion)
    for name, said in (("9", "version 9 never reigned: name one of 1, 2"), ("3", "version 3 reigns already")):
        with pytest.raises(RegistryError, match=said):
            rolled_back(court, name)
    records.amend(court.settings, tables.APPROVALS, lambda held: [row | {"by": "eve"} if row["seq"] == 2 else row for row in held])
    with pytest.raises(RegistryError, match=r"version 2 cannot return: its ops\.approvals row does not hold"):
        rolled_back(court, "2")
    assert records.read(court.settings, tables.ACTS) == []
    assert rolled_back(court, "1") == "1"


def test_without_a_champion_there_is_nothing_to_return_from(court: Court) -> None:
    for act in (lambda: rolled_back(court), lambda: history.baseline(court.settings, court.use_case, "ann", "because")):
        with pytest.raises(RegistryError, match="nobody reigns"):
            act()
    assert history.reconcile(court.settings, court.use_case) == []


def test_a_rollback_that_was_killed_is_done_once_by_the_same_act(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, champion in (("1", None), ("2", "1"), ("3", "2")):
        crowned(court, version, champion)
    killed_rolling_back(court, "run-1", monkeypatch)
    assert len(reigns(court)) == 3
    assert [rolled_back(court, act_id="run-1"), rolled_back(court, act_id="run-1")] == ["2", "2"]
    assert [row[:2] for row in reigns(court)] == [("1", "promote"), ("2", "promote"), ("3", "promote"), ("2", "rollback")]
    assert len(records.read(court.settings, tables.ACTS)) == 1
    # It tells what it did, not what came after.
    assert [rolled_back(court, act_id="run-2"), rolled_back(court, act_id="run-1")] == ["1", "2"]
    assert [row[:2] for row in reigns(court)][-1] == ("1", "rollback")
    assert history.rollback(court.settings, court.use_case, None, "ann", "again", act_id="run-1")["act"] == "rollback"


def test_a_rollback_from_a_champion_that_reigns_no_longer_is_refused(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    crowned(court, "1")
    crowned(court, "2", "1")
    killed_rolling_back(court, "run-1", monkeypatch)
    crowned(court, "3", "2")
    with pytest.raises(RegistryError, match="version 3 reigns by now, somebody was quicker"):
        rolled_back(court, act_id="run-1")


def test_the_alias_is_mended_and_what_was_wrong_is_said(court: Court) -> None:
    crowned(court, "1")
    assert history.reconcile(court.settings, court.use_case) == []
    court.alias.set_registered_model_alias("", "", "9")
    [said] = history.reconcile(court.settings, court.use_case)
    assert "pointed at version 9; the history says 1" in said
    assert court.alias.champion == "1"


def test_a_champion_promised_the_figures_of_its_report(court: Court) -> None:
    digest = court.judged("1", figures='{"candidate_average_precision": 0.7}')
    assert history.promised(court.settings, {"report_digest": digest}) == {"candidate_average_precision": 0.7}
    assert history.promised(court.settings, {"report_digest": "f" * 64}) == {}


def test_a_baseline_is_one_that_a_sound_report_vouches_for(court: Court) -> None:
    crowned(court, "1")
    papers, [reign] = Papers.read(court.settings, court.use_case), history.reigns(court.settings, court.use_case)
    found = history.baseline_of(court.settings, court.use_case, papers, reign)
    assert found is not None
    assert found.version == "1-baseline"
    [report] = papers.reports
    for reports in ([], [report | {"passed": False}]):
        assert history.baseline_of(court.settings, court.use_case, replace(papers, reports=reports), reign) is None
    digest = court.judged("2", baseline_sha256=None)
    papers = Papers.read(court.settings, court.use_case)
    assert history.baseline_of(court.settings, court.use_case, papers, {"report_digest": digest}) is None


def test_a_baseline_is_asked_for_only_where_it_is_what_was_judged(court: Court) -> None:
    digest = crowned(court, "1")
    court.published(START + DAY)
    history.baseline(court.settings, court.use_case, "ann", "the model finds nothing")
    asked = acts.baseline_on(court.settings, court.use_case, START + 2 * DAY)
    assert asked is not None
    assert acts.baseline_on(court.settings, court.use_case, START + DAY) is None
    court.published(START + 4 * DAY)
    history.champion(court.settings, court.use_case, "ann", "it was the feed")
    nights = [START + offset * DAY for offset in (4, 5)]
    assert [acts.baseline_on(court.settings, court.use_case, night) for night in nights] == [asked, None]
    for folder in (court.home / "models" / court.use_case.name / "1", copies._folder(court.settings, court.use_case, digest)):
        (folder / "baseline" / "model.json").write_text("another")
    with pytest.raises(RegistryError, match="version 1 of card_fraud has no baseline as it was judged"):
        history.baseline(court.settings, court.use_case, "ann", "again")
