"""Rules: what a contract asks of a batch, and the verdict on each, as frozen values.

Six kinds: schema, range, distribution, duplicates, temporal, consistency. A rule's severity says what a breach does: `reject`
sends the row to quarantine, `stop` keeps the whole batch out, `warn` tells and lets through. Rules of the kind schema need no
line in a contract: every feed has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, ClassVar, Literal

from include.nightshift.errors import ConfigurationError

Severity = Literal["reject", "stop", "warn"]
Kind = Literal["schema", "range", "distribution", "duplicates", "temporal", "consistency"]
Outcome = Literal["passed", "failed", "accepted", "unknown"]

SAMPLE = 5
"""A verdict names so many of the rows that failed, by file and line: never their values, which may be somebody's."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What every rule has."""

    name: str
    severity: Severity
    reason: str
    """What a breach means, in words."""
    allowed: ClassVar[frozenset[str]] = frozenset({"stop", "warn"})

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"rule {self.name!r}: names are lower-case words joined by underscores")
        if self.severity not in self.allowed:
            raise ConfigurationError(f"rule {self.name}: severity {self.severity!r} is none of {sorted(self.allowed)}")


@dataclass(frozen=True, kw_only=True)
class RowRule(Rule):
    """Judges each row by itself."""

    kind: Kind
    breach: str
    """SQL over the feed's typed columns (and `day`), true for a row that breaks the rule. Null counts as kept."""
    allowed: ClassVar[frozenset[str]] = frozenset({"reject", "stop", "warn"})


@dataclass(frozen=True, kw_only=True)
class OwnDay(Rule):
    """At least this share of the rows happened on the night's own day: a file under another day's name is stopped."""

    at_least: float
    kind: ClassVar[Kind] = "temporal"


@dataclass(frozen=True, kw_only=True)
class Volume(Rule):
    """Rows against the median of the same weekday in the last weeks; unknown below two such nights or `min_rows` expected."""

    weeks: int = 4
    at_least: float = 0.5
    at_most: float = 2.0
    min_rows: int = 100
    kind: ClassVar[Kind] = "temporal"


@dataclass(frozen=True, kw_only=True)
class Gaps(Rule):
    """No so many hours of the day in a row without an event, and no night missing before this one."""

    hours: int
    kind: ClassVar[Kind] = "temporal"


@dataclass(frozen=True, kw_only=True)
class Freshness(Rule):
    """The file came within so many hours of the midnight that ends its day; unknown for nights landed as history."""

    hours: float
    kind: ClassVar[Kind] = "temporal"
    allowed: ClassVar[frozenset[str]] = frozenset({"warn"})


@dataclass(frozen=True, kw_only=True)
class Distribution(Rule):
    """A column tonight against the nights before: no further from them than `tolerance` times the furthest of themselves.

    `values`: mean distance of the quantile functions (first Wasserstein distance) over the nights' interquartile range.
    `shares`: half the sum of differences of the categories' shares (total variation). `nulls`: difference of the null shares.
    Each of the K + 1 nights is compared with the mean of the others, so that tonight, were it like them, would be the furthest
    with a probability of 1 / (K + 1) at most (conformal prediction: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random
    World, 2005, section 2.2); a tolerance above 1 makes a false alarm rarer than that.
    """

    column: str
    of: Literal["values", "shares", "nulls"]
    nights: int = 28
    min_nights: int = 14
    tolerance: float = 1.5
    min_rows: int = 100
    kind: ClassVar[Kind] = "distribution"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tolerance < 1 or not 2 <= self.min_nights <= self.nights:
            raise ConfigurationError(f"rule {self.name}: tolerance is at least 1, and 2 <= min_nights <= nights")


@dataclass(frozen=True, kw_only=True)
class Reference(Rule):
    """Each key of this feed stands in another feed, within so many nights before."""

    feed: str
    within_days: int
    at_most: float = 0.0
    """Share of rows that may lack theirs."""
    kind: ClassVar[Kind] = "consistency"


@dataclass(frozen=True, kw_only=True)
class Counts(Rule):
    """Rows of this feed's night against those of another feed's night, so many days before."""

    feed: str
    lag_days: int
    at_least: float
    at_most: float
    kind: ClassVar[Kind] = "consistency"


BatchRule = OwnDay | Volume | Gaps | Freshness | Distribution
FeedRule = Reference | Counts


def outcome(passed: bool | None) -> Outcome:
    """The word for a judgement; None is too little to judge by."""
    return "unknown" if passed is None else "passed" if passed else "failed"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one rule says of one batch."""

    feed: str
    night: date
    rule: str
    kind: Kind
    severity: Severity
    outcome: Outcome
    rows: int = 0
    """Rows judged."""
    failed_rows: int = 0
    sample: tuple[str, ...] = ()
    """Up to `SAMPLE` failed rows, as file:line."""
    reason: str = ""
    """What was seen and what was expected."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What the judgement rests on; later nights are compared with it."""
    batch: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome != "failed"

    @property
    def stops(self) -> bool:
        return self.outcome == "failed" and self.severity == "stop"

    def __str__(self) -> str:
        rows = f", {self.failed_rows} of {self.rows} rows" if self.failed_rows else ""
        where = f" ({', '.join(self.sample)})" if self.sample else ""
        return f"{self.feed} {self.night}: {self.rule} [{self.kind}, {self.severity}] {self.outcome}{rows}: {self.reason}{where}"
