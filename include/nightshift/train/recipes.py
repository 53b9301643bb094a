"""Recipes: how a model is made, as frozen and validated data. Importing this costs nothing, so a use case can hold them.

A recipe's kind names the learner that makes it (`train.learner`) and the form of the model that comes out (`train.models`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, ClassVar, get_type_hints

from include.nightshift.errors import ConfigurationError
from include.nightshift.train import space
from include.nightshift.train.space import Search, Value

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_NOT_SEARCHED = {"name", "search", "seed", "features", "train_nights"}
"""Fields that make no better recipe; the best of several seeds is the luckiest one."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all recipes have. A run trains one of the kinds below."""

    kind: ClassVar[str]
    """Stands in `run.json`, so that reading it gives the right type."""

    looks_back: ClassVar[bool] = False
    """Whether a row's score looks at the same entity's rows before it."""

    name: str
    seed: int = 20180401
    search: Search | None = None
    """Look for a better recipe of this kind first, and train that one."""
    features: tuple[str, ...] = ()
    """What it reads, in this order; nothing here: all features of the use case."""
    train_nights: int | None = None
    """So many last nights are trained on; None: all that there are."""

    def __post_init__(self) -> None:
        # From JSON it comes as a list.
        object.__setattr__(self, "features", tuple(self.features))
        if len(set(self.features)) != len(self.features):
            raise ConfigurationError(f"recipe {self.name}: a feature stands twice in {', '.join(self.features)}")
        if self.train_nights is not None and self.train_nights < 1:
            raise ConfigurationError(f"recipe {self.name}: train_nights is at least 1, not {self.train_nights}")
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"recipe {self.name!r}: names are lower-case words joined by underscores, they become names of runs")
        if self.search is not None:
            self._check_space(self.search)

    def told(self) -> dict[str, Any]:
        """As `run.json` has it: the kind, and every field; the search only where there is one."""
        told = {"kind": self.kind, **asdict(self), "features": list(self.features)}
        if self.search is None:
            del told["search"]
        return told

    def varied(self, parameters: Mapping[str, Value]) -> Recipe:
        """This recipe with other values of some fields, and nothing to search.

        Raises:
            ConfigurationError: they cannot be together.
        """
        changes: dict[str, Any] = {**parameters, "search": None}
        return replace(self, **changes)

    def _check_space(self, search: Search) -> None:
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_SEARCHED}
        try:
            space.check(search, own, get_type_hints(type(self)))
            for name, values in search.space.items():
                for value in values.ends:
                    self.varied({name: value})
        except ConfigurationError as error:
            raise ConfigurationError(f"recipe {self.name}: {error}") from error

    def _at_least(self, least: float, *names: str) -> None:
        for name in names:
            # Also refuses NaN, which is not below anything.
            if not getattr(self, name) >= least:
                raise ConfigurationError(f"recipe {self.name}: {name} is at least {least:g}, not {getattr(self, name)}")

    def _share(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) <= 1:
                raise ConfigurationError(f"recipe {self.name}: {name} lies in (0, 1], not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Trees(Recipe):
    """Gradient-boosted trees (XGBoost, histogram method), trained in seeded chunks so that a resumed run is exact; on a GPU if there is."""

    kind = "trees"

    rounds: int = 100
    """Trees in all."""
    rounds_per_chunk: int = 20
    """Trees that are grown in one go, of one seed: a run resumes between chunks."""
    learning_rate: float = 0.1
    max_depth: int = 6
    min_child_weight: float = 1.0
    subsample: float = 1.0
    colsample_bytree: float = 1.0
    reg_lambda: float = 1.0
    max_bin: int = 1024
    """Histogram bins; 256 cost 0.04 average precision on amounts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or not 1 <= self.rounds_per_chunk <= self.rounds:
            raise ConfigurationError(f"recipe {self.name}: 1 <= rounds_per_chunk <= rounds, not {self.rounds_per_chunk} and {self.rounds}")
        self._share("subsample", "colsample_bytree")
        self._at_least(1, "max_depth")
        self._at_least(2, "max_bin")
        self._at_least(0, "min_child_weight", "reg_lambda")


@dataclass(frozen=True, kw_only=True)
class Linear(Recipe):
    """Logistic regression on standardised features, with an L2 penalty: the baseline that anything dearer has to beat.

    Fitted by Newton's method, which needs no step size and no dice: `seed` changes nothing.
    """

    kind = "linear"

    steps: int = 12
    """Newton steps."""
    reg_lambda: float = 1.0
    """Penalty on half the sum of squared weights, beside the rows' summed log-loss; the intercept goes free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "steps")
        # Without a penalty a column that is constant, or the same as another, has no best weight.
        if not self.reg_lambda > 0:
            raise ConfigurationError(f"recipe {self.name}: reg_lambda is above 0, not {self.reg_lambda}")


@dataclass(frozen=True, kw_only=True)
class Attention(Recipe):
    """A small network that looks at each row beside the rows of the same entity before it (`train.sequence`).

    The defaults are what was tried on four prequential folds: mean average precision 0.7647, where the trees have 0.7691.
    """

    kind = "sequence"
    looks_back = True

    bins: int = 32
    """Pieces of the piecewise-linear encoding of a feature; half of their edges are quantiles of all rows, half of the positive ones."""
    width: int = 128
    """Numbers that stand for a row."""
    heads: int = 4
    blocks: int = 2
    """Residual blocks after the attention."""
    dropout: float = 0.1
    past_rows: int = 32
    """Rows that a row looks at, itself included."""
    past_days: int = 30
    """How far back it looks, at most."""
    window: int = 64
    """Rows of one entity that are trained on together; the rows before them are looked at too."""
    batch: int = 64
    """Windows of an update of the weights, over all GPUs together."""
    epochs: int = 6
    """How often each row is trained on."""
    learning_rate: float = 2e-3
    warm_up: float = 0.1
    """Share of the updates in which the learning rate rises; then it falls as a cosine does, to 0."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of a gradient; longer ones are shortened to it."""
    bfloat16: bool = True
    """Multiply in bfloat16 on a GPU. A CPU uses 32-bit numbers."""
    compiled: bool = False
    """Have torch.compile fuse the network on a GPU; at this size it wins nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "width", "heads", "past_rows", "past_days", "window", "batch", "epochs")
        self._at_least(2, "bins")
        self._at_least(0, "blocks", "weight_decay")
        self._share("warm_up")
        if self.width % self.heads:
            raise ConfigurationError(f"recipe {self.name}: width {self.width} is no multiple of {self.heads} heads")
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"recipe {self.name}: dropout lies in [0, 1), not {self.dropout}")
        if not self.clip > 0:
            raise ConfigurationError(f"recipe {self.name}: clip is above 0, not {self.clip}")


KINDS: Mapping[str, type[Recipe]] = {kind.kind: kind for kind in (Trees, Linear, Attention)}


def of(told: object, where: str) -> Recipe:
    """The recipe that was told as `Recipe.told` does; one without a kind is of trees, from before there were kinds.

    Raises:
        ConfigurationError: an unknown kind, fields that are missing, unknown or impossible; `where` begins the message.
    """
    again = "pin the run again with this version of the code"
    given = dict(told) if isinstance(told, dict) else {}
    kind = given.pop("kind", Trees.kind)
    if kind not in KINDS:
        raise ConfigurationError(f"{where}: the recipe is of kind {kind!r}, which is none of {', '.join(KINDS)}: {again}")
    made = KINDS[kind]
    known = {field.name for field in fields(made)}
    needed = {field.name for field in fields(made) if field.default is MISSING}
    if given.keys() - known or needed - given.keys():
        raise ConfigurationError(
            f"{where}: the recipe lacks {sorted(needed - given.keys()) or 'nothing'} and has unknown "
            f"{sorted(given.keys() - known) or 'nothing'}: {again}"
        )
    try:
        if given.get("search") is not None:
            given["search"] = space.of(given["search"])
        return made(**given)
    except (TypeError, AttributeError) as error:
        raise ConfigurationError(f"{where}: {error}. Pin the run again") from error
