"""Retrain requests: a ledger, because asset events coalesce. Filed once per night and cause, claimed once, closed with an outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from include.nightshift.lakehouse import records, tables
from include.nightshift.promote.question import IMPROVE, Question

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

TABLE = tables.RETRAIN_REQUESTS


def of(settings: Settings, use_case: UseCase) -> list[Record]:
    """All requests of a use case, oldest night first."""
    return sorted(records.read(settings, TABLE, use_case=use_case.name), key=lambda request: (request["night"], request["requested_at"]))


def file(
    settings: Settings, use_case: UseCase, night: date, cause: str, question: Question, evidence: Mapping[str, Any], *, about: str = ""
) -> Record:
    """File a request; a second one of the same night and cause is the same request. Returns it as it stands, answered perhaps.

    :param question: what the new model will be asked to show, settled now, before anybody has seen a figure of it.
    :param about: tells apart what has the same night and cause.
    """
    request_id = hashlib.sha256(" ".join(filter(None, (use_case.name, str(night), cause, about))).encode()).hexdigest()[:16]
    new: Record = {
        "request_id": request_id,
        "use_case": use_case.name,
        "night": night,
        "cause": cause,
        "question": json.dumps(question.told(), sort_keys=True),
        "evidence": json.dumps(evidence, default=str, sort_keys=True),
        "state": "open",
        "requested_at": datetime.now(UTC),
    }
    filed = new

    def add(held: list[Record]) -> list[Record]:
        nonlocal filed
        filed = next((old for old in held if old["request_id"] == request_id), new)
        return [*held, new] if filed is new else held

    records.amend(settings, TABLE, add)
    return filed


def claim(settings: Settings, use_case: UseCase, as_of: date) -> list[Record]:
    """Take all open requests of nights up to `as_of`: one training run answers them all. Returns them."""
    claimed: list[Record] = []

    def take(held: list[Record]) -> list[Record]:
        claimed[:] = [old for old in held if old["use_case"] == use_case.name and old["state"] == "open" and old["night"] <= as_of]
        return [old | {"state": "claimed", "claimed_at": datetime.now(UTC)} if old in claimed else old for old in held]

    records.amend(settings, TABLE, take)
    return list(claimed)


def asked(requests: Sequence[Record]) -> list[Question]:
    """What claimed requests ask; one from before requests had a question asks for an improvement."""
    return [Question.of(json.loads(request["question"])) if request["question"] else IMPROVE for request in requests]


def wait(settings: Settings, request_ids: Sequence[str], *, outcome: str) -> None:
    """Give claimed requests back: too little has matured to answer them, and they stay open."""
    again = {"state": "open", "outcome": outcome, "claimed_at": None}

    def give_back(held: list[Record]) -> list[Record]:
        return [old | again if old["request_id"] in request_ids and old["state"] == "claimed" else old for old in held]

    records.amend(settings, TABLE, give_back)


def close(settings: Settings, request_ids: Sequence[str], *, done: bool, outcome: str) -> None:
    """Say what became of claimed requests."""
    end = {"state": "done" if done else "refused", "outcome": outcome}

    def shut(held: list[Record]) -> list[Record]:
        return [
            old | end | {"closed_at": datetime.now(UTC)} if old["request_id"] in request_ids and old["state"] == "claimed" else old
            for old in held
        ]

    records.amend(settings, TABLE, shut)
