"""A month and a half of the year that the bench lives: sound nights are published, every planted fault is seen."""

from __future__ import annotations

import pytest

from bench import guards as bench
from include.nightshift.score import guards
from include.usecases.card_fraud.usecase import USE_CASE


def test_sound_nights_pass_month_end_and_promotion_among_them_and_each_fault_ends_as_its_kind_says() -> None:
    stopped, versions = [], set()
    for place, (night, before) in enumerate(bench.walked(44, 3_000, 3, USE_CASE.guards)):
        said = guards.judge(bench.seen(night, before), USE_CASE.guards)
        stopped += [] if said.outcome == "passed" else [(night.night, said.reasons)]
        versions.add(night.version)
        if place % 20 == 19:
            for name, (kind, plant) in bench.FAULTS.items():
                outcome = guards.judge(bench.seen(plant(night), before), USE_CASE.guards).outcome
                assert outcome in bench.FOLLOWS[kind], (name, outcome)
    assert stopped == []
    assert versions == {"1", "2"}


def test_the_bench_says_short_where_the_guards_are_too_strict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["guards", "--nights", "20", "--per-day", "1000"])
    assert bench.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "guards: 0 of 20 target 1, 20 of 20 faults ok"
    monkeypatch.setitem(bench.FAULTS, "nothing", ("data", lambda night: night))  # type: ignore[arg-type]
    assert bench.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "guards: 0 of 20 target 1, 20 of 22 faults short"
