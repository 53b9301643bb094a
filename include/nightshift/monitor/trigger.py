"""The trigger: whether the verdicts that came in tonight are a reason to ask for a new model, and why, or why not.

Only verdicts speak here, never drift: a column may move without harm. One bad night is noise, so several of the last few
judged nights must have lost too much, the newest among them (the rule that databricks/mlops-stacks ships). Only nights of
the model that reigns count, so a new champion starts with a clean sheet, and only the last few, so an old bad night cannot
ask for ever. A request that waits, or a recent one, silences the rest.

`decide` is a function of its arguments: no clock, no tables. Later nights are ignored, so replaying an old night gives
that night's verdict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from include.nightshift.promote.question import Kind, Question
from include.nightshift.usecase import DriftPolicy

CAUSE = "performance"
"""What such a request is filed under."""


@dataclass(frozen=True)
class JudgedNight:
    """One matured night: which model scored it, and what that was worth."""

    night: date
    model_version: str
    average_precision: float
    """Of the matured week that ends with the night. One that is no finite number could not be measured, and does not count."""


@dataclass(frozen=True)
class Request:
    """An earlier request for a new model, whatever became of it: a row of `ops.retrain_requests`."""

    night: date
    cause: str
    pending: bool
    """Whether it is still open or claimed."""


@dataclass(frozen=True)
class RetrainVerdict:
    """Whether to file a request, and on what grounds."""

    asked: bool
    cause: str
    """`CAUSE`, the same for every request of this kind so that a ledger can tell a repeated one; empty when nothing is asked."""
    reasons: tuple[str, ...]
    """Why it asks, or every reason why it does not."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """What the verdict rests on; JSON-safe."""

    @property
    def question(self) -> Question:
        """What a new model will be asked: to be better on the nights since this one began to fail."""
        return Question(kind=Kind.RECOVER, changed_on=date.fromisoformat(self.evidence["violated_since"]))


def decide(
    policy: DriftPolicy,
    *,
    night: date,
    champion: str | None,
    promised: float | None,
    judged: Sequence[JudgedNight],
    requests: Sequence[Request] = (),
) -> RetrainVerdict:
    """Ask for a new model when the champion has kept losing against its promise, and nothing is under way.

    All nights are counted alike: `night`, `judged` and `requests` name the night that was scored and judged, not the later
    one in whose run its verdicts were complete.

    Args:
        policy: how much loss, on how many nights, and how long to be quiet after a request.
        night: the night judged. Without a figure of the champion for it there is no news, and nothing is asked: nights
            without verdicts must not repeat an old alarm.
        champion: version of the model that reigns now; None when nobody does.
        promised: the average precision in the champion's gate report; None when it has none.
        judged: matured nights. Those of other models and those after `night` do not count; of a night that stands twice the
            last entry does.
        requests: earlier requests. This night's own is ignored, so that judging again says the same; any other pending one
            silences the trigger, whatever its night.

    Returns:
        A verdict. It asks when at least `nights_violated` of the champion's last `nights_watched` judged nights, the newest
        among them, lost more than `max_loss` of the promise, no request is pending, and more than `cooldown_nights` nights
        have passed since the last one.
    """
    promise = promised if promised is not None and math.isfinite(promised) and promised > 0 else None
    watched = _watched(policy, night, champion, promise, judged)
    violated = sum(entry["violated"] for entry in watched)
    evidence: dict[str, Any] = {
        "night": night.isoformat(),
        "model_version": champion,
        "promised_average_precision": promise,
        "max_loss": policy.max_loss,
        "nights_violated": violated,
        "nights_needed": policy.nights_violated,
        "watched": watched,
        "violated_since": _violated_since(policy, night, champion, promise, judged),
    }
    if no_news := _no_news(night, champion, promise, watched):
        return RetrainVerdict(False, "", (no_news,), evidence)
    newest = watched[-1]
    seen = (
        f"{violated} of the last {len(watched)} judged nights of champion {champion} lost more than {policy.max_loss:.0%} of the "
        f"promised average precision, {policy.nights_violated} of {policy.nights_watched} are needed",
        f"the newest, {newest['night']}, reached {newest['average_precision']:.4f} where {promise:.4f} was promised: "
        f"a loss of {newest['loss']:.1%}, {policy.max_loss:.0%} is allowed",
    )
    silence = _silence(policy, night, requests)
    if violated >= policy.nights_violated and newest["violated"] and not silence:
        return RetrainVerdict(True, CAUSE, seen, evidence)
    return RetrainVerdict(False, "", seen + silence, evidence)


def _violated_since(
    policy: DriftPolicy, night: date, champion: str | None, promise: float | None, judged: Sequence[JudgedNight]
) -> str | None:
    """The first of the violated nights that end, without a break, with the newest: if the world has changed, then by this night."""
    every = _reached(policy, night, champion, promise, judged)
    unbroken = itertools.takewhile(lambda entry: entry["violated"], reversed(every))
    return min((entry["night"] for entry in unbroken), default=None)


def _watched(
    policy: DriftPolicy, night: date, champion: str | None, promise: float | None, judged: Sequence[JudgedNight]
) -> list[dict[str, Any]]:
    """The champion's last judged nights, oldest first, with what each lost as a share of the promise."""
    return _reached(policy, night, champion, promise, judged)[-policy.nights_watched :]


def _reached(
    policy: DriftPolicy, night: date, champion: str | None, promise: float | None, judged: Sequence[JudgedNight]
) -> list[dict[str, Any]]:
    if promise is None:
        return []
    mine = [entry for entry in judged if entry.model_version == champion and entry.night <= night]
    reached = {entry.night: float(entry.average_precision) for entry in mine if math.isfinite(entry.average_precision)}
    watched = []
    for scored in sorted(reached):
        loss = (promise - reached[scored]) / promise
        entry = {"night": scored.isoformat(), "average_precision": reached[scored], "loss": loss, "violated": loss > policy.max_loss}
        watched.append(entry)
    return watched


def _no_news(night: date, champion: str | None, promise: float | None, watched: list[dict[str, Any]]) -> str:
    """Why there is nothing to hold against the promise tonight; empty when there is."""
    if champion is None:
        return "nobody reigns: there is no promise to hold a night against"
    if promise is None:
        return f"the gate report of champion {champion} promises no average precision: judge it again to have one"
    if not watched:
        return f"no matured night was scored by champion {champion} yet"
    if watched[-1]["night"] != night.isoformat():
        return f"night {night} has no figure of champion {champion}: the newest is of {watched[-1]['night']}"
    return ""


def _silence(policy: DriftPolicy, night: date, requests: Sequence[Request]) -> tuple[str, ...]:
    """Why no request may be filed now, however bad it looks; empty when one may."""
    others = [request for request in requests if (request.night, request.cause) != (night, CAUSE)]
    silence = [f"a request of {request.night} ({request.cause}) is open or claimed already" for request in others if request.pending]
    earlier = [request.night for request in others if request.night <= night]
    if earlier and (passed := (night - max(earlier)).days) <= policy.cooldown_nights:
        silence.append(f"the last request is of {max(earlier)}, {passed} nights ago: quiet for {policy.cooldown_nights} nights")
    return tuple(silence)
