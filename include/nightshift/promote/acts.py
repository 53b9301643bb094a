"""Acts: what a person did to champions and lists, in `ops.acts`; each with who, when and why, and none done twice.

Some acts are their own effect: promotions are frozen, or a night's list comes from the baseline, because the newest such act says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import chain, records, tables

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

FREEZE, UNFREEZE, ROLLBACK, BASELINE, CHAMPION = "freeze", "unfreeze", "rollback", "baseline", "champion"
PUBLISH_ANYWAY = "publish_anyway"
REFER = "refer"
"""What scores from now on, decided by a person, because a mandatory refresh was refused."""
RELEASE = "release"
"""Rows let out of quarantine: whoever did so does not answer for a model that was trained on them."""


def record(
    settings: Settings,
    use_case: UseCase,
    act: str,
    *,
    act_id: str,
    by: str,
    why: str,
    night: date | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Record:
    """Keep an act; one that is kept already is returned as it was.

    Raises:
        RegistryError: nobody did it, or without a reason; or another act has this name.
        WriteConflictError: others won every attempt.
    """
    if not by.strip() or not why.strip():
        raise RegistryError(f"{act} of {use_case.name}: by {by!r}, because {why!r}; say who asks and why, in words that last")
    new = {"act_id": act_id, "use_case": use_case.name, "act": act, "night": night, "by": by, "at": datetime.now(UTC), "why": why}
    chain.append(settings, tables.ACTS, new | {"detail": json.dumps(detail or {}, sort_keys=True)}, {"act_id": act_id})
    [kept] = records.read(settings, tables.ACTS, act_id=act_id)
    if (kept["act"], kept["use_case"]) != (act, use_case.name):
        raise RegistryError(f"act {act_id} is {kept['act']} of {kept['use_case']}, not {act} of {use_case.name}: name this one otherwise")
    return kept


def found(settings: Settings, act_id: str) -> Record | None:
    """The act of this name, if it was done."""
    return next(iter(records.read(settings, tables.ACTS, act_id=act_id)), None)


def frozen(settings: Settings, use_case: UseCase) -> Record | None:
    """The act that stopped promotions; None where they go on."""
    newest = _newest(settings, use_case, FREEZE, UNFREEZE)
    return newest if newest and newest["act"] == FREEZE else None


def baseline_on(settings: Settings, use_case: UseCase, night: date) -> Record | None:
    """The act that has this night's list come from the baseline; None where the champion gives it."""
    newest = _newest(settings, use_case, BASELINE, CHAMPION, until=night)
    return newest if newest and newest["act"] == BASELINE else None


def _newest(settings: Settings, use_case: UseCase, *of: str, until: date = date.max) -> Record | None:
    done = [act for act in records.read(settings, tables.ACTS, use_case=use_case.name, act=list(of)) if act["seq"]]
    return max((act for act in done if (act["night"] or until) <= until), key=lambda act: int(act["seq"]), default=None)
