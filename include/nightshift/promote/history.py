"""The history: who reigns over which nights, as `ops.champion_history` says. MLflow's alias `champion` follows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import chain, log, records, tables
from include.nightshift.promote import registry

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


def champions(settings: Settings, use_case: UseCase, nights: Sequence[date]) -> dict[date, str]:
    """The version that reigns over each of the nights; nights over which nobody does are left out.

    Raises:
        RegistryError: more than one reigns over a night.
    """
    history = records.read(settings, tables.CHAMPION_HISTORY, use_case=use_case.name)
    reigns = {night: _over(history, night) for night in nights}
    return {night: reign["model_version"] for night, reign in reigns.items() if reign}


def reign_on(settings: Settings, use_case: UseCase, night: date) -> Record | None:
    """The row of the champion history whose nights contain the night, or None.

    Raises:
        RegistryError: more than one row does.
    """
    return _over(records.read(settings, tables.CHAMPION_HISTORY, use_case=use_case.name), night)


def _over(history: Sequence[dict[str, Any]], night: date) -> Record | None:
    reigning = [reign for reign in history if reign["from_night"] <= night and (reign["until_night"] or night) >= night]
    if len(reigning) > 1:
        seen = ", ".join(reign["model_version"] for reign in reigning)
        raise RegistryError(f"{tables.CHAMPION_HISTORY}, night {night}: versions {seen} reign, expected one at most. Mend the table first")
    return reigning[0] if reigning else None


def promised(settings: Settings, reign: Mapping[str, Any]) -> dict[str, float]:
    """The figures on its held-out rows that the reigning champion was promoted on."""
    found = records.read(settings, tables.GATE_REPORTS, report_digest=reign["report_digest"])
    return dict(json.loads(found[0]["figures"])) if found else {}


def first_free_night(settings: Settings, use_case: UseCase, as_of: date) -> date:
    """The night from which a model trained `as_of` may reign: after all it knew, and after every list that is out."""
    published = log.extent(settings, tables.alerts(use_case))
    return max(as_of, published[1] if published else as_of) + timedelta(days=1)


def promote(settings: Settings, use_case: UseCase, *, version: str, from_night: date, why: str, by: str, report_digest: str) -> bool:
    """Let the version reign from a night on: close the open reign and open the new one in one commit, then move the alias.

    Promoting the same report twice changes nothing. Returns whether the history changed.

    Raises:
        RegistryError: the open reign begins on or after `from_night`: history is not rewritten.
    """
    new = {
        "use_case": use_case.name,
        "model_version": version,
        "from_night": from_night,
        "until_night": None,
        "why": why,
        "by": by,
        "at": datetime.now(UTC),
        "report_digest": report_digest,
    }

    def crown(history: list[Record]) -> list[Record]:
        if any(reign["report_digest"] == report_digest for reign in history):
            return history
        return [*(_until(reign, new) if reign in _open(use_case, history) else reign for reign in history), new]

    changed = chain.amend(settings, tables.CHAMPION_HISTORY, crown).changed
    [reign] = _open(use_case, records.read(settings, tables.CHAMPION_HISTORY))
    registry.client(settings).set_registered_model_alias(use_case.name, registry.ALIAS, reign["model_version"])
    return changed


def _open(use_case: UseCase, history: Sequence[Record]) -> list[Record]:
    return [reign for reign in history if reign["use_case"] == use_case.name and reign["until_night"] is None]


def _until(reign: Record, new: Record) -> Record:
    """The open reign, ended by the new one."""
    if reign["from_night"] >= new["from_night"]:
        raise RegistryError(
            f"{tables.CHAMPION_HISTORY}: version {reign['model_version']} reigns from {reign['from_night']} on, so version "
            f"{new['model_version']} cannot from {new['from_night']}. Train as of a later night"
        )
    return reign | {"until_night": new["from_night"] - timedelta(days=1)}
