"""Held: lists that are not published, who is told of them, and how a second person has one published all the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from include.nightshift import notify
from include.nightshift.errors import PublicationError
from include.nightshift.lakehouse import log, tables
from include.nightshift.promote import acts
from include.nightshift.score import publications
from include.nightshift.score.publications import Decision, Published

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.lakehouse.records import Record
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


def still_held(decisions: Sequence[Decision], published: Mapping[date, Published]) -> list[Decision]:
    """The nights that are held, but for those whose list somebody published all the same."""
    return [each for each in decisions if each.state == "held" and published[each.night].mark != publications.ANYWAY]


def advice(use_case: UseCase, decision: Decision, out: Published, *, more: int = 0) -> str:
    """Why a list is held, what is out instead, and what to do."""
    if not out.rows:
        stands = "No list is out"
    else:
        stands = "The list before it is out, marked stale" if out.mark == publications.STALE else "Its own list from before is out"
    others = f", and {more} more nights" if more else ""
    return (
        f"night {decision.night} is held{others}: {'; '.join(decision.reasons)}. {stands}. Mend what is named and "
        f"clear `scores`; or, if the list is right all the same, have a second person start {use_case.name}_publish with the night and why"
    )


def tell(settings: Settings, use_case: UseCase, decisions: Sequence[Decision], published: Mapping[date, Published]) -> None:
    """Of every list that is held or bears a mark, to who is named (`NIGHTSHIFT_NOTIFY`)."""
    held = {decision.night for decision in still_held(decisions, published)}
    for decision in decisions:
        if decision.night in held or decision.state == "marked":
            mark = "list held" if decision.night in held else f"list marked {decision.mark}"
            where = "its reasons are in ops.publications"
            notify.warn(
                settings, f"{use_case.name} {decision.night}: {mark}", decision.reasons, where=where, failure=decision.night in held
            )


def release(
    session: SparkSession, settings: Settings, use_case: UseCase, night: date, *, by: str | None, why: str, act_id: str
) -> Published:
    """Publish a held night's own list all the same, marked `anyway`; kept in `ops.acts` before it is done.

    `act_id`: names the act: asked for twice under one name, it is done once.

    Raises:
        PublicationError: see `releasable`; or the night's scores are others by now.
        RegistryError: no reason is given.
    """
    act = acts.found(settings, act_id)
    record = releasable(settings, use_case, night, by=by) if act is None else publications.newest(settings, use_case, night)
    if act is None and record:
        seen_then, seen_now = record["scores_digest"], publications.scores_digest(session, use_case, night)
        if seen_now != seen_then:
            raise PublicationError(
                f"night {night} of {use_case.name}: its scores are others than those that were held. Score the night again"
            )
        detail = {name: record[name] for name in ("revision", "reasons", "model_version", "scores_digest")}
        act = acts.record(settings, use_case, acts.PUBLISH_ANYWAY, act_id=act_id, by=str(by), why=why, night=night, detail=detail)
    if act is None or record is None or act["night"] != night:
        raise PublicationError(f"act {act_id} is not about night {night} of {use_case.name}: start a run of its own for each night")
    seen = json.loads(json.loads(act["detail"])["reasons"])
    decision = Decision(
        night=night,
        state="marked",
        mark=publications.ANYWAY,
        reasons=(f"{act['by']} published it anyway: {act['why']}", *seen),
        model_version=record["model_version"],
        model_sha256=record["model_sha256"],
    )
    return publications.publish(session, settings, use_case, [decision], triggered_by=record["triggered_by"])[night]


def releasable(settings: Settings, use_case: UseCase, night: date, *, by: str | None) -> Record:
    """The publication of a night that is held, if this person may release it.

    Raises:
        PublicationError: the night is not held, or nothing was scored; or the person is none of the approvers, or started the run.
    """
    what = f"night {night} of {use_case.name} cannot be published by {by or 'nobody'}"
    if by not in settings.approvers:
        raise PublicationError(f"{what}: only {', '.join(settings.approvers) or 'nobody'} may (NIGHTSHIFT_APPROVERS). Ask one of them")
    record = publications.newest(settings, use_case, night)
    if record is None or record["state"] != "held":
        state = "unknown" if record is None else record["state"]
        raise PublicationError(f"{what}: its list is {state}, not held. There is nothing to release")
    if by in (record["triggered_by"] or "").split(","):
        raise PublicationError(f"{what}, who started the run that was held: a second person must look at it. Ask another approver")
    if not log.rows_by_night(settings, tables.scores(use_case), {"day": [night], "role": ["champion"]}):
        raise PublicationError(f"{what}: nothing was scored. Mend what holds it: {'; '.join(json.loads(record['reasons']))}")
    return record
