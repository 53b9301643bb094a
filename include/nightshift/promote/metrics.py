"""Metrics: how well scores rank, measured as the Fraud Detection Handbook publishes it, so that figures compare.

Source: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning for Credit Card Fraud Detection"
(2022): chapter 4.3 for card precision, chapter 5.3 for the fold with a delay. The rule about known entities matters
more than most models do (one model: average precision 0.762 on all rows, 0.719 by this rule), so it lives here once
and the gate, the nightly performance and the benchmark call it.

Everything takes row-aligned numpy arrays and nothing else: `target` 1 for what is looked for and 0 otherwise, `score`
higher for more suspicious, `entity` an integer that names the card, `day` as datetime64[D].
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift.errors import NightError, NotMaturedError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class FoldMetrics:
    """What a model reached on one fold, over the rows that the protocol leaves."""

    average_precision: float
    roc_auc: float
    card_precision: float
    """Mean over days of the share of the day's list that was right."""
    rows: int
    frauds: int
    days: int
    """Distinct days with rows."""


def average_precision(target: np.ndarray, score: np.ndarray) -> float:
    """Area under the precision-recall curve by steps (scikit-learn's definition; no interpolation), 0..1.

    Raises:
        NotMaturedError: a class is missing, so there is nothing to rank.
        ValueError: arrays of different lengths, a target that is not 0 or 1, a score that is no finite number.
    """
    from sklearn.metrics import average_precision_score

    _check_both_classes("average precision", target, score)
    return float(average_precision_score(target, score))


def roc_auc(target: np.ndarray, score: np.ndarray) -> float:
    """Chance that a random positive row scores above a random negative one, ties counting half, 0..1.

    Raises:
        NotMaturedError: a class is missing, so there is no pair to compare.
        ValueError: arrays of different lengths, a target that is not 0 or 1, a score that is no finite number.
    """
    from sklearn.metrics import roc_auc_score

    _check_both_classes("ROC AUC", target, score)
    return float(roc_auc_score(target, score))


def card_precision(day: np.ndarray, entity: np.ndarray, target: np.ndarray, score: np.ndarray, list_size: int) -> float:
    """Mean over days of the share of the day's list of `list_size` entities that had a positive row that day.

    Each day an entity counts once, with its highest score; equal scores are ranked by the smaller entity, so that the
    list does not depend on row order. An entity found (listed and positive) on one day is left out of all later days.
    The divisor is always `list_size`: a day with fewer entities than that cannot reach 1, as an investigator's free
    hours are not a success either. A day whose entities were all found before counts as 0.

    Raises:
        NotMaturedError: there are no rows, so no day to average over.
        ValueError: arrays of different lengths, a target that is not 0 or 1, a score that is no finite number, no list.
    """
    import numpy as np

    _check(target, score, day, entity)
    if list_size < 1:
        raise ValueError(f"card precision of a list of {list_size}: a list has at least one place")
    if not len(day):
        raise NotMaturedError("card precision has no rows to look at: wait for nights whose verdicts are complete")
    found = entity[:0]
    precisions = []
    for today in np.unique(day):
        open_rows = (day == today) & ~np.isin(entity, found)
        listed, right = _list(entity[open_rows], target[open_rows], score[open_rows], list_size)
        precisions.append(right.sum() / list_size)
        found = np.concatenate([found, listed[right]])
    return float(np.mean(precisions))


def undisclosed(
    day: np.ndarray,
    entity: np.ndarray,
    known_fraud_day: np.ndarray,
    known_fraud_entity: np.ndarray,
    first_test_day: date | np.datetime64,
    label_delay_days: int,
) -> np.ndarray:
    """Which rows of a fold the protocol keeps: those of entities that nobody knew to be compromised.

    On test day d, an entity with a fraud dated from `first_test_day - 2 * delay` to `d - delay - 1` is known: its verdict
    had arrived, and its card was blocked. (With the published delay of 7: F-14 to d-8.)

    Raises:
        NightError: a row lies before the first test day.
    """
    import numpy as np

    day, first = day.astype("datetime64[D]"), np.asarray(first_test_day, dtype="datetime64[D]")
    fraud_day = known_fraud_day.astype("datetime64[D]")
    if len(day) and day.min() < first:
        raise NightError(f"a fold that tests from {first} holds a row of {day.min()}: give test rows only, or an earlier first test day")
    since = fraud_day >= first - 2 * label_delay_days
    # An entity's earliest fraud decides: once known, it stays known for the rest of the fold.
    entities, place = np.unique(known_fraud_entity[since], return_inverse=True)
    never = np.iinfo(np.int64).max
    earliest = np.full(len(entities) + 1, never, dtype=np.int64)
    np.minimum.at(earliest, place, fraud_day[since].astype(np.int64))
    at = np.searchsorted(entities, entity)
    hit = np.zeros(len(entity), dtype=bool)
    hit[at < len(entities)] = entities[at[at < len(entities)]] == entity[at < len(entities)]
    return ~(hit & (earliest[at] <= day.astype(np.int64) - label_delay_days - 1))


def fold(
    day: np.ndarray,
    entity: np.ndarray,
    target: np.ndarray,
    score: np.ndarray,
    *,
    first_test_day: date | np.datetime64,
    known_fraud_day: np.ndarray,
    known_fraud_entity: np.ndarray,
    label_delay_days: int,
    list_size: int,
) -> FoldMetrics:
    """Measure one fold by the published protocol, exactly.

    Rows of known entities are dropped (`undisclosed`); average precision and AUC are pooled over the rest; card precision
    looks at the rest day by day (`card_precision`).

    Args:
        day, entity, target, score: the rows of the test nights, aligned.
        first_test_day: F, the first of them.
        known_fraud_day, known_fraud_entity: the positive rows from F - 2 * delay on, those of the test nights included; aligned.
            Earlier ones do no harm.
        label_delay_days: days until a verdict is reported; 7 as published.
        list_size: places on a day's list; 100 as published.

    Raises:
        NotMaturedError: the rows left lack a class.
        NightError: a row lies before the first test day.
        ValueError: arrays of different lengths, a target that is not 0 or 1, a score that is no finite number.
    """
    _check(target, score, day, entity)
    if len(known_fraud_day) != len(known_fraud_entity):
        raise ValueError(
            f"known frauds have {len(known_fraud_day)} days and {len(known_fraud_entity)} entities: give one of each per fraud"
        )
    kept = undisclosed(day, entity, known_fraud_day, known_fraud_entity, first_test_day, label_delay_days)
    return measured(day[kept], entity[kept], target[kept], score[kept], list_size)


def measured(day: np.ndarray, entity: np.ndarray, target: np.ndarray, score: np.ndarray, list_size: int) -> FoldMetrics:
    """Measure the rows that the protocol leaves of a fold.

    Raises:
        NotMaturedError: they lack a class.
        ValueError: arrays of different lengths, a target that is not 0 or 1, a score that is no finite number.
    """
    import numpy as np

    return FoldMetrics(
        average_precision=average_precision(target, score),
        roc_auc=roc_auc(target, score),
        card_precision=card_precision(day, entity, target, score, list_size),
        rows=len(day),
        frauds=int(target.sum()),
        days=len(np.unique(day)),
    )


def _list(entity: np.ndarray, target: np.ndarray, score: np.ndarray, list_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The day's listed entities, best first, and whether each was positive."""
    import numpy as np

    entities, place = np.unique(entity, return_inverse=True)
    highest = np.full(len(entities), -np.inf)
    np.maximum.at(highest, place, score)
    positive = np.zeros(len(entities), dtype=bool)
    positive[place[target == 1]] = True
    top = np.lexsort((entities, -highest))[:list_size]
    return entities[top], positive[top]


def _check(target: np.ndarray, score: np.ndarray, *aligned: np.ndarray) -> None:
    import numpy as np

    lengths = [len(array) for array in (target, score, *aligned)]
    if len(set(lengths)) > 1:
        raise ValueError(f"arrays of {lengths} rows are not aligned: give one target, score, day and entity per row")
    strange = ~np.isin(target, (0, 1))
    if strange.any():
        raise ValueError(
            f"{strange.sum()} of {len(target)} targets are neither 0 nor 1: leave out rows without a verdict, they are unknown, not genuine"
        )
    unsound = ~np.isfinite(score)
    if unsound.any():
        raise ValueError(
            f"{unsound.sum()} of {len(score)} scores are no finite numbers: look at the model's inputs, a ranking of these means nothing"
        )


def _check_both_classes(what: str, target: np.ndarray, score: np.ndarray) -> None:
    _check(target, score)
    positive = int((target == 1).sum())
    if not 0 < positive < len(target):
        raise NotMaturedError(
            f"{what} needs both classes and sees {positive} positive of {len(target)} rows: "
            "wait for more matured nights, or look at more of them"
        )
