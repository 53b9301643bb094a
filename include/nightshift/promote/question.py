"""Question: what a candidate is asked to show. It is settled when a training is requested, before anybody has seen a figure: who may
choose the question afterwards can promote anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from include.nightshift import nights
from include.nightshift.errors import ConfigurationError

if TYPE_CHECKING:
    from include.nightshift.usecase import GatePolicy


class Kind(StrEnum):
    """What there is to ask."""

    FIRST = "first"
    """Nobody reigns: the candidate answers to absolute floors."""
    IMPROVE = "improve"
    """A new recipe or features: better than the champion by a minimum effect."""
    REFRESH = "refresh"
    """The champion is old, must forget somebody, or is unsafe: not worse by more than a margin."""
    RECOVER = "recover"
    """The world has changed: better on the nights since."""


ASKABLE = (Kind.IMPROVE, Kind.REFRESH, Kind.RECOVER)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, with what it needs to be answered."""

    kind: Kind
    changed_on: date | None = None
    """First night of the changed world; `RECOVER` has one, the others none."""
    mandatory: bool = False
    """The champion may not stay: a candidate that is refused is a person's case."""

    def __post_init__(self) -> None:
        if (self.changed_on is not None) != (self.kind is Kind.RECOVER):
            raise ConfigurationError(
                f"question {self.kind}: changed_on is {self.changed_on}; to recover needs the first night of the changed world, "
                "and no other question has one"
            )
        if self.mandatory and self.kind in (Kind.FIRST, Kind.IMPROVE):
            raise ConfigurationError(f"question {self.kind}: only what replaces a champion that may not stay is mandatory")

    def nights(self, policy: GatePolicy) -> int:
        """How many matured nights are held out to answer it."""
        return policy.short_holdout_nights if self.kind in (Kind.FIRST, Kind.RECOVER) else policy.holdout_nights

    def told(self) -> dict[str, Any]:
        """As JSON takes it; `of` reads it."""
        return {"kind": str(self.kind), "changed_on": self.changed_on and self.changed_on.isoformat(), "mandatory": self.mandatory}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Question:
        """Read what `told` wrote.

        Raises:
            ConfigurationError: it is no question.
            NightError: `changed_on` is no night.
        """
        try:
            kind, mandatory = Kind(told["kind"]), bool(told["mandatory"])
            changed_on = told["changed_on"] and nights.parse(told["changed_on"], what="changed_on")
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{dict(told)} is no question ({error}): it has kind, changed_on and mandatory") from error
        return cls(kind=kind, changed_on=changed_on, mandatory=mandatory)


FIRST = Question(kind=Kind.FIRST)
IMPROVE = Question(kind=Kind.IMPROVE)


def together(questions: Sequence[Question]) -> Question:
    """The one question that a training is asked which answers several requests.

    A changed world goes first: against a champion that fails in it, "better since" is asked of the nights that count. Then a refresh:
    who must replace a champion need not improve on it. What is mandatory in any stays so.

    Raises:
        ConfigurationError: there is no question.
    """
    if not questions:
        raise ConfigurationError("no question is asked: a request for a new model says why it is wanted")
    mandatory = any(question.mandatory for question in questions)
    changes = [question.changed_on for question in questions if question.changed_on]
    if changes:
        # The newest change: nights before it are no evidence for the world as it is.
        return Question(kind=Kind.RECOVER, changed_on=max(changes), mandatory=mandatory)
    if any(question.kind is Kind.REFRESH for question in questions):
        return Question(kind=Kind.REFRESH, mandatory=mandatory)
    return questions[0]
