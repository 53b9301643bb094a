"""Compare: the bootstrap and the jackknife against the plain definitions, and errors that are neither too small nor blind to clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from include.nightshift.promote import compare, metrics
from include.nightshift.promote.evidence import Fold

ONES = np.ones((1, 40), dtype="float32")


def fold(seed: int, rows: int = 400, entities: int = 40, ties: bool = False) -> tuple[Fold, np.ndarray]:
    """A fold of made-up rows and scores that know something of them."""
    dice = np.random.default_rng(seed)
    target = (dice.random(rows) < 0.1).astype(np.int64)
    target[:2] = (0, 1)
    scores = dice.random(rows) * 0.5 + 0.4 * target * dice.random(rows)
    day = np.datetime64("2026-03-01") + np.sort(dice.integers(0, 7, rows))
    made = Fold(np.arange(rows), day, dice.integers(0, entities, rows), target, (dice.integers(0, 15, rows),))
    return made, np.round(scores, 1) if ties else scores


@given(seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_draw_of_average_precision_is_that_of_the_rows_as_often_as_their_entity_was_drawn(seed: int, ties: bool) -> None:
    rows, scores = fold(seed, ties=ties)
    weights = np.random.default_rng(seed).poisson(1.0, (3, 40)).astype("float32")
    weights[:, rows.entity[rows.target == 1][0]] += 1
    seen = compare._ranked(rows, scores, np.arange(40))(weights)
    wanted = [average_precision_score(rows.target, scores, sample_weight=draw[rows.entity]) for draw in weights]
    np.testing.assert_allclose(seen, wanted, rtol=1e-12)


def test_blocks_of_entities_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, scores = fold(3)
    weights = np.random.default_rng(1).poisson(1.0, (5, 40)).astype("float32")
    whole = compare._ranked(rows, scores, np.arange(40))(weights)
    monkeypatch.setattr(compare, "_BLOCK", 7)
    np.testing.assert_array_equal(compare._ranked(rows, scores, np.arange(40))(weights), whole)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_draw_of_card_precision_is_that_of_as_many_copies_of_each_entity(seed: int) -> None:
    rows, scores = fold(seed)
    weights = np.random.default_rng(seed).integers(0, 3, (2, 40)).astype("float32")
    seen = compare._listed(rows, scores, np.arange(40), list_size=5)(weights)
    for drawn, draw in zip(seen, weights.astype(int), strict=True):
        copies = draw[rows.entity]
        # A copy is an entity of its own; they stand together in the list as equals do.
        entity = np.concatenate([rows.entity[copies > nth] * 3 + nth for nth in range(2)])
        day, target, score = (np.concatenate([column[copies > nth] for nth in range(2)]) for column in (rows.day, rows.target, scores))
        present = np.isin(np.unique(rows.day), day)
        if present.all():
            assert drawn == pytest.approx(metrics.card_precision(day, entity, target, score, 5))


@pytest.mark.parametrize("ties", [False, True])
def test_the_influence_of_a_row_is_what_its_weight_does_to_average_precision(ties: bool) -> None:
    rows, scores = fold(11, rows=60, ties=ties)
    influence, step = compare._influence(rows.target, scores), 1e-6
    for row in range(60):
        weights = np.ones(60)
        weights[row] += step
        moved = average_precision_score(rows.target, scores, sample_weight=weights) - average_precision_score(rows.target, scores)
        assert influence[row] == pytest.approx(moved / step, abs=1e-4)
    assert influence.sum() == pytest.approx(0, abs=1e-12)


def test_a_model_beside_itself_differs_by_nothing_and_that_is_certain() -> None:
    rows, scores = fold(5)
    for apart in (
        compare.average_precision([rows], scores, scores),
        compare.card_precision([rows], scores, scores, 5),
        compare.brier([rows], scores, scores),
    ):
        assert (apart.estimate, apart.error) == (0.0, 0.0)
        assert apart.low(0.05) == apart.high(0.05) == 0.0


def test_the_same_rows_give_the_same_bounds_every_time() -> None:
    rows, scores = fold(5)
    other = fold(6)[1]
    assert compare.average_precision([rows], scores, other) == compare.average_precision([rows], scores, other)


def test_bounds_are_known_ones() -> None:
    """A report can be made again after an upgrade: the draws, their seed and what clusters add are decided for good."""
    folds, candidate, champion = [], [], []
    for seed in (1, 2, 3):
        rows, scores = fold(seed)
        folds.append(Fold(rows.rows + 400 * (seed - 1), rows.day, rows.entity, rows.target, rows.clusters))
        candidate.append(scores)
        champion.append(fold(seed + 10)[1] * 0.5 + scores * 0.5)
    scored = np.concatenate(candidate), np.concatenate(champion)
    for apart, gain, error in (
        (compare.average_precision(folds, *scored), 0.3244946291811786, 0.04164626703340899),
        (compare.card_precision(folds, *scored, 5), 0.10476190476190472, 0.04441624491633167),
        (compare.brier(folds, *scored), -0.007865189462758243, 0.002098449089308195),
    ):
        assert (apart.estimate, apart.error, apart.degrees) == (pytest.approx(gain, rel=1e-9), pytest.approx(error, rel=1e-9), 14)
    for spread, error in (((0.0, 1.5), 0.07122465053942134), ((1.0, 1.0), 0.05899890331867386)):
        # By clusters alone, and by both kinds together: wider by 1.64, and by 1.26.
        [(rows, *both)] = worlds(1, *spread)
        apart = compare.average_precision([rows], *both)
        assert (apart.error, apart.degrees) == (pytest.approx(error, rel=1e-9), 39)
    target = np.concatenate([rows.target for rows in folds])
    order = np.argsort(scored[0], kind="stable")
    fifteen = [abs(sum(scored[0][part]) - sum(target[part])) for part in np.array_split(order, 15)]
    assert compare.calibration_error(target, scored[0]) == pytest.approx(sum(fifteen) / sum(target))


def test_clusters_never_narrow_an_error_nor_widen_one_of_nothing() -> None:
    rows, scores = fold(4)
    influence = compare._influence(rows.target, scores)
    assert compare._widening([rows], influence * 0) == 1.0
    assert compare._widening([Fold(rows.rows, rows.day, rows.entity, rows.target, ())], influence) == 1.0


def test_degrees_are_those_of_the_kind_of_cluster_that_fewest_positive_rows_are_spread_over() -> None:
    rows, scores = fold(1)
    of_entities, of_terminals = (len(np.unique(of[rows.target == 1])) - 1 for of in (rows.entity, *rows.clusters))
    assert of_terminals < of_entities
    assert compare.brier([rows], scores, scores).degrees == of_terminals
    alone = Fold(rows.rows, rows.day, rows.entity, rows.target, ())
    assert compare.brier([alone], scores, scores).degrees == of_entities
    one = Fold(rows.rows, rows.day, rows.entity * 0, rows.target, ())
    assert compare.brier([one], scores, scores).degrees == 1


def test_bounds_widen_with_a_stricter_level_and_with_fewer_clusters() -> None:
    many, few = compare.Difference(0.7, 0.6, 0.02, 400), compare.Difference(0.7, 0.6, 0.02, 5)
    assert many.low(0.05) == pytest.approx(0.1 - 1.6487 * 0.02, abs=1e-4)
    assert many.low(0.01) < many.low(0.05) < many.estimate < many.high(0.05)
    assert few.low(0.05) < many.low(0.05)
    assert many.needed(0.05) == pytest.approx((1.6487 + 1.2840) * 0.02, abs=1e-4)


def worlds(number: int, spread_entity: float, spread_cluster: float) -> Sequence[tuple[Fold, np.ndarray, np.ndarray]]:
    """Worlds in which one of two models is luckier with some entities, and with some clusters, than with others."""
    made = []
    for seed in range(number):
        dice = np.random.default_rng(seed)
        rows, entities, clusters = 3000, 150, 40
        entity, cluster = dice.integers(0, entities, rows), dice.integers(0, clusters, rows)
        target = (dice.random(rows) < 0.08).astype(np.int64)
        luck = spread_entity * dice.normal(size=entities)[entity] + spread_cluster * dice.normal(size=clusters)[cluster]
        champion = 1 / (1 + np.exp(-(2 * target + dice.normal(size=rows))))
        candidate = 1 / (1 + np.exp(-((2 + luck) * target + dice.normal(size=rows))))
        day = np.full(rows, np.datetime64("2026-03-01"))
        made.append((Fold(np.arange(rows), day, entity, target, (cluster,)), candidate, champion))
    return made


@pytest.mark.parametrize(("spread_entity", "spread_cluster"), [(0.0, 0.0), (1.5, 0.0), (0.0, 1.5), (1.0, 1.0)])
def test_the_error_is_what_worlds_really_scatter_by_whatever_hangs_together(spread_entity: float, spread_cluster: float) -> None:
    seen = [compare.average_precision([rows], *scores) for rows, *scores in worlds(30, spread_entity, spread_cluster)]
    scatter, told = float(np.std([apart.estimate for apart in seen], ddof=1)), float(np.mean([apart.error for apart in seen]))
    # Thirty worlds know their scatter to 13 %.
    assert 0.75 < told / scatter < 1.4


def test_an_error_that_knows_entities_alone_is_too_small_where_clusters_matter() -> None:
    """Planted: what the bound would be without the widening."""
    made = worlds(30, 0.0, 1.5)
    seen = [compare.average_precision([Fold(r.rows, r.day, r.entity, r.target, ())], *scores) for r, *scores in made]
    scatter, told = float(np.std([apart.estimate for apart in seen], ddof=1)), float(np.mean([apart.error for apart in seen]))
    assert told / scatter < 0.7


def test_brier_and_calibration_tell_a_model_that_promises_what_there_is_from_ones_that_do_not() -> None:
    dice = np.random.default_rng(2)
    truth = dice.beta(0.5, 20, 50_000)
    target = (dice.random(50_000) < truth).astype(np.int64)
    rows = Fold(np.arange(50_000), np.full(50_000, np.datetime64("2026-03-01")), dice.integers(0, 3000, 50_000), target, ())
    assert compare.calibration_error(target, truth) < 0.08
    assert compare.calibration_error(target, np.zeros(50_000)) == pytest.approx(1.0)
    assert compare.calibration_error(target, truth**0.5) > 3
    apart = compare.brier([rows], truth**0.5, truth)
    assert apart.low(0.01) > 0, "smaller is better, and this is worse"
    assert apart.candidate == pytest.approx(np.mean((truth**0.5 - target) ** 2))
