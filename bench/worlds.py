"""Simulated worlds with fresh weeks, as `bench.gates` judges them: each is lived once, ranked by models of different worth, and kept.

The world is the one that ships (`card_fraud.world`), its windows are of the published kind, its models XGBoost's. They learn on eight weeks
and never again; after a week for verdicts to come in, all later weeks are fresh: what a model is worth is known from them, exactly.

A world is a file of some fifty megabytes; one that is there is left alone. Two makers of one world write the same file, each in one act.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from include.nightshift.promote import metrics
from include.usecases.card_fraud.world import Simulator, World

FIRST = date(2024, 1, 1)
"""First fresh day, a Monday."""
DELAY = 7
"""Days until a verdict is reported."""
SIZE = 9_600
"""Transactions a day, as in the reference data."""
WEEKS, TRAINED, LEAD = 54, 8, 5
"""Fresh weeks; weeks that are learnt from; weeks before these, for windows to fill."""
SPAN = 12.0
"""Logits are kept from minus to plus this."""
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Model:
    """What a model sees and how it learns."""

    more: bool = False
    """Features beyond the published ones."""
    weeks: int = TRAINED
    depth: int = 4
    rounds: int = 60
    seed: int = 1


MODELS = {
    "week": Model(weeks=1, depth=3),
    "span": Model(),
    "more": Model(more=True, depth=5),
    "twin": Model(more=True, depth=5, seed=2),
}
"""From the weakest to the strongest, and the strongest once more with other dice."""


@dataclass(frozen=True, eq=False)
class Fresh:
    """The fresh weeks of a world, one entry per row in order of time, and what each model says of them."""

    seed: int
    day: np.ndarray
    """From 0, the first fresh day."""
    entity: np.ndarray
    terminal: np.ndarray
    target: np.ndarray
    known_day: np.ndarray
    """Of every fraud since two delays before day 0; below 0 before it."""
    known_entity: np.ndarray
    logit: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, path: Path) -> Fresh:
        with np.load(path) as kept:
            logit = {name: _opened(kept[f"logit_{name}"]) for name in MODELS}
            return cls(
                int(kept["seed"]),
                kept["day"],
                kept["entity"],
                kept["terminal"],
                kept["target"],
                kept["known_day"],
                kept["known_entity"],
                logit,
            )

    @property
    def weeks(self) -> int:
        return int(self.day[-1]) // 7 + 1

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each week begins, and where the last one ends."""
        return np.searchsorted(self.day, 7 * np.arange(self.weeks + 1))

    @cached_property
    def left(self) -> np.ndarray:
        """The rows that the protocol leaves, each week being a fold of its own."""
        kept = np.empty(len(self.day), bool)
        for week in range(self.weeks):
            rows = slice(*self.starts[week : week + 2])
            known, first = (days(self.known_day), self.known_entity), FIRST + timedelta(days=7 * week)
            kept[rows] = metrics.undisclosed(days(self.day[rows]), self.entity[rows], *known, first, DELAY)
        return kept


def days(number: np.ndarray) -> np.ndarray:
    """Dates of days that count from the first fresh one."""
    return np.datetime64(FIRST) + number.astype("timedelta64[D]")


def path(folder: Path, seed: int) -> Path:
    return folder / f"world-{seed:03d}.npz"


def make(folder: Path, seeds: range, processes: int, weeks: int = WEEKS, size: int = SIZE) -> Iterator[str]:
    """Make the worlds that are not there, each in a process that gives way to whatever else runs; says what each took."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not path(folder, seed).exists()]
    if not missing:
        return
    # XGBoost's threads would spin between trees, on cores that others want.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=os.nice, initargs=(10,)) as apart:
        yield from apart.map(_make, *zip(*((folder, seed, weeks, size) for seed in missing), strict=True))


def _make(folder: Path, seed: int, weeks: int, size: int) -> str:
    began = time.monotonic()
    rows = live(seed, weeks, size)
    kept = ranked(rows)
    unfinished = folder / f".{path(folder, seed).name}.{os.getpid()}"
    with unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, seed=np.array(seed), **kept)
    unfinished.rename(path(folder, seed))
    return f"world {seed}: {len(rows['day']):,} rows lived in {time.monotonic() - began:.0f} s"


def live(seed: int, weeks: int, size: int) -> dict[str, np.ndarray]:
    """All weeks of a world, the last `weeks` of them fresh; in order of time."""
    simulator = Simulator(World.of_size(size, seed=seed))
    before = 7 * (LEAD + TRAINED + 1)
    lived = [simulator.day(FIRST + timedelta(days=day)) for day in range(-before, 7 * weeks)]
    return {
        "day": np.repeat(np.arange(-before, 7 * weeks), [len(day) for day in lived]),
        "second": np.concatenate([day.tx_datetime for day in lived]).astype(np.int64),
        "entity": np.concatenate([day.customer_id for day in lived]).astype(np.uint16),
        "terminal": np.concatenate([day.terminal_id for day in lived]).astype(np.uint16),
        "amount": np.concatenate([day.cents for day in lived]) / 100,
        "target": np.concatenate([day.fraud > 0 for day in lived]).astype(np.int8),
    }


def ranked(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a world's file holds: its fresh rows, the frauds that were known, and every model's logits, in 65,536 steps."""
    day, target = rows["day"], rows["target"]
    fresh = day >= 0
    known = (target == 1) & (day >= -2 * DELAY)
    published, more = features(rows)
    return {
        "day": day[fresh].astype(np.int16),
        "entity": rows["entity"][fresh],
        "terminal": rows["terminal"][fresh],
        "target": target[fresh],
        "known_day": day[known].astype(np.int16),
        "known_entity": rows["entity"][known],
        **{
            f"logit_{name}": _closed(_logits(model, [*published, *more] if model.more else published, target, _learnt(day, model), fresh))
            for name, model in MODELS.items()
        },
    }


def features(rows: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The columns that are published, and those beyond them."""
    amount, target = rows["amount"], rows["target"].astype(np.float64)
    by_customer, by_terminal = Windows(rows, "entity", 0), Windows(rows, "terminal", DELAY)
    customer = [amount.astype(np.float32), *by_customer.of(amount, 1, 7, 30)]
    published = [*customer, *by_terminal.of(target, 1, 7, 30)]
    ratio = (amount / np.maximum(customer[-1], 0.01)).astype(np.float32)
    outliers = by_customer.of((ratio > 3).astype(np.float64), 14)
    # Frauds that a terminal, and not its customer's card, is to blame for.
    ordinary = by_terminal.of(np.where(ratio < 2, target, 0.0), 14, 21)[1::2]
    return published, [ratio, *outliers, *ordinary]


class Windows:
    """Counts and means of an entity's rows in the days before each row."""

    def __init__(self, rows: Mapping[str, np.ndarray], entity: str, delay: int) -> None:
        """Windows end `delay` days before the row; without a delay they hold the row itself."""
        self.order = np.argsort(rows[entity], kind="stable")
        second = rows["second"][self.order] - rows["second"].min()
        # One number for entity and time, so that one search finds a window's end among all entities'.
        self.home = rows[entity][self.order].astype(np.int64) << 40
        self.until = second - delay * SECONDS_PER_DAY
        self.key = self.home + second
        self.end = self._place(self.until)

    def of(self, value: np.ndarray, *spans: int) -> list[np.ndarray]:
        """Count and mean for each span of days."""
        total = np.concatenate([[0.0], np.cumsum(value[self.order])])
        found = []
        for span in spans:
            start = self._place(self.until - span * SECONDS_PER_DAY)
            count = self.end - start
            found += [count, (total[self.end] - total[start]) / np.maximum(count, 1)]
        return [self._back(column) for column in found]

    def _place(self, second: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.key, self.home + np.maximum(second, -1), "right")

    def _back(self, column: np.ndarray) -> np.ndarray:
        back = np.empty(len(column), np.float32)
        back[self.order] = column
        return back


def _learnt(day: np.ndarray, model: Model) -> np.ndarray:
    """The rows of the model's weeks, whose last verdict has come when day 0 begins."""
    return (day < -DELAY) & (day >= -DELAY - 7 * model.weeks)


def _logits(model: Model, columns: list[np.ndarray], target: np.ndarray, learnt: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    import xgboost as xgb

    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": model.depth,
        "learning_rate": 0.15,
        "subsample": 0.7,
        "colsample_bytree": 0.7,
        "min_child_weight": 10,
        "seed": model.seed,
        "nthread": 1,
    }
    rows = xgb.QuantileDMatrix(np.column_stack([column[learnt] for column in columns]), target[learnt], nthread=1)
    booster = xgb.train(parameters, rows, model.rounds)
    where, parts = np.flatnonzero(fresh), []
    for start in range(0, len(where), 1 << 18):
        part = np.column_stack([column[where[start : start + (1 << 18)]] for column in columns])
        parts.append(booster.inplace_predict(part, predict_type="margin"))
    return np.concatenate(parts)


def _closed(logit: np.ndarray) -> np.ndarray:
    return np.rint((np.clip(logit, -SPAN, SPAN) + SPAN) * (65_535 / (2 * SPAN))).astype(np.uint16)


def _opened(step: np.ndarray) -> np.ndarray:
    return (step * np.float32(2 * SPAN / 65_535) - np.float32(SPAN)).astype(np.float32)
