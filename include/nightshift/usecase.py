"""A use case is data: what is fed, what is learnt, what is judged, as frozen and validated dataclasses.

A use case is a folder under `include/usecases/` whose `usecase.py` holds one `USE_CASE`, with its features in
`dbt_project/models/<name>/`. Nothing else of the platform knows its name.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

from include.nightshift.errors import ConfigurationError
from include.nightshift.rules import BatchRule, FeedRule, RowRule
from include.nightshift.settings import Settings
from include.nightshift.train.recipes import Recipe
from include.nightshift.train.space import Search

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RELATION = re.compile(rf"{_NAME.pattern}\.{_NAME.pattern}")
_CONNECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TYPE = re.compile(r"bigint|int|double|string|date|timestamp|decimal\(\d+,\d+\)")


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{kind} {name!r}: names are lower-case words joined by underscores, they become SQL names")


@dataclass(frozen=True)
class Column:
    """One column of a feed, as silver types it."""

    name: str
    type: str
    comment: str
    required: bool = True
    """A row without a value goes to quarantine."""
    personal: bool = False
    """Names or describes a person: `analyst.*` shows it as a keyed hash."""
    since: str = "1.0.0"
    """The contract version that added it; older files lack it, and their rows hold null."""

    def __post_init__(self) -> None:
        _check_name("column", self.name)
        if not _TYPE.fullmatch(self.type):
            raise ConfigurationError(f"column {self.name}: type {self.type!r} is none of {_TYPE.pattern}")
        if self.personal and self.type == "double":
            raise ConfigurationError(f"column {self.name}: a pseudonym stands for an exact value, which a double is not: write a decimal")


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Where a feed is pulled from when nobody drops it: a relation of a PostgreSQL database that says when each row was last written."""

    connection: str
    """Name of the Airflow connection; address and password live there, never here."""
    relation: str
    """`schema.table` (or view) whose columns bear the feed's names."""
    watermark: str
    """Its column (timestamptz, or timestamp in UTC) that every insert and update sets to the time of writing. The feed need not have it."""
    overlap_hours: int = 24
    """How long a transaction may stay open: a row that is committed up to so much later than its watermark says still comes, once."""

    def __post_init__(self) -> None:
        if not _CONNECTION.fullmatch(self.connection):
            # Not shown: it may be an address with a password in it.
            raise ConfigurationError("pull: `connection` names an Airflow connection (letters, digits and _.-), it is no address")
        if not _RELATION.fullmatch(self.relation):
            raise ConfigurationError(f"pull: relation {self.relation!r} is no schema.table of lower-case words joined by underscores")
        _check_name("watermark", self.watermark)
        if self.overlap_hours < 1:
            raise ConfigurationError(f"pull: overlap_hours is at least 1, not {self.overlap_hours}; no commit is instant")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """A daily drop, `<landing>/<name>/<night>.<suffix>`, times in UTC; what it owes is in its contract."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: str
    """The column that names a row for good."""
    event_time: str
    rules: tuple[RowRule, ...] = ()
    """What each row must keep."""
    batch_rules: tuple[BatchRule, ...] = ()
    """What a night's rows must keep together."""
    feed_rules: tuple[FeedRule, ...] = ()
    """What must hold between this feed and others."""
    version: str = "1.0.0"
    """The contract's version."""
    versions: tuple[str, ...] = ()
    """All versions that the contract has had, the oldest first, this one last."""
    owner: str = ""
    grain: str = ""
    """What one row is, in words."""
    landed_within_hours: float | None = None
    """What the contract promises: hours from the midnight that ends a day to its drop."""
    first_drop: date | None = None
    """First night with a file; earlier nights are empty. None: the feed has always been there."""
    last_drop: date | None = None
    """Last night with a file; later nights are empty. None: the feed goes on."""
    dedup_days: int = 35
    """How many earlier nights a key is looked for, row by row; beyond, where the key ranges of older nights' files allow it."""
    pull: Pull | None = None
    """Set: `ingest.pull` lands the night's file, and an updated row comes again with the night of its update. None: somebody drops it."""

    def __post_init__(self) -> None:
        _check_name("feed", self.name)
        version_number(self.version)
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ConfigurationError(f"feed {self.name}: a column stands twice in {names}")
        for wanted in (self.key, self.event_time):
            if wanted not in names:
                raise ConfigurationError(f"feed {self.name}: {wanted!r} is none of its columns {names}")
        if self.first_drop and self.last_drop and self.last_drop < self.first_drop:
            raise ConfigurationError(f"feed {self.name}: last_drop {self.last_drop} is before first_drop {self.first_drop}")
        rules = [rule.name for rule in (*self.rules, *self.batch_rules, *self.feed_rules)]
        if len(set(rules)) != len(rules):
            raise ConfigurationError(f"feed {self.name}: a rule's name stands twice in {rules}")

    def drops_on(self, night: date) -> bool:
        """Whether a file is owed for this night."""
        return (self.first_drop is None or night >= self.first_drop) and (self.last_drop is None or night <= self.last_drop)

    @property
    def personal(self) -> list[str]:
        """Names of the columns that name or describe a person."""
        return [column.name for column in self.columns if column.personal]

    @property
    def headers(self) -> dict[str, tuple[str, ...]]:
        """The columns that a file may have, by contract version, the newest first."""
        versions = sorted({column.since for column in self.columns}, key=version_number, reverse=True)
        return {version: tuple(c.name for c in self.columns if version_number(c.since) <= version_number(version)) for version in versions}

    @property
    def digest(self) -> str:
        """Changes with everything that decides what becomes of a row; the feed's span and words do not."""
        judged = (self.columns, self.key, self.event_time, self.rules, self.batch_rules, self.dedup_days)
        return hashlib.sha256(repr(judged).encode()).hexdigest()


def version_number(version: str) -> tuple[int, ...]:
    """`1.10.0` as (1, 10, 0), so that versions have an order."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ConfigurationError(f"version {version!r} is no MAJOR.MINOR.PATCH, such as 1.0.0")
    return tuple(int(part) for part in version.split("."))


@dataclass(frozen=True)
class Feature:
    """One column of `gold.<use case>_features` that models read."""

    name: str
    comment: str
    owner: str = ""
    """Who answers for it."""
    calendar: bool = False
    """A function of the date alone: it moves with every week, so no drift is measured of it."""
    cost_seconds: float | None = None
    """What its model takes for a million rows, shared with the other features of that model; None until measured."""
    benefit: float | None = None
    """Average precision that is lost without it; None until measured."""

    def __post_init__(self) -> None:
        _check_name("feature", self.name)


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """What a candidate must show on rows it has never seen, and who must agree."""

    holdout_nights: int = 28
    """Matured nights that judge a candidate which is to improve on the champion or to refresh it; training ends `label_delay_days` before
    the first of them. One week tells 0.06 of average precision from the least gain, four weeks 0.03."""
    short_holdout_nights: int = 7
    """So many where there are no more: a first model's, and those of a world that has changed."""
    error: float = 0.03
    """Chance that a candidate passes which gains no more than the least, or loses just the margin; shared by all that are judged on the
    same nights. Bounds are a little narrower than weeks really scatter, so that what is seen is nearer to 0.05 (`bench/gates.py`)."""
    min_gain: float = 0.01
    """Average precision that a candidate must win in truth to be called an improvement: seeds alone differ by a third of that."""
    margin: float = 0.01
    """Average precision that a refreshed model may lose in truth."""
    card_precision_margin: float = 0.02
    """Card precision that a candidate may lose in truth."""
    calibration_margin: float = 0.1
    """Share of the positives by which a candidate may be worse calibrated than the champion, in the expected calibration error and in
    the relative Brier score."""
    floor_average_precision: float = 0.30
    """What the first model ever must reach, having nobody to beat."""
    floor_calibration: float = 0.5
    """Share of the positives that a first model may promise where they are not."""
    min_frauds: int = 50
    """Fewer positive held-out rows than this are no evidence: wait."""
    approval: Literal["human", "waived"] = "human"
    """Whether a person must agree. Where that is waived, reports are promoted as they pass, and the history says that nobody was asked."""
    approval_hours: float = 72
    """How long a person's answer may take, and how long it holds."""

    def __post_init__(self) -> None:
        if not 1 <= self.short_holdout_nights <= self.holdout_nights or self.min_frauds < 1:
            raise ConfigurationError("gate: 1 <= short_holdout_nights <= holdout_nights, and min_frauds is at least 1")
        if min(self.min_gain, self.margin, self.card_precision_margin, self.calibration_margin) < 0:
            raise ConfigurationError("gate: min_gain and the margins are not negative; a gate that lets losses through is no gate")
        if not 0 < self.error < 0.5:
            raise ConfigurationError(f"gate: error lies in (0, 0.5), not {self.error}; at a half a coin would do")
        if not 0 <= self.floor_average_precision <= 1 or self.floor_calibration <= 0:
            raise ConfigurationError("gate: floor_average_precision lies in 0..1, floor_calibration above 0")
        if self.approval not in ("human", "waived") or not self.approval_hours > 0:
            raise ConfigurationError(f"gate: approval is human or waived, not {self.approval!r}, and approval_hours is above 0")


@dataclass(frozen=True, kw_only=True)
class GuardPolicy:
    """When a night's list is held back, and when it is published with a mark (`score.guards`).

    The defaults let 365 clean nights of the simulated world pass, with month ends, a fifth more or fewer rows from night to night, and one
    promotion (`bench.guards`).
    """

    recent_nights: int = 56
    """Earlier nights whose volume says what a night usually has."""
    enough_nights: int = 3
    """Fewer earlier nights than this, or than this of the same weekday, say nothing."""
    volume: tuple[float, float] = (0.74, 1.7)
    """Least and most share of the usual rows; outside, the list is held. The least lies between half of a full night and a poor one."""
    own_day: float = 0.5
    """Least share of a night's rows that happened on its own day; below, the list is held."""
    reference_nights: int = 7
    """Nights before, scored by the same model, whose scores say what is usual; with fewer than `enough_nights` of them, the rows that the
    model was judged on."""
    distance_odd: float = 0.1
    """Population stability index of the scores against those above which a list is marked."""
    distance_hold: float = 1.0
    """And above which it is held."""
    overlap_least: float = 0.0
    """Least share of the list that was on the list before; below, the list is marked."""
    overlap_odd: float = 0.9
    """Share of the list that was on the list before above which it is marked."""
    overlap_hold: float = 0.99
    """And above which it is held: it is the list before."""

    def __post_init__(self) -> None:
        if not 1 <= self.enough_nights <= min(self.recent_nights, self.reference_nights):
            raise ConfigurationError("guards: 1 <= enough_nights <= recent_nights and reference_nights")
        if not 0 < self.volume[0] <= 1 <= self.volume[1]:
            raise ConfigurationError(f"guards: volume={self.volume}: the least share lies in (0, 1], the most is 1 or more")
        if not 0 <= self.own_day <= 1:
            raise ConfigurationError(f"guards: own_day={self.own_day} is a share: 0..1")
        if not 0 < self.distance_odd <= self.distance_hold:
            raise ConfigurationError("guards: 0 < distance_odd <= distance_hold; without a distance no night is like another")
        if not 0 <= self.overlap_least <= self.overlap_odd <= self.overlap_hold <= 1:
            raise ConfigurationError("guards: 0 <= overlap_least <= overlap_odd <= overlap_hold <= 1")


@dataclass(frozen=True, kw_only=True)
class DriftPolicy:
    """When the watch speaks, and when it asks for a new model."""

    psi_threshold: float = 0.2
    """Population stability index of a column above which its drift verdict is `drifted` (a warning, never a request)."""
    max_loss: float = 0.10
    """Share of the promised average precision that a matured week may lose."""
    nights_violated: int = 3
    """So many of the last `nights_watched` judged nights, the newest among them, must have lost more than that."""
    nights_watched: int = 5
    cooldown_nights: int = 7
    """Nights after a request before another one may be filed."""

    def __post_init__(self) -> None:
        if not 1 <= self.nights_violated <= self.nights_watched:
            raise ConfigurationError("drift: 1 <= nights_violated <= nights_watched")
        if not 0 < self.max_loss < 1 or self.psi_threshold <= 0:
            raise ConfigurationError("drift: max_loss lies in (0, 1), psi_threshold above 0")


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """Everything the platform needs to know to run a night for somebody."""

    name: str
    title: str
    owner: str
    events: Feed
    """The feed whose rows are scored."""
    labels: Feed
    """The feed that tells, late, how they ended. Columns: the events' key, `target`, and its own event time."""
    entity: str
    """The column whose owner is ranked on the morning's list."""
    target: str
    """The column of `labels` that holds 1 for what is looked for."""
    label_delay_days: int
    """Nights until a night's verdicts are complete: night D is matured when drop D + this is in silver."""
    features: tuple[Feature, ...]
    recipes: tuple[Recipe, ...]
    """How its models are made; the first one is what `train` trains unless `candidates` says otherwise."""
    candidates: tuple[str, ...] = ()
    """Names of recipes that `train` trains side by side; the best of them on the last training nights goes before the gate."""
    clusters: tuple[str, ...] = ()
    """Other columns of the events by whose values rows hang together, such as where something was paid: a bound on how much better a
    model is allows for them."""
    list_size: int = 100
    compromised_for_days: int = 7
    """Entities with a positive verdict reported in so many last nights are left out of the list."""
    gate: GatePolicy = field(default_factory=GatePolicy)
    guards: GuardPolicy = field(default_factory=GuardPolicy)
    drift: DriftPolicy = field(default_factory=DriftPolicy)

    def __post_init__(self) -> None:
        _check_name("use case", self.name)
        event_columns = [column.name for column in self.events.columns]
        if self.entity not in event_columns:
            raise ConfigurationError(f"{self.name}: entity {self.entity!r} is none of the columns {event_columns} of {self.events.name}")
        if unknown := [name for name in self.clusters if name not in event_columns or not name.endswith("_id")]:
            raise ConfigurationError(
                f"{self.name}: clusters {unknown} must be columns of {self.events.name} that end in _id: those the features keep"
            )
        label_columns = [column.name for column in self.labels.columns]
        for wanted in (self.events.key, self.target):
            if wanted not in label_columns:
                raise ConfigurationError(f"{self.name}: feed {self.labels.name} lacks {wanted!r}")
        for name in set(event_columns) & set(label_columns):
            if (name in self.events.personal) != (name in self.labels.personal):
                raise ConfigurationError(
                    f"{self.name}: column {name} is personal in one of its feeds only: write `classification: personal` in both contracts"
                )
        if self.label_delay_days < 1 or self.list_size < 1:
            raise ConfigurationError(f"{self.name}: label_delay_days and list_size are at least 1")
        if not self.features or not self.recipes:
            raise ConfigurationError(f"{self.name}: a use case needs features and at least one recipe")
        names = [recipe.name for recipe in self.recipes]
        if len(set(names)) != len(names):
            raise ConfigurationError(f"{self.name}: a recipe's name stands twice in {names}: runs are named by it")
        self._check_recipes(names)

    def _check_recipes(self, names: list[str]) -> None:
        for recipe in self.recipes:
            if unknown := [name for name in recipe.features if name not in self.feature_names]:
                raise ConfigurationError(f"{self.name}: recipe {recipe.name} reads {', '.join(unknown)}, which is none of its features")
        if set(self.candidates) - set(names) or len(set(self.candidates)) != len(self.candidates):
            raise ConfigurationError(f"{self.name}: candidates {list(self.candidates)} must be names of its recipes {names}, each once")
        judged_by = {recipe.name: recipe.search.validation_nights for recipe in self.trained if recipe.search}
        if len(set(judged_by.values())) > 1:
            raise ConfigurationError(
                f"{self.name}: candidates are compared on the same nights, but their searches have other validation_nights: {judged_by}"
            )

    @property
    def feeds(self) -> tuple[Feed, Feed]:
        return (self.events, self.labels)

    @property
    def trained(self) -> tuple[Recipe, ...]:
        """The recipes that `train` trains where nobody asks for others."""
        return self.training(self.candidates or (self.recipes[0].name,))

    def training(self, names: Sequence[str]) -> tuple[Recipe, ...]:
        """The recipes of these names as `train` trains them: where there are several, one without a search gets one of nothing, a figure
        to compare it by.

        Raises:
            ConfigurationError: none is named, or one that there is not, or one twice.
        """
        named = {recipe.name: recipe for recipe in self.recipes}
        if not names or set(names) - set(named) or len(set(names)) != len(names):
            raise ConfigurationError(f"{self.name}: recipes {list(names)} must be some of {list(named)}, each once")
        chosen = [named[name] for name in names]
        if len(chosen) == 1:
            return tuple(chosen)
        nights = next((recipe.search.validation_nights for recipe in chosen if recipe.search), Search().validation_nights)
        return tuple(recipe if recipe.search else replace(recipe, search=Search(validation_nights=nights)) for recipe in chosen)

    @property
    def feature_names(self) -> list[str]:
        return [feature.name for feature in self.features]


def load(name: str, settings: Settings) -> UseCase:
    """The use case of that name, its feeds' spans as this installation sets them.

    Raises:
        ConfigurationError: no such use case is registered here, or its module holds no `USE_CASE`.
    """
    if name not in settings.usecases:
        raise ConfigurationError(f"use case {name!r} is not registered: NIGHTSHIFT_USECASES lists {', '.join(settings.usecases)}")
    try:
        module = importlib.import_module(f"include.usecases.{name}.usecase")
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"use case {name!r} needs include/usecases/{name}/usecase.py: {error}") from error
    use_case = getattr(module, "USE_CASE", None)
    if not isinstance(use_case, UseCase) or use_case.name != name:
        raise ConfigurationError(f"include/usecases/{name}/usecase.py must hold USE_CASE, a UseCase named {name!r}")
    return replace(use_case, events=_spanned(use_case.events, settings), labels=_spanned(use_case.labels, settings))


def registered(settings: Settings) -> list[UseCase]:
    """All use cases of this installation, in the order of the setting."""
    return [load(name, settings) for name in settings.usecases]


def _spanned(feed: Feed, settings: Settings) -> Feed:
    if feed.name not in settings.feed_spans:
        return feed
    first, last = settings.feed_spans[feed.name]
    return replace(feed, first_drop=first, last_drop=last)
