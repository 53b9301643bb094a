"""Guards: what a night's scores and list must show before the list is published.

Each guard is a small function of (seen, policy) that returns a `Verdict`. All of them run and none hides another. They fail closed: a guard
that raises has seen a fault of its kind. The kind says what follows:

- *data*: the rows themselves are not to be trusted, so no model can help. Tonight's list is held, the list before stays, marked stale.
- *model*: the rows are sound and the scores are not. Scored again by a model that was verified, then by a linear one; marked.
- *odd*: nothing is wrong that could be named, and yet it looks like no other night. Published and marked; held only beyond a hard bound.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from include.nightshift.monitor import drift

if TYPE_CHECKING:
    import numpy as np

    from include.nightshift.usecase import GuardPolicy

Kind = Literal["data", "model", "odd"]
Outcome = Literal["passed", "odd", "again", "hold"]
"""What follows: nothing, a mark, scoring again, or no list."""

BREACH: Mapping[Kind, Outcome] = {"data": "hold", "model": "again", "odd": "odd"}
BINS = 10
"""Quantile bins of a distribution of scores."""
NOISE = 3.0
"""So many times what two samples of one distribution are apart by chance alone counts as chance."""


@dataclass(frozen=True)
class Checked:
    """What the parity check said of the night (`ops.parity`)."""

    rows: int
    """Rows that were computed anew."""
    different: int
    columns: tuple[str, ...] = ()
    """Which differ: features, or score."""


@dataclass(frozen=True)
class Distance:
    """How far the night's scores are from those of the nights before."""

    value: float
    """Population stability index."""
    rows: int
    reference_rows: int
    reference: str
    """What they are held against, in words."""

    @classmethod
    def between(cls, reference: Mapping[str, Any], scores: np.ndarray, words: str) -> Distance | None:
        """From what `drift.reference` made of one column; None where either side has no rows."""
        if not reference["n"] or not len(scores):
            return None
        return cls(drift.population_stability_index(reference, scores), len(scores), int(reference["n"]), words)

    @property
    def chance(self) -> float:
        """The index that two samples of one distribution have at most: it falls with their rows."""
        return NOISE * (BINS - 1) * (1 / self.rows + 1 / self.reference_rows)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The figures of one night, as they were when its scores had been written."""

    night: date
    owed: bool = True
    """Whether the feed owes a file for the night: an empty night is a fault only where one is owed."""
    events: int
    """Rows of the night in silver."""
    features: int
    """Rows of the night in the features, and below how many of them are one too many."""
    features_doubled: int = 0
    scores: int
    """The champion's rows of the night, and below how many of them are one too many."""
    scores_doubled: int = 0
    strangers: int = 0
    """Scored rows whose event is not among the night's features."""
    own_day: float | None
    """Share of the features' rows that happened on the night's own day; None without rows."""
    recent: Mapping[date, int]
    """Rows of the features of earlier nights."""
    columns: tuple[str, ...] = ()
    """What is wrong with the columns of features and scores, in words."""
    parity: Checked | None
    """None: nobody checked."""
    unknown: int = 0
    """Scores that are null or no finite number."""
    outside: int = 0
    """Scores outside 0..1."""
    distinct: int
    """Different scores."""
    versions: tuple[str, ...]
    """The model versions that the rows bear."""
    expected: str | None
    """The version that should have scored the night."""
    distance: Distance | None
    """None: nothing to hold the scores against."""
    entities: int
    """Entities among the scored rows."""
    listed: int
    """Entities on tonight's list."""
    repeated: int | None
    """How many of them are on the list of the night before; None where there is none."""


@dataclass(frozen=True)
class Verdict:
    """What one guard says of one night."""

    guard: str
    kind: Kind
    outcome: Outcome
    reasons: tuple[str, ...]
    """At least one sentence, for a pass as well: what was seen, and what was expected."""

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"

    def __str__(self) -> str:
        return f"{self.guard} ({self.kind}): {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Judged:
    """What all guards say of one night."""

    night: date
    verdicts: tuple[Verdict, ...] = field(default=())

    @property
    def outcome(self) -> Outcome:
        """What follows. A fault of the data comes first, because no model mends it; then one of the model, because what is odd about its
        scores may go with it. Without verdicts nothing is published."""
        found = {(verdict.kind, verdict.outcome) for verdict in self.verdicts}
        if not found or ("data", "hold") in found:
            return "hold"
        if ("model", "again") in found:
            return "again"
        odd = {outcome for kind, outcome in found if kind == "odd"}
        return "hold" if "hold" in odd else "odd" if "odd" in odd else "passed"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every breach in words; nothing where all passed."""
        return tuple(map(str, (verdict for verdict in self.verdicts if not verdict.passed)))


Guard: TypeAlias = Callable[[Seen, "GuardPolicy"], Verdict]


def whole(seen: Seen, policy: GuardPolicy) -> Verdict:
    """Every event has its features, every row of features its score; and a night that owes a file has events."""
    faults = []
    if seen.owed and not seen.events:
        faults.append("silver holds no event of the night, and its feed owes a file: run `ingest` of the night")
    for what, rows, expected, of in (
        ("features", seen.features, seen.events, "silver"),
        ("scores", seen.scores, seen.features, "features"),
    ):
        if rows != expected:
            faults.append(f"{rows:,} rows of {what}, expected the {expected:,} of {of}: run the stage again")
    return _verdict(whole, "data", faults, f"{seen.events:,} events, as many rows of features and of scores")


def single(seen: Seen, policy: GuardPolicy) -> Verdict:
    """No event stands twice."""
    counts = (("features", seen.features_doubled), ("scores", seen.scores_doubled))
    faults = [f"{rows:,} rows of {what} stand twice, expected none: build the night again" for what, rows in counts if rows]
    return _verdict(single, "data", faults, "no event stands twice")


def volume(seen: Seen, policy: GuardPolicy) -> Verdict:
    """About as many rows as recent nights had, or recent nights of the same weekday; whichever is nearer counts."""
    if not seen.owed and not seen.events:
        return _verdict(volume, "data", [], "no file is owed for the night, and none came")
    if len(seen.recent) < policy.enough_nights:
        seen_so_far = f"{len(seen.recent)} earlier nights have features, {policy.enough_nights} are needed to tell what a night usually has"
        return _verdict(volume, "data", [], seen_so_far)
    weekday = [rows for night, rows in seen.recent.items() if night.weekday() == seen.night.weekday()]
    usual = [statistics.median(rows) for rows in (list(seen.recent.values()), weekday) if len(rows) >= policy.enough_nights]
    shares = [seen.features / rows for rows in usual if rows]
    if not shares:
        return _verdict(volume, "data", [], "earlier nights were empty")
    share = min(shares, key=lambda share: abs(math.log(share)) if share else math.inf)
    words = f"{seen.features:,} rows are {share:.0%} of what recent nights had"
    low, high = policy.volume
    faults = [] if low <= share <= high else [f"{words}, expected {low:.0%} to {high:.0%}: see what the source sent"]
    return _verdict(volume, "data", faults, words)


def own_night(seen: Seen, policy: GuardPolicy) -> Verdict:
    """The rows are the night's own: most of them happened on its day, and every score is of one of them."""
    faults = []
    if seen.strangers:
        faults.append(f"{seen.strangers:,} scores are of events that the night's features do not have: score the night again")
    if seen.own_day is not None and seen.own_day < policy.own_day:
        faults.append(
            f"{seen.own_day:.0%} of the rows happened on the night's day, expected {policy.own_day:.0%} or more: another night's file?"
        )
    share = "nothing happened" if seen.own_day is None else f"{seen.own_day:.0%} of the rows happened on the night's day"
    return _verdict(own_night, "data", faults, share)


def columns(seen: Seen, policy: GuardPolicy) -> Verdict:
    """Features and scores have the columns that they are declared with."""
    return _verdict(columns, "data", list(seen.columns), "features and scores have their columns")


def parity(seen: Seen, policy: GuardPolicy) -> Verdict:
    """The features are what silver gives."""
    if seen.parity is None or (seen.scores and not seen.parity.rows):
        return _verdict(parity, "data", ["no row was computed anew: run `parity` of the night"], "")
    moved = [column for column in seen.parity.columns if column != "score"]
    words = f"{seen.parity.rows:,} rows computed anew from silver"
    faults = [
        f"{words}, {', '.join(moved) or 'something'} differs in some: build the night's features again (`ops.parity` has the figures)"
    ]
    # Rows that differ in no column that is named differ in what cannot be told.
    apart_somewhere = moved or (seen.parity.different and not seen.parity.columns)
    return _verdict(parity, "data", faults if apart_somewhere else [], f"{words}, all features the same")


def anew(seen: Seen, policy: GuardPolicy) -> Verdict:
    """The model gives the sampled rows the scores that were written."""
    if seen.parity is None:
        return _verdict(anew, "model", [], "no row was computed anew, which `parity` holds against the night")
    faults = []
    if "score" in seen.parity.columns and len(seen.parity.columns) == 1:
        faults.append(f"of {seen.parity.rows:,} rows computed anew the features are the same and {seen.parity.different:,} scores are not")
    return _verdict(anew, "model", faults, f"{seen.parity.rows:,} scores computed anew")


def numbers(seen: Seen, policy: GuardPolicy) -> Verdict:
    """Every score is a probability."""
    counts = (("are no finite number", seen.unknown), ("lie outside 0..1", seen.outside))
    faults = [f"{rows:,} of {seen.scores:,} scores {what}, expected none" for what, rows in counts if rows]
    return _verdict(numbers, "model", faults, f"{seen.scores:,} probabilities")


def apart(seen: Seen, policy: GuardPolicy) -> Verdict:
    """Not all rows have the same score: that would rank nothing."""
    same = seen.scores > 1 and seen.distinct <= 1
    faults = [f"all {seen.scores:,} rows have the same score, expected a ranking"] if same else []
    return _verdict(apart, "model", faults, f"{seen.distinct:,} different scores")


def version(seen: Seen, policy: GuardPolicy) -> Verdict:
    """The rows were scored by the version that should have scored them."""
    theirs = ", ".join(seen.versions) or "nobody"
    faults = [f"scored by {theirs}, expected version {seen.expected}"] if seen.scores and seen.versions != (seen.expected,) else []
    return _verdict(version, "model", faults, f"scored by {theirs}")


def distribution(seen: Seen, policy: GuardPolicy) -> Verdict:
    """The scores are spread as those of the nights before, but for what chance does to so few rows."""
    if seen.distance is None:
        return _verdict(distribution, "odd", [], "nothing to hold the scores against")
    words = f"stability index {seen.distance.value:.3f} against {seen.distance.reference}"
    bounds = [bound + seen.distance.chance for bound in (policy.distance_odd, policy.distance_hold)]
    return _odd(distribution, seen.distance.value, bounds, words)


def overlap(seen: Seen, policy: GuardPolicy) -> Verdict:
    """Some of tonight's list were on the list before, and not all: entities stay suspicious for days, and are found in the end.

    Not judged where the list is so long that most entities stand on it anyway.
    """
    if seen.repeated is None or not seen.listed or seen.entities < 2 * seen.listed:
        return _verdict(overlap, "odd", [], "no list before that tonight's could be held against")
    share = seen.repeated / seen.listed
    words = f"{seen.repeated} of {seen.listed} were on the list before"
    if share < policy.overlap_least:
        return _verdict(overlap, "odd", [f"{words}, expected {policy.overlap_least:.0%} or more"], words)
    return _odd(overlap, share, (policy.overlap_odd, policy.overlap_hold), words)


GUARDS: Mapping[Guard, Kind] = {
    whole: "data",
    single: "data",
    volume: "data",
    own_night: "data",
    columns: "data",
    parity: "data",
    anew: "model",
    numbers: "model",
    apart: "model",
    version: "model",
    distribution: "odd",
    overlap: "odd",
}
"""All guards, each with its kind, which also counts where it cannot judge."""


def judge(seen: Seen, policy: GuardPolicy) -> Judged:
    """Run every guard. It never raises: what a guard raises is a breach of its kind, and of what is odd one that holds."""
    return Judged(seen.night, tuple(_run(guard, kind, seen, policy) for guard, kind in GUARDS.items()))


def _run(guard: Guard, kind: Kind, seen: Seen, policy: GuardPolicy) -> Verdict:
    try:
        return guard(seen, policy)
    except Exception as error:  # noqa: BLE001 - fail closed: what cannot be judged is a breach, and the verdict says why
        outcome: Outcome = "hold" if kind == "odd" else BREACH[kind]
        return Verdict(guard.__name__, kind, outcome, (f"could not be judged ({type(error).__name__}: {error})",))


def _verdict(guard: Guard, kind: Kind, faults: list[str], words: str) -> Verdict:
    return Verdict(guard.__name__, kind, BREACH[kind] if faults else "passed", tuple(faults) or (words,))


def _odd(guard: Guard, value: float, bounds: tuple[float, float] | list[float], words: str) -> Verdict:
    """By a soft bound and a hard one; what is no number is beyond both."""
    odd, hold = bounds
    outcome: Outcome = "passed" if value <= odd else "odd" if value <= hold else "hold"
    expected = {"passed": "", "odd": f", expected {odd:.3g} at most", "hold": f", and beyond {hold:.3g} nothing is published"}[outcome]
    return Verdict(guard.__name__, "odd", outcome, (words + expected,))
