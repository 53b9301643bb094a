"""The scan itself: compute the features of a world, change it, compute them again, and tell what moved.

What is scanned is any function of the two tables; `models` makes one of a use case's dbt models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import ConfigurationError, ContractError
from include.nightshift.features import project
from include.nightshift.features.leaks.changes import MATTERS, ONCE, SINGLY, TOGETHER, Change, Step, together
from include.nightshift.features.leaks.world import Cut, Hand, Row, Rows, World, as_silver, cuts, made_up
from include.nightshift.lakehouse import tables, writes

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

Compute = Callable[["pa.Table", "pa.Table", Sequence[date]], "pa.Table"]
"""Events, verdicts (the columns of silver) and the nights asked for, to a row of features by event of those nights: key and features."""

NO_ROW = "no row"


@dataclass(frozen=True)
class Leak:
    """A feature that moved with what must not matter to it."""

    feature: str
    perturbation: str
    key: Any
    """The first event whose feature moved."""
    before: Any
    after: Any
    events: int
    """So many moved."""

    def __str__(self) -> str:
        return f"{self.feature} moved with {self.perturbation}: {self.events} events, such as {self.key}, {self.before} -> {self.after}"


@dataclass(frozen=True)
class Scan:
    """What became of the features of one use case."""

    use_case: str
    features: tuple[str, ...]
    leaks: tuple[Leak, ...]
    dead: tuple[str, ...]
    """Features that nothing moved, not even what must matter."""
    blind: tuple[str, ...]
    """What must matter and moved no feature at all: then a pass would say nothing."""
    probed: int
    """Events whose features were compared, counted anew in each changed world."""
    worlds: int
    """Changed worlds computed."""
    seconds: float

    @property
    def passed(self) -> bool:
        return not (self.leaks or self.dead or self.blind)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it failed, a sentence for each finding; or what was seen to stand still."""
        found = [
            *map(str, self.leaks),
            *(f"{feature} is dead: nothing that must matter moved it" for feature in self.dead),
            *(f"{what} moved no feature: the scan is blind to them, or the models never read them" for what in self.blind),
        ]
        still = f"{len(self.features)} features of {self.probed} events stood still in {self.worlds} changed worlds"
        return tuple(found) or (still,)

    def __str__(self) -> str:
        """A small table for people, a line a feature."""
        verdicts = {feature: "dead" if feature in self.dead else "ok" for feature in self.features}
        verdicts |= {leak.feature: "leak" for leak in self.leaks}
        wide = max(map(len, verdicts))
        head = f"{self.use_case}: {'passed' if self.passed else 'FAILED'} in {self.seconds:.0f} s, {self.worlds} changed worlds"
        return "\n".join([head, *(f"  {feature:{wide}}  {verdict}" for feature, verdict in verdicts.items()), *self.reasons])


@dataclass
class Trial:
    """One made-up world, its features, and what changes of it did to them."""

    use_case: UseCase
    compute: Compute
    seed: int
    probed: int = 0
    worlds: int = 0

    @cached_property
    def world(self) -> World:
        return made_up(self.use_case, self.seed)

    @cached_property
    def rows(self) -> Rows:
        return Rows(self.world.events.to_pylist(), self.world.verdicts.to_pylist())

    @cached_property
    def nights(self) -> tuple[date, ...]:
        return tuple(sorted({event["day"] for event in self.rows.events}))

    @cached_property
    def base(self) -> dict[Any, Row]:
        base = self._computed(Step(self.rows, set()))
        if lost := {event[self.use_case.events.key] for event in self.rows.events} - base.keys():
            raise ContractError(
                f"{self.use_case.name}: {len(lost)} of {len(self.rows.events)} events have no row of features, such as {min(lost)}: "
                "look for an inner join that should be a left one"
            )
        return base

    def leaks(self, places: Sequence[Cut]) -> Iterator[Leak]:
        """What moved and must not."""
        for name, change in ONCE.items():
            yield from self.moved(name, change, places[0])
        for cut in places:
            if moved := self.moved(TOGETHER, together, cut):
                singly = [leak for name, change in SINGLY.items() for leak in self.moved(name, change, cut)]
                yield from singly
                told = {leak.feature for leak in singly}
                yield from (leak for leak in moved if leak.feature not in told)

    def moved(self, name: str, change: Change, cut: Cut) -> list[Leak]:
        """What moved, by feature."""
        step = change(Hand(self.use_case, f"{name} {self.seed} {cut.at} {cut.night}", 50_000_000), self.rows, cut)
        if (step.rows == self.rows and step.nights in (None, self.nights)) or not step.compared:
            raise ConfigurationError(
                f"{self.use_case.name}, seed {self.seed}, cut at {cut.at} in night {cut.night}: {name} changed nothing, or left nothing to "
                "compare, so that the scan would show nothing. Take another seed; if it stays, the feeds lack what it changes"
            )
        after = self._computed(step)
        self.probed, self.worlds = self.probed + len(step.compared), self.worlds + 1
        found = []
        for feature in self.features:
            pairs = ((key, self.base[key][feature], after.get(key, {}).get(feature, NO_ROW)) for key in sorted(step.compared))
            different = [(key, old, new) for key, old, new in pairs if not _same(old, new)]
            if different:
                found.append(Leak(feature, name, *different[0], events=len(different)))
        return found

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(next(iter(self.base.values())))

    def _computed(self, step: Step) -> dict[Any, Row]:
        table = self.compute(*as_silver(self.use_case, step.rows), step.nights or self.nights)
        key = self.use_case.events.key
        features = {row.pop(key): row for row in table.to_pylist()}
        if len(features) != table.num_rows:
            raise ContractError(
                f"{self.use_case.name}: {table.num_rows} rows of features for {len(features)} events: look for a join that doubles rows"
            )
        return features


def _same(one: Any, other: Any) -> bool:
    """Equal to the last bit; NaN equals itself."""
    return bool(one == other or (one != one and other != other))


def scan(use_case: UseCase, compute: Compute, *, seeds: Iterable[int] = (1,), cuts_each: int = 2, verdicts_matter: bool = True) -> Scan:
    """Scan all features that `compute` returns, in one made-up world a seed, each cut a few times.

    Args:
        verdicts_matter: whether at least one feature must follow the verdicts that were known; False for models that read none.

    Raises:
        ConfigurationError: the use case's shape leaves nothing to change.
        ContractError: `compute` loses or doubles events.
    """
    started = time.monotonic()
    leaks: dict[tuple[str, str], Leak] = {}
    answered: dict[str, set[str]] = {name: set() for name in MATTERS}
    trials = [Trial(use_case, compute, seed) for seed in seeds]
    if not trials or cuts_each < 1:
        raise ConfigurationError("a leak scan needs at least one seed and one cut")
    for trial in trials:
        places = cuts(use_case, trial.world, trial.seed, cuts_each)
        for leak in trial.leaks(places):
            first = leaks.get((leak.feature, leak.perturbation), replace(leak, events=0))
            leaks[leak.feature, leak.perturbation] = replace(first, events=first.events + leak.events)
        for name, change in MATTERS.items():
            answered[name] |= {moved.feature for moved in trial.moved(name, change, places[0])}
    features = trials[0].features
    alive = set().union(*answered.values())
    return Scan(
        use_case=use_case.name,
        features=features,
        leaks=tuple(sorted(leaks.values(), key=lambda leak: (features.index(leak.feature), leak.perturbation))),
        dead=tuple(feature for feature in features if feature not in alive),
        blind=tuple(_blind(answered, verdicts_matter)),
        probed=sum(trial.probed for trial in trials),
        worlds=sum(trial.worlds for trial in trials),
        seconds=time.monotonic() - started,
    )


def _blind(answered: Mapping[str, set[str]], verdicts_matter: bool) -> Iterable[str]:
    if verdicts_matter and not answered["verdicts that were known"]:
        yield "verdicts that were known"
    # Features of the event alone need no history, neither in time nor late.
    if answered["past events"] and not answered["late rows that were known"]:
        yield "late rows that were known"


def models(session: SparkSession, settings: Settings, use_case: UseCase) -> Compute:
    """The use case's dbt models, over views of the tables given."""
    compiled = project.compiled(session, settings, use_case)

    def compute(events: pa.Table, verdicts: pa.Table, nights: Sequence[date]) -> pa.Table:
        views = {}
        for feed, table in zip(use_case.feeds, (events, verdicts), strict=True):
            view = views[str(tables.silver(feed))] = f"leaks_{feed.name}"
            parts = max(column.num_chunks for column in table.columns)
            frame = writes.in_memory(session, table)
            (frame if parts == 1 else frame.repartition(parts)).createOrReplaceTempView(view)
        try:
            with compiled.over(session, settings, nights, views) as frame:
                return frame.select(use_case.events.key, *use_case.feature_names).toArrow()
        finally:
            for view in views.values():
                session.catalog.dropTempView(view)

    return compute


def scan_models(session: SparkSession, settings: Settings, use_case: UseCase, *, seeds: Iterable[int] = (1,), cuts_each: int = 2) -> Scan:
    """Scan a use case's own features. A minute or two for a seed.

    Raises:
        ConfigurationError: the use case's shape leaves nothing to change.
        ContractError: dbt cannot compile the models, or they lose or double events.
    """
    queries = [query for _, query in project.compiled(session, settings, use_case).models]
    reads = any(str(tables.silver(use_case.labels)) in query for query in queries)
    return scan(use_case, models(session, settings, use_case), seeds=seeds, cuts_each=cuts_each, verdicts_matter=reads)
