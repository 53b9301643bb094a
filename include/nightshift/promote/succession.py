"""Succession: which reign follows which. Pure functions of one use case's rows of `ops.champion_history`, in the order they were written.

Exactly one reign is open from the first promotion on; reigns leave no gap and do not overlap. A row is never taken back: a reign that is
withdrawn before it began ends on the night before its first, and covers none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import tables

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record

PROMOTE, ROLLBACK = "promote", "rollback"


def open_reign(rows: Sequence[Record]) -> Record | None:
    """The reign that has no end yet; None before the first promotion.

    Raises:
        RegistryError: there are several, or reigns and none of them open.
    """
    found = [row for row in rows if row["until_night"] is None]
    if len(found) > 1 or (rows and not found):
        raise RegistryError(f"{tables.CHAMPION_HISTORY}: {_told(found) or 'no version'} reigns without an end, expected one. {MEND}")
    return found[0] if found else None


def over(rows: Sequence[Record], night: date) -> Record | None:
    """The reign whose nights contain the night; None before the first.

    Raises:
        RegistryError: there are several.
    """
    found = [row for row in rows if row["from_night"] <= night and (row["until_night"] or night) >= night]
    if len(found) > 1:
        raise RegistryError(f"{tables.CHAMPION_HISTORY}, night {night}: versions {_told(found)} reign, expected one at most. {MEND}")
    return found[0] if found else None


def began(reign: Record) -> bool:
    """Whether a reign was not withdrawn before it began."""
    return reign["until_night"] is None or bool(reign["until_night"] >= reign["from_night"])


def barred(rows: Sequence[Record]) -> set[str]:
    """The reports whose model was rolled back: it returns with a new report, or not at all."""
    return {before["report_digest"] for before, row in pairwise(rows) if row["act"] == ROLLBACK}


def predecessor(rows: Sequence[Record]) -> Record | None:
    """The reign that was promoted last before the open one was, and has not been rolled back since."""
    reigning = open_reign(rows)
    out = barred(rows)
    before: list[Record] = []
    for row in rows:
        if reigning and row["report_digest"] == reigning["report_digest"]:
            break
        before += [row] if row["report_digest"] not in out else []
    return before[-1] if before else None


def followed(rows: Sequence[Record], new: Record) -> list[Record]:
    """The rows with the open reign ended by the new one, whose first night is moved to where the open one begins, should that be later."""
    reigning = open_reign(rows)
    if reigning is None:
        return [*rows, new]
    new = new | {"from_night": max(new["from_night"], reigning["from_night"])}
    ended = reigning | {"until_night": new["from_night"] - timedelta(days=1)}
    return [*(ended if row is reigning else row for row in rows), new]


MEND = f"`describe history {tables.CHAMPION_HISTORY}` says who wrote what: restore the version before"


def _told(rows: Sequence[Record]) -> str:
    return ", ".join(str(row["model_version"]) for row in rows)
