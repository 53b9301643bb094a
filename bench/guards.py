"""How often the guards before publication stop a night that is sound, and how many planted faults they let through.

    python -m bench.guards [--nights 365] [--per-day 5000] [--seed 7]

Lives a year of the simulated world (`usecases.card_fraud.world`): ten percent more is bought at month's end, the volume of any night is up
to a fifth higher or lower, and half-way another model is promoted. A fixed rule stands for a model: a weighted sum of a few features,
among them a terminal's frauds of 28 days as they were known seven days later. Each night is judged as the product judges it
(`score.guards.judge`, the use case's own policy); whatever is not simply published is counted, and at most one may be.

Then each fault is planted in every tenth night, after the rows that it spoils were made: the guards must see it, and its kind must follow.
What needs no figures to be seen, a registry that is down, is tested with the real scorer instead.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np

from include.nightshift.monitor import drift
from include.nightshift.score import guards
from include.nightshift.score.guards import Checked, Distance, Judged, Kind, Seen
from include.nightshift.usecase import GuardPolicy
from include.usecases.card_fraud.usecase import USE_CASE
from include.usecases.card_fraud.world import Day, Simulator, World

FIRST = date(2024, 1, 1)
LEAD = 40
"""Days lived before the first night, so that windows are full."""
WRONGLY = 1
"""So many sound nights in a year may be held or marked."""
MONTH_END, MONTH_END_DAYS = 1.1, 3
SPREAD = 0.2
"""Of the volume from night to night, up and down."""
SAMPLE = 500
"""Rows that the parity check computes anew."""
FEATURES = ("amount", "beyond_habit", "terminal_frauds", "at_night")


@dataclass(frozen=True)
class Rule:
    """What stands for a model."""

    version: str
    weights: tuple[float, ...]
    """One for each of `FEATURES`."""
    intercept: float

    def score(self, matrix: np.ndarray) -> np.ndarray:
        score: np.ndarray = 1 / (1 + np.exp(-(matrix @ np.array(self.weights) + self.intercept)))
        return score


RULES = (Rule("1", (0.004, 1.1, 9.0, 0.2), -6.0), Rule("2", (0.006, 0.7, 12.0, 0.1), -5.0))
"""The second one is promoted half-way: other weights, and other probabilities for the same rows."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table, one entry each."""

    key: np.ndarray
    entity: np.ndarray
    own_day: np.ndarray
    """Whether the row happened on the night's day."""
    matrix: np.ndarray
    """(rows, features), as silver gives them or as the features table holds them."""

    def taken(self, rows: np.ndarray) -> Rows:
        return Rows(self.key[rows], self.entity[rows], self.own_day[rows], self.matrix[rows])

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True)
class Night:
    """A night as it stands when its scores have been written."""

    night: date
    silver: Rows
    features: Rows
    rule: Rule
    """Who reigns."""
    scored: Rows
    score: np.ndarray
    version: str
    compromised: np.ndarray
    """Entities that are left out of the list."""


@dataclass(frozen=True)
class Before:
    """What the nights before left behind."""

    recent: Mapping[date, int]
    reference: Mapping[str, Any]
    """Scores that are usual, as `drift.reference` describes a column."""
    listed: np.ndarray


def year(nights: int, per_day: int, seed: int) -> Iterator[Night]:
    """Sound nights, in order."""
    # As large as the fullest night; each night then has the share of it that its date and its dice say.
    fullest = MONTH_END * (1 + SPREAD)
    simulator = Simulator(World.of_size(round(per_day * fullest), seed=seed))
    dice = np.random.default_rng(seed)
    lived: dict[date, Day] = {}
    for offset in range(-LEAD, nights):
        day = FIRST + timedelta(days=offset)
        share = dice.uniform(1 - SPREAD, 1 + SPREAD) * (MONTH_END if (day + timedelta(days=MONTH_END_DAYS)).day <= MONTH_END_DAYS else 1)
        whole = simulator.day(day)
        kept = dice.random(len(whole)) < share / fullest
        lived[day] = Day(*(column[kept] for column in vars(whole).values()))
        lived.pop(day - timedelta(days=LEAD), None)
        if offset >= 0:
            yield _scored(lived, day, RULES[offset >= nights // 2])


def _scored(lived: Mapping[date, Day], day: date, rule: Rule) -> Night:
    today = lived[day]
    rows = Rows(today.transaction_id, today.customer_id, np.ones(len(today), dtype=bool), _matrix(lived, day))
    told = [lived[day - timedelta(days=7 + age)] for age in range(USE_CASE.compromised_for_days)]
    compromised = np.unique(np.concatenate([old.customer_id[old.fraud > 0] for old in told]))
    return Night(day, rows, rows, rule, rows, rule.score(rows.matrix), rule.version, compromised)


def _matrix(lived: Mapping[date, Day], day: date) -> np.ndarray:
    today = lived[day]
    amount = today.cents / 100
    past = [lived[day - timedelta(days=age)] for age in range(1, 31)]
    spent, count = (
        np.bincount(
            np.concatenate([old.customer_id for old in past]),
            weights=np.concatenate([old.cents / 100 if weighed else np.ones(len(old)) for old in past]),
            minlength=today.customer_id.max() + 1,
        )
        for weighed in (True, False)
    )
    habit = np.where(count > 0, spent / np.maximum(count, 1), 40.0)[today.customer_id]
    known = [lived[day - timedelta(days=age)] for age in range(7, 35)]
    shops = max(today.terminal_id.max(), *(old.terminal_id.max() for old in known)) + 1
    frauds, seen = (
        sum((np.bincount(old.terminal_id[rows(old)], minlength=shops) for old in known), np.zeros(shops, dtype=np.int64))
        for rows in (lambda old: old.fraud > 0, lambda old: slice(None))
    )
    at_night = (today.tx_datetime - today.tx_datetime.astype("datetime64[D]")).astype(np.int64) < 6 * 3600
    return np.column_stack([amount, np.log(amount / habit), (frauds / np.maximum(seen, 1))[today.terminal_id], at_night])


def listed(night: Night) -> np.ndarray:
    """Entities on the night's list."""
    eligible = ~np.isin(night.scored.entity, night.compromised)
    entity, score = night.scored.entity[eligible], night.score[eligible]
    _, first = np.unique(entity[np.argsort(-score, kind="stable")], return_index=True)
    return entity[np.argsort(-score, kind="stable")][np.sort(first)][: USE_CASE.list_size]


def seen(night: Night, before: Before) -> Seen:
    """The figures that guards look at."""
    finite = np.isfinite(night.score)
    tonight = listed(night)
    return Seen(
        night=night.night,
        events=len(night.silver),
        features=len(night.features),
        features_doubled=len(night.features) - len(np.unique(night.features.key)),
        scores=len(night.scored),
        scores_doubled=len(night.scored) - len(np.unique(night.scored.key)),
        strangers=int((~np.isin(night.scored.key, night.features.key)).sum()),
        own_day=float(night.features.own_day.mean()) if len(night.features) else None,
        recent=before.recent,
        parity=_checked(night),
        unknown=int((~finite).sum()),
        outside=int(((night.score[finite] < 0) | (night.score[finite] > 1)).sum()),
        distinct=len(np.unique(night.score)),
        versions=(night.version,),
        expected=night.rule.version,
        distance=Distance.between(before.reference, night.score, "the nights before"),
        entities=len(np.unique(night.scored.entity)),
        listed=len(tonight),
        repeated=int(np.isin(tonight, before.listed).sum()) if len(before.listed) else None,
    )


def _checked(night: Night) -> Checked:
    sample = night.scored.key[:SAMPLE]
    _, place, fresh = np.intersect1d(night.scored.key[:SAMPLE], night.silver.key, return_indices=True)
    _, held, _ = np.intersect1d(night.features.key, sample, return_indices=True)
    anew = night.silver.matrix[fresh]
    moved = [name for name, column, other in zip(FEATURES, night.features.matrix[held].T, anew.T, strict=True) if (column != other).any()]
    wrong = night.score[place] != night.rule.score(anew)
    return Checked(len(sample), int(wrong.sum()), (*moved, *(["score"] if wrong.any() else [])))


def walked(nights: int, per_day: int, seed: int, policy: GuardPolicy) -> Iterator[tuple[Night, Before]]:
    """Each night with what came before it, as a lake that only ever saw sound nights holds it."""
    recent: dict[date, int] = {}
    scores: dict[str, list[np.ndarray]] = {rule.version: [] for rule in RULES}
    matrices: list[np.ndarray] = []
    last = np.array([], dtype=np.int64)
    for night in year(nights, per_day, seed):
        usual = scores[night.version][-policy.reference_nights :]
        if len(usual) < policy.enough_nights:
            # A new model is held against what it says of the week before, which is what judged it.
            usual = [night.rule.score(matrix) for matrix in matrices]
        reference = drift.reference({"score": np.concatenate(usual or [night.score[:0]])}, guards.BINS)["score"]
        yield night, Before(dict(list(recent.items())[-policy.recent_nights :]), reference, last)
        recent[night.night] = len(night.features)
        scores[night.version].append(night.score)
        matrices = [*matrices, night.features.matrix][-7:]
        last = listed(night)


def _missing(night: Night) -> Night:
    none = night.features.taken(np.arange(0))
    return replace(night, features=none, scored=none, score=night.score[:0])


def _doubled(night: Night) -> Night:
    twice = np.repeat(np.arange(len(night.features)), 2)
    return replace(night, features=night.features.taken(twice), scored=night.scored.taken(twice), score=night.score[twice])


def _shuffled(night: Night) -> Night:
    return replace(night, score=night.rule.score(night.scored.matrix[:, [1, 2, 3, 0]]))


def _not_a_number(night: Night) -> Night:
    score = night.score.copy()
    score[::50] = np.nan
    return replace(night, score=score)


def _half(night: Night) -> Night:
    # Before silver: the source sent half of them, so that nothing disagrees with anything.
    half = np.arange(0, len(night.features), 2)
    rows = night.features.taken(half)
    return replace(night, silver=rows, features=rows, scored=rows, score=night.score[half])


def _another_night(night: Night) -> Night:
    # Another night's file under this night's name.
    rows = replace(night.features, own_day=np.zeros(len(night.features), dtype=bool))
    return replace(night, silver=rows, features=rows, scored=rows)


def _cents(night: Night) -> Night:
    # Before silver: amounts in another unit.
    matrix = night.silver.matrix * [100, 1, 1, 1] + [0, np.log(100), 0, 0]
    rows = replace(night.silver, matrix=matrix)
    return replace(night, silver=rows, features=rows, scored=rows, score=night.rule.score(matrix))


FAULTS: Mapping[str, tuple[Kind, Callable[[Night], Night]]] = {
    "missing partition": ("data", _missing),
    "doubled rows": ("data", _doubled),
    "half the rows": ("data", _half),
    "wrong night": ("data", _another_night),
    "shuffled columns": ("model", _shuffled),
    "NaN": ("model", _not_a_number),
    "constant": ("model", lambda night: replace(night, score=np.full_like(night.score, 0.5))),
    "stale model": ("model", lambda night: replace(night, version="0")),
    "scores in percent": ("model", lambda night: replace(night, score=night.score * 100)),
    "amounts in cents": ("odd", _cents),
}
"""Of each fault the kind that must be seen, and how it is planted."""
FOLLOWS: Mapping[Kind, set[str]] = {"data": {"hold"}, "model": {"again"}, "odd": {"odd", "hold"}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.guards", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--per-day", type=int, default=5_000, help="transactions")
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    policy, planted, found = USE_CASE.guards, Counter[str](), Counter[str]()
    wrongly: list[Judged] = []
    for place, (night, before) in enumerate(walked(asked.nights, asked.per_day, asked.seed, policy)):
        judged = guards.judge(seen(night, before), policy)
        if judged.outcome != "passed":
            wrongly.append(judged)
            print(f"{night.night} {judged.outcome}: {'; '.join(judged.reasons)}")
        if place % 10 == 9:
            for name, (kind, plant) in FAULTS.items():
                planted[name] += 1
                found[name] += guards.judge(seen(plant(night), before), policy).outcome in FOLLOWS[kind]
    print(f"{asked.nights} sound nights of about {asked.per_day:,} transactions, seed {asked.seed}: {len(wrongly)} held or marked")
    for name, (kind, _) in FAULTS.items():
        print(f"  {name:18} {kind:6} {found[name]} of {planted[name]} seen")
    sound = len(wrongly) <= WRONGLY and found == planted
    said = f"{len(wrongly)} of {asked.nights} target {WRONGLY}, {found.total()} of {planted.total()} faults"
    print(f"guards: {said} {'ok' if sound else 'short'}")
    return 0 if sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
