"""Whatever is judged, answered, crowned, rolled back, frozen or killed, in whatever order: one reign is open, and it was approved."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench import reign
from bench.courts import DAY, START, Court
from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import chain
from include.nightshift.promote import history, registry, trust


class Killed(BaseException):
    """Ends a step in its middle, as a kill does: no `except Exception` is passed."""


class Reigns(RuleBasedStateMachine):
    """A court in which anything happens; `report`s are what was judged."""

    reports = Bundle("reports")

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="reign-"))
        self.court = Court(self.folder).open()
        self.client, self.amend = registry.client, chain.amend
        self.court.presides()
        self.approved: set[str] = set()
        self.failed: set[str] = set()
        self.rolled_back: set[str] = set()
        self.frozen = False
        self.versions = 0
        self.night = START

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            registry.client, chain.amend = self.client, self.amend
            shutil.rmtree(self.folder)

    @rule(target=reports, passed=st.sampled_from([True, True, True, False]), stale=st.booleans())
    def judge(self, passed: bool, stale: bool) -> str:
        self.versions += 1
        champion = None if stale else self._champion()
        digest = self.court.judged(str(self.versions), champion, self.night - DAY, passed=passed)
        self.failed |= set() if passed else {digest}
        return digest

    @rule(report=reports, valid=st.sampled_from([timedelta(hours=1), timedelta(hours=1), -timedelta(hours=1)]))
    def approve(self, report: str, valid: timedelta) -> None:
        self.court.answered(report, valid=valid)
        self.approved ^= {report} & self.approved
        self.approved |= {report} if valid > timedelta(0) else set()

    @rule(report=reports)
    def reject(self, report: str) -> None:
        self.court.answered(report, answer="Reject")
        self.approved -= {report}

    @rule(report=reports, killed=st.sampled_from([None, None, "before the history", "before the alias"]))
    def promote(self, report: str, killed: str | None) -> None:
        before = self._rows()
        expected = self._may_reign(report)
        try:
            self._killed_at(killed, lambda: history.crown(self.court.settings, self.court.use_case, report, why="gates passed"))
        except RegistryError:
            assert not expected
            assert self._rows() == before
            return
        except Killed:
            assert killed != "before the history" or self._rows() == before
            return
        assert expected or any(row["report_digest"] == report for row in before)

    @precondition(lambda self: self._champion())
    @rule(to=st.sampled_from([None, "1", "2", "3"]), killed=st.sampled_from([None, "before the history", "before the alias"]))
    def roll_back(self, to: str | None, killed: str | None) -> None:
        before, [reigning] = self._rows(), self._open()

        def act() -> Any:
            return history.rollback(self.court.settings, self.court.use_case, to, "ann", "because", act_id=f"act {len(before)} {to}")

        try:
            self._killed_at(killed, act)
        except RegistryError:
            assert self._rows() == before
            return
        except Killed:
            # Airflow tries the task again, under the same name.
            act()
        if len(self._rows()) > len(before):
            self.rolled_back.add(reigning["report_digest"])

    @rule()
    def freeze(self) -> None:
        history.freeze(self.court.settings, self.court.use_case, "ann", "because")
        self.frozen = True

    @rule()
    def unfreeze(self) -> None:
        history.unfreeze(self.court.settings, self.court.use_case, "ann", "because")
        self.frozen = False

    @rule(nights=st.integers(1, 3))
    def publish(self, nights: int) -> None:
        self.night += nights * DAY
        self.court.published(self.night - DAY)

    @rule()
    def score(self) -> None:
        history.reconcile(self.court.settings, self.court.use_case)
        assert self.court.alias.champion == self._champion()
        found = trust.reigning(self.court.settings, self.court.use_case, self.night)
        assert (found.version, found.mark) == (self._champion_of_tonight(), None) if found else self._champion_of_tonight() is None

    @invariant()
    def one_reign_is_open_without_gap_or_overlap(self) -> None:
        rows = self._rows()
        assert len(self._open()) == bool(rows)
        assert chain.verify(self.court.settings) == []
        if rows:
            first = min(row["from_night"] for row in rows)
            nights = [first + n * DAY for n in range((self.night - first).days + 4)]
            found = history.champions(self.court.settings, self.court.use_case, nights)
            assert sorted(found) == nights

    @invariant()
    def nobody_reigns_whose_report_failed(self) -> None:
        assert not {row["report_digest"] for row in self._rows()} & self.failed

    @invariant()
    def nobody_reigns_after_a_rollback_without_a_new_report(self) -> None:
        assert not {row["report_digest"] for row in self._open()} & self.rolled_back

    def _rows(self) -> list[Any]:
        return history.reigns(self.court.settings, self.court.use_case)

    def _open(self) -> list[Any]:
        return [row for row in self._rows() if row["until_night"] is None]

    def _champion(self) -> str | None:
        return next((str(row["model_version"]) for row in self._open()), None) if hasattr(self, "court") else None

    def _champion_of_tonight(self) -> str | None:
        return history.champions(self.court.settings, self.court.use_case, [self.night]).get(self.night)

    def _may_reign(self, report: str) -> bool:
        known = next(row for row in trust.Papers.read(self.court.settings, self.court.use_case).reports if row["report_digest"] == report)
        return (
            report in self.approved
            and report not in self.failed | self.rolled_back
            and not self.frozen
            and known["champion_version"] == self._champion()
        )

    def _killed_at(self, place: str | None, act: Callable[[], Any]) -> None:
        def die(*told: Any, **named: Any) -> Any:
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            if place == "before the history":
                patch.setattr(history, "_amend", die)
            if place == "before the alias":
                patch.setattr(history, "_follow", die)
            act()


TestReigns = Reigns.TestCase
TestReigns.settings = settings(max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("place", reign.PLACES)
def test_a_promotion_killed_at_any_step_leaves_one_reign_and_the_same_command_ends_it(tmp_path: Path, place: str) -> None:
    court = Court(tmp_path).open()
    tally = reign.Tally()
    reign.under_fire(court, tally, [place])
    assert (tally.kills, tally.where, tally.faults) == (1, {place: 1}, [])


def test_a_history_that_closes_and_opens_in_two_commits_is_found_out(tmp_path: Path) -> None:
    court = Court(tmp_path).open()
    tally = reign.Tally()
    reign.under_fire(court, tally, [reign.BETWEEN_COMMITS])
    assert any("nobody reigns" in fault or "without an end" in fault for fault in tally.faults), tally.faults
