"""Decide: what becomes of each night's list, by what the guards say, and by what other models say where a model was at fault.

A night whose model is at fault is scored again, twice at most: by the champion that was verified last, then by a linear baseline, neither
of them a model whose scores were just refused. What no model mends is held.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift.errors import PublicationError
from include.nightshift.features import parity
from include.nightshift.lakehouse import log as table_log
from include.nightshift.lakehouse import tables
from include.nightshift.promote import trust
from include.nightshift.score import alerts, guards, publications, scores, seen
from include.nightshift.score.publications import Decision

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.promote.trust import Reigning
    from include.nightshift.score.guards import Judged, Seen
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

log = logging.getLogger(__name__)

AGAIN = 2
"""So often a night is scored again: once by a champion, once by a baseline."""


@dataclass(frozen=True)
class _Night:
    """Where a night stands."""

    model: Reigning
    """Who scored it, or should have."""
    seen: Seen
    judged: Judged
    refused: frozenset[str] = frozenset()
    """Versions whose scores were refused."""


def decide(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> list[Decision]:
    """Judge the nights' scores and lists, score again where a model is at fault; nights over which nobody reigns are left out.

    Writes scores and `ops.parity` of nights that are scored again; publishes nothing.

    Raises:
        RegistryError: a champion is not what was promoted, and nothing that was verified can stand in.
        LakehouseError: a table cannot be read.
    """
    models = trust.reigning_over(settings, use_case, nights)
    if not models:
        return []
    standing = {night: _Night(models[night], *told) for night, told in _judged(session, settings, use_case, models).items()}
    for attempt in range(AGAIN):
        replaced = {}
        for night, stands in standing.items():
            if stands.judged.outcome == "again" and (other := _stand_in(settings, use_case, night, stands, linear=attempt == AGAIN - 1)):
                replaced[night] = other
        if not replaced:
            break
        for model in dict.fromkeys(other.model for other in replaced.values()):
            his = [night for night, other in replaced.items() if other.model == model]
            log.error("%s: scored again by %s (%s): %s", ", ".join(map(str, his)), model.version, model.mark, "; ".join(model.reasons))
            scores.again(session, settings, use_case, model, his)
        parity.check(session, settings, use_case, list(replaced))
        told = _judged(session, settings, use_case, {night: other.model for night, other in replaced.items()})
        standing |= {night: replace(other, seen=told[night][0], judged=told[night][1]) for night, other in replaced.items()}
    return [_decision(night, stands) for night, stands in standing.items()]


def rescored(session: SparkSession, settings: Settings, use_case: UseCase, night: date, model: Reigning) -> Decision:
    """Score a night by a model that is given (`promote.trust.verified`), whoever reigns over it, and decide on its list.

    For `publications.republish`, after a rollback. Nobody stands in: where this model is at fault, the decision is to hold.
    """
    scores.again(session, settings, use_case, model, [night])
    parity.check(session, settings, use_case, [night])
    return _decision(night, _Night(model, *_judged(session, settings, use_case, {night: model})[night]))


def check_reign(settings: Settings, use_case: UseCase, decisions: Sequence[Decision]) -> None:
    """Ask once more, right before lists go out, whether the champions that scored them reign: somebody may have been promoted since.

    Raises:
        PublicationError: another one reigns over a night by now, or nobody.
        RegistryError: the one who does is not what was promoted, and nothing that was verified can stand in.
    """
    by_champions = [each for each in decisions if each.state != "held" and each.mark in (None, publications.ODD)]
    reigning = trust.reigning_over(settings, use_case, [each.night for each in by_champions])
    for decision in by_champions:
        now = reigning.get(decision.night)
        if now is None or now.version != decision.model_version:
            raise PublicationError(
                f"night {decision.night} of {use_case.name} was scored by version {decision.model_version}, and "
                f"{f'version {now.version}' if now else 'nobody'} reigns over it by now: nothing was published. Clear `scores`"
            )


def _judged(
    session: SparkSession, settings: Settings, use_case: UseCase, models: Mapping[date, Reigning]
) -> dict[date, tuple[Seen, Judged]]:
    lists = _lists(session, settings, use_case, sorted(models))
    figures = seen.figures(settings, use_case, models, lists)
    return {night: (of_night, guards.judge(of_night, use_case.guards)) for night, of_night in figures.items()}


def _lists(session: SparkSession, settings: Settings, use_case: UseCase, nights: Sequence[date]) -> dict[date, list[int]]:
    """Entities on the lists that the nights would get, and on the newest one before them that is out."""
    lists: dict[date, list[int]] = {night: [] for night in nights}
    before = [night for night in table_log.rows_by_night(settings, tables.alerts(use_case)) if night < nights[0]]
    if before:
        out = table_log.columns(settings, tables.alerts(use_case), [use_case.entity], {"day": before[-1:]})
        lists[before[-1]] = out.column(use_case.entity).to_pylist()
    for row in session.sql(alerts.ranking(use_case, nights)).toArrow().select(["day", use_case.entity]).to_pylist():
        lists[row["day"]].append(row[use_case.entity])
    return lists


def _stand_in(settings: Settings, use_case: UseCase, night: date, stands: _Night, *, linear: bool) -> _Night | None:
    """Who scores a night instead; None where nobody is left. `linear`: only a baseline."""
    refused = set(stands.refused | set(stands.seen.versions))
    if not stands.seen.versions:
        refused.add(stands.model.version)
    because = "; ".join(stands.judged.reasons)
    while model := trust.instead(settings, use_case, night, refused, because):
        if model.mark == trust.BASELINE or not linear:
            return replace(stands, model=model, refused=frozenset(refused))
        refused.add(model.version)
    return None


def _decision(night: date, stands: _Night) -> Decision:
    model, judged = stands.model, stands.judged
    reasons = (*model.reasons, *judged.reasons)
    whose = {"model_version": model.version, "model_sha256": model.model_sha256}
    if judged.outcome == "again":
        reasons = (*reasons, "no verified model is left that could score the night")
    if judged.outcome in ("hold", "again"):
        return Decision(night=night, state="held", mark=publications.STALE, reasons=reasons, **whose)
    mark = model.mark or (publications.ODD if judged.outcome == "odd" else None)
    return Decision(night=night, state="marked" if mark else "published", mark=mark, reasons=reasons, **whose)
