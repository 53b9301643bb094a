"""Choose: of the models that were trained side by side, the one that goes before the gate.

Choosing the best of several by a figure flatters that figure: of equally good models, the luckiest is taken. So the figure is not the
gate's. It comes from the last of the training nights (`train.validation`), and the held-out nights judge one model that was chosen without
a look at them: what the gate sees is as unflattered as if there had been one recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.nightshift.errors import ConfigurationError, TrainingFailedError


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a recipe came to."""

    recipe: str
    trained: bool = True
    average_precision: float | None = None
    """On the validation nights; None where it was not measured."""
    nights: tuple[str, str] | None = None
    """The first and the last of these."""


@dataclass(frozen=True)
class Choice:
    """The candidate that goes on, and why."""

    recipe: str
    reasons: tuple[str, ...]
    """One for each candidate, in their order."""


def choose(candidates: Sequence[Candidate]) -> Choice:
    """The highest average precision, of equals the one that the use case names first; the only one that was trained needs no figure.

    Raises:
        ConfigurationError: figures are of different nights, which do not compare, or there is none.
        TrainingFailedError: none was trained.
    """
    trained = [candidate for candidate in candidates if candidate.trained]
    if not trained:
        raise TrainingFailedError(f"none of {', '.join(candidate.recipe for candidate in candidates)} was trained: see their tasks' logs")
    measured = [candidate for candidate in trained if candidate.average_precision is not None]
    nights = {candidate.nights for candidate in measured}
    if len(nights) > 1:
        of = "; ".join(f"{candidate.recipe} on {candidate.nights}" for candidate in measured)
        raise ConfigurationError(
            f"the candidates were judged on different nights ({of}): clear their pin tasks, so that one night pins all"
        )
    if len(trained) > 1 and not measured:
        raise ConfigurationError(f"nothing tells {' from '.join(candidate.recipe for candidate in trained)}: give these recipes a search")
    # `max` keeps the first of equals.
    best = max(measured, key=_figure) if len(trained) > 1 else trained[0]
    return Choice(best.recipe, tuple(_reason(candidate, candidate is best, best) for candidate in candidates))


def _figure(candidate: Candidate) -> float:
    return candidate.average_precision or 0.0


def _reason(candidate: Candidate, chosen: bool, best: Candidate) -> str:
    if not candidate.trained:
        return f"{candidate.recipe}: not trained, see its task's log"
    if candidate.average_precision is None:
        return f"{candidate.recipe}: {'chosen, the only one' if chosen else 'not measured'}"
    reached = f"average precision {candidate.average_precision:.4f} on the last training nights"
    if chosen:
        return f"{candidate.recipe}: {reached}, chosen"
    return f"{candidate.recipe}: {reached}, {candidate.average_precision - _figure(best):+.4f} against {best.recipe}"
