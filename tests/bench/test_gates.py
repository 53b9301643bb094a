"""The bench of the gates: worlds, pairs whose difference is known, bounds, and that it finds a rule which promotes what is no better."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import gates as bench
from bench import pairs, worlds
from bench.curve import Line, drawn
from bench.shares import Share
from bench.worlds import Fresh
from include.nightshift.promote import gates, metrics
from include.nightshift.promote.gates import Report
from include.usecases.card_fraud.world import Simulator, World

MODELS = {"week": 1.3, "span": 1.1, "more": 0.9, "twin": 0.92}
"""How far each is off, beside a risk that varies by 1."""


def tiny(seed: int, weeks: int = 18, a_day: int = 150) -> Fresh:
    """A world of drawn rows: what models see of the risk, rows of one terminal see alike in part."""
    dice = np.random.default_rng(seed)
    rows = 7 * weeks * a_day
    day, entity, terminal = np.repeat(np.arange(7 * weeks), a_day), dice.integers(3_000, size=rows), dice.integers(2_000, size=rows)
    risk = dice.normal(size=rows)
    target = (risk + 0.5 * dice.normal(size=rows) > 2.2).astype(np.int8)
    logit = {
        name: 3 * (risk + off * dice.normal(size=rows) / 3 + off * dice.normal(size=2_000)[terminal] / 3) for name, off in MODELS.items()
    }
    known = target == 1
    return Fresh(
        seed,
        day,
        entity,
        terminal,
        target,
        day[known],
        entity[known],
        {name: (seen - 6).astype(np.float32) for name, seen in logit.items()},
    )


@pytest.fixture(scope="module")
def ended() -> list[bench.Judged]:
    return [one for world in map(tiny, range(2)) for some in bench.judged(world, bench.cases(world)) for one in some]


# What it finds


def test_the_naive_rule_is_found_to_promote_what_is_no_better(ended: list[bench.Judged]) -> None:
    shares = bench.by_cell(ended)
    naive, ours = (bench.figures(shares, rule) for rule in (bench.HIGHER, bench.GATES))
    at_margin = [place for place, figure in enumerate(naive) if "better by 0.01" in figure.what]
    assert len(at_margin) == len(bench.DIFFERENCES)
    assert all(naive[place].seen > 50 and naive[place].share > 1 for place in at_margin)
    assert all(ours[place].seen < naive[place].seen for place in at_margin)


def test_a_rule_that_promotes_nobody_is_found_to_have_no_power(ended: list[bench.Judged]) -> None:
    figures = bench.figures(bench.by_cell([replace(one, refused="better") for one in ended]))
    assert [figure.share > 1 for figure in figures if figure.at_least] == [True, True]


def test_it_ends_where_the_gates_together_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gates.judge

    def contrary(*judged: object) -> Report:
        report = whole(*judged)  # type: ignore[arg-type]
        return Report(tuple(replace(verdict, passed=not report.passed, waits=False) for verdict in report.verdicts))

    monkeypatch.setattr(gates, "judge", contrary)
    world = tiny(1)
    with pytest.raises(RuntimeError, match="and not together"):
        list(bench.judged(world, bench.cases(world)))


def test_it_ends_where_the_gates_see_another_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs.Pair, "seen", lambda pair, first, weeks: 0.5)
    world = tiny(1)
    with pytest.raises(RuntimeError, match=r"that the bench sees 0\.50000 apart"):
        list(bench.judged(world, bench.cases(world)))


def test_what_was_judged_is_remembered_until_the_policy_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = tiny(2)
    monkeypatch.setattr(bench, "cases", lambda fresh: [bench.Case(0.01, "recipe", 4, first) for first in (0, 4)])
    monkeypatch.setattr(Fresh, "load", lambda path: world)
    file = tmp_path / "world-002.npz"
    file.write_bytes(b"as it was")
    first, ended = bench.remembered(file)
    again, same = bench.remembered(file)
    monkeypatch.setattr(bench, "POLICY", replace(bench.POLICY, min_gain=0.02))
    anew, _ = bench.remembered(file)
    assert (first, again, anew) == (2, 0, 2)
    assert same == ended


# Pairs


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_the_true_difference_is_the_one_that_is_wanted(kind: str) -> None:
    ground = pairs.Ground(tiny(1, a_day=600))
    for difference in (0.0, 0.01, 0.04):
        pair = ground.pair(kind, difference)
        kept = ground.fresh.left & (ground.fresh.day < 7)
        reached = [metrics.average_precision(ground.fresh.target[kept], model.logit[kept]) for model in (pair.candidate, pair.champion)]
        assert pair.difference == pytest.approx(difference, abs=5e-4)
        assert pair.seen(0, 1) == pytest.approx(reached[0] - reached[1], abs=1e-9)


def test_logits_beyond_all_measure_stay_in_their_week() -> None:
    ground = pairs.Ground(tiny(1))
    logit = 20 * ground.fresh.logit["more"][ground.left]
    assert np.ptp(logit) > 4 * pairs.LIMIT
    within = np.clip(logit, -pairs.LIMIT, pairs.LIMIT)
    assert ground.weekly(logit).tolist() == ground.weekly(within).tolist()
    first = ground.starts[1]
    assert ground.weekly(logit)[0] == pytest.approx(metrics.average_precision(ground.target[:first], within[:first]), abs=1e-3)


def test_a_model_that_was_made_worse_promises_what_comes() -> None:
    ground = pairs.Ground(tiny(1))
    worse = ground.pair("recipe", 0.0).candidate
    assert worse.scores(slice(None))[ground.left].sum() == pytest.approx(ground.target.sum(), rel=0.01)


# Bounds


def test_of_what_was_never_seen_the_bound_is_not_zero() -> None:
    none = Share(np.zeros(390), np.repeat(np.arange(30), 13))
    assert none.likeness() is None
    assert none.upper(0.0) == pytest.approx(1 - 0.05 ** (1 / none.effective(0.0)))
    assert 3 / 390 < none.upper(0.0) < none.upper(0.1)


def test_worlds_whose_cases_all_end_alike_tell_as_much_as_one_case_each() -> None:
    alike = Share(np.repeat([1.0, 0.0] * 15, 13), np.repeat(np.arange(30), 13))
    likeness = alike.likeness()
    assert likeness is not None
    assert likeness == pytest.approx(1, abs=0.1)
    assert alike.effective(likeness) < 31


def test_the_bounds_hold_in_nineteen_of_twenty_studies() -> None:
    dice = np.random.default_rng(1)
    world = np.repeat(np.arange(32), 13)
    # One case in twenty, in some worlds many and in others none.
    over = under = alone = 0
    for _ in range(400):
        share = Share(dice.random(416) < np.repeat(dice.beta(0.6, 11.4, 32), 13), world)
        like = share.likeness() or 0.0
        over += share.upper(like) < 0.05
        under += share.lower(like) > 0.05
        alone += share.upper(0.0) < 0.05
    assert over <= 30
    assert under <= 30
    # Cases taken for independent, which they are not, would be believed too soon.
    assert alone > over


# Worlds


def test_a_world_is_made_once(tmp_path: Path) -> None:
    made = list(worlds.make(tmp_path, range(1, 2), 1, weeks=2, size=300))
    assert [said.partition(":")[0] for said in made] == ["world 1"]
    assert os.listdir(tmp_path) == ["world-001.npz"]
    assert list(worlds.make(tmp_path, range(1, 2), 1, weeks=2, size=300)) == []
    fresh = Fresh.load(worlds.path(tmp_path, 1))
    day = Simulator(World.of_size(300, seed=1)).day(worlds.FIRST)
    first = slice(0, len(day))
    assert fresh.weeks == 2
    assert (fresh.target[first] == (day.fraud > 0)).all()
    assert (fresh.terminal[first] == day.terminal_id).all()
    assert 0 < (~fresh.left).sum() < len(fresh.day) / 2
    assert all(np.ptp(logit) > 1 for logit in fresh.logit.values())


def test_windows_end_before_the_verdicts_that_are_not_in() -> None:
    rows = {"entity": np.array([0, 0, 1, 0]), "second": np.array([0, 2, 2, 9]) * worlds.SECONDS_PER_DAY}
    amount = np.array([10.0, 20.0, 40.0, 60.0])
    count, mean = worlds.Windows(rows, "entity", 0).of(amount, 7)
    assert count.tolist() == [1, 2, 1, 1]
    assert mean.tolist() == [10, 15, 40, 60]
    count, mean = worlds.Windows(rows, "entity", 7).of(amount, 7)
    assert count.tolist() == [0, 0, 0, 2]
    assert mean.tolist() == [0, 0, 0, 15]


def test_the_curve_is_drawn_with_its_bounds() -> None:
    image = drawn(
        "Promoted", [Line("gates", [(0.0, 0.0, 0.0, 0.1), (0.04, 1.0, 0.9, 1.0)]), Line("naive", [(0.0, 0.5, 0.4, 0.6)], dashed=True)]
    )
    assert image.startswith("<svg")
    assert image.count("stroke-dasharray") == 1
    assert ">0.04<" in image
