"""Publications: the morning's lists, each in one commit with its mark and its revision, and what each was made from.

A night's list has revisions: the same list with the same mark is the same one, however often it is asked for, and commits nothing;
another one is the next. `gold.<use case>_alerts` holds the newest; `ops.publications` a row for each, with digests over what it rests on
that depend neither on the order of rows nor on clocks, so that a night that is made again can be held against it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal

from include.nightshift import code
from include.nightshift.errors import PublicationError
from include.nightshift.lakehouse import barrier, log, records, stale, tables, writes
from include.nightshift.lakehouse.session import where
from include.nightshift.score import alerts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.lakehouse.records import Record
    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

State = Literal["published", "marked", "held", "skipped"]
STALE, ODD, ANYWAY = "stale", "odd", "anyway"
"""Marks of a list, beside those of who stands in for a champion (`promote.trust`)."""

OF_THE_PUBLICATION = {"day", "revision", "mark", "marked_because"}
"""Columns of a list that say how it was published, not what it is."""

DIGESTS = ("features_digest", "scores_digest", "alerts_digest")
"""Columns of `ops.publications` that say what is published and what it rests on, in walking order."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What shall become of a night's list."""

    night: date
    state: State
    mark: str | None = None
    reasons: tuple[str, ...] = ()
    """What was seen; empty where nothing was wrong."""
    model_version: str | None
    """Whose scores the night has."""
    model_sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for XCom; `from_dict` reads them back."""
        return asdict(self) | {"night": self.night.isoformat(), "reasons": list(self.reasons)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Decision:
        return cls(**{**plain, "night": date.fromisoformat(plain["night"]), "reasons": tuple(plain["reasons"])})


@dataclass(frozen=True)
class Published:
    """What is out for a night."""

    night: date
    revision: int
    state: State
    mark: str | None
    rows: int
    version: int
    """The table's version that holds it."""


def publish(
    session: SparkSession, settings: Settings, use_case: UseCase, decisions: Sequence[Decision], *, triggered_by: str | None = None
) -> dict[date, Published]:
    """Publish the nights' lists in one commit, then say so in `ops.publications`.

    A held night that has a list of its own keeps it; one that has none gets the list before it, marked stale.

    `triggered_by`: who started the run by hand; None for the schedule.

    Raises:
        ContractError: another number of rows was written than the lists have.
        WriteConflictError: other writers won every attempt.
    """
    decided = {decision.night: decision for decision in sorted(decisions, key=lambda decision: decision.night)}
    if not decided:
        return {}
    known = _newest(settings, use_case, list(decided))
    with barrier.passing(settings):
        lists = _lists(session, settings, use_case, decided)
        numbered = {night: _numbered(each, decided[night], known.get(night)) for night, each in lists.items()}
        version = _write(session, settings, use_case, numbered)
    stale.rebuilt(settings, tables.alerts(use_case), [night for night, decision in decided.items() if decision.state != "held"])
    new = {night: each for night, each in numbered.items() if not each.stays}
    _record(session, settings, use_case, [decided[night] for night in new], new, known, triggered_by)
    return {
        night: Published(night, each.revision, *_state(each, decided[night], known.get(night)), len(each.rows), version)
        for night, each in numbered.items()
    }


def republish(
    session: SparkSession, settings: Settings, use_case: UseCase, decision: Decision, because: str, *, triggered_by: str | None = None
) -> Published:
    """Publish a night's list again as its next revision, though it may be the same; `because` stands first among its reasons.

    Asked for twice with the same words, it is one revision.

    Raises:
        PublicationError: the night has no list that could be replaced, or the decision is to hold it.
    """
    night = decision.night
    if newest(settings, use_case, night) is None or decision.state == "held":
        seen = "; ".join(decision.reasons) if decision.state == "held" else "it has no list yet"
        raise PublicationError(
            f"night {night} of {use_case.name} is not published again: {seen}. What is out stays; `score` the night first"
        )
    again = replace(decision, reasons=(because, *decision.reasons))
    return publish(session, settings, use_case, [again], triggered_by=triggered_by)[night]


def skip(settings: Settings, use_case: UseCase, nights: Collection[date], because: str) -> None:
    """Say of nights that they get no list, and why; nights of which something is said already are left alone."""
    skipped = {"use_case": use_case.name, "revision": 0, "state": "skipped", "reasons": json.dumps([because]), "rows": 0}
    _keep(settings, use_case, [skipped | {"day": night, "published_at": datetime.now(UTC)} for night in nights], unless_known=True)


def newest(settings: Settings, use_case: UseCase, night: date) -> Record | None:
    """The newest publication of a night; None where none is known."""
    return _newest(settings, use_case, [night]).get(night)


def digests(frame: DataFrame, table: Table) -> dict[date, str]:
    """A digest of each night's rows of a table, or of what would be its rows: equal content gives equal digests, whatever the order.

    Clocks are left out, and of a list its revision and mark. Over sums of row hashes (`writes.fingerprint`): against accidents, not against
    an adversary.
    """
    columns = sorted(set(table.content) - OF_THE_PUBLICATION)
    figures = writes.fingerprints(frame, columns)
    return {night: hashlib.sha256(json.dumps([columns, of_night]).encode()).hexdigest() for night, of_night in figures.items()}


def scores_digest(session: SparkSession, use_case: UseCase, night: date) -> str | None:
    """The digest of a night's scores as they are now; None where there are none."""
    table = tables.scores(use_case)
    return digests(session.table(str(table)).where(where({"day": [night], "role": ["champion"]})), table).get(night)


@dataclass(frozen=True)
class _List:
    """One night's list."""

    rows: list[Record]
    out: list[Record]
    """What is out for the night now."""
    stays: bool = False
    """Whether that stays out, because it is the night's own and a better one is not to be had."""
    revision: int = 0


def _lists(session: SparkSession, settings: Settings, use_case: UseCase, decided: Mapping[date, Decision]) -> dict[date, _List]:
    """The list that each night shall have, in order of nights and ranks, with its mark."""
    drawn = _drawn(session, use_case, [night for night, decision in decided.items() if decision.state != "held"])
    out, lists = _out(settings, use_case, list(decided)), dict[date, _List]()
    for night, decision in decided.items():
        now = out.get(night, [])
        if decision.state != "held":
            rows = _marked(drawn.get(night, []), night, decision.mark, "; ".join(decision.reasons) or None)
            lists[night] = _List(rows, now)
        elif now and now[0]["mark"] != STALE:
            lists[night] = _List(now, now, stays=True)
        else:
            before = _before(settings, use_case, night, lists)
            since = f"the list of night {before[0]['day']} stands" if before else "there is no list before it"
            lists[night] = _List(_marked(before, night, STALE, "; ".join((since, *decision.reasons))), now)
    return lists


def _drawn(session: SparkSession, use_case: UseCase, nights: Sequence[date]) -> dict[date, list[Record]]:
    return _by_night(session.sql(alerts.ranking(use_case, nights)).toArrow().to_pylist()) if nights else {}


def _out(settings: Settings, use_case: UseCase, nights: Sequence[date]) -> dict[date, list[Record]]:
    table = tables.alerts(use_case)
    return _by_night(log.columns(settings, table, table.names, {"day": nights}).to_pylist())


def _before(settings: Settings, use_case: UseCase, night: date, lists: Mapping[date, _List]) -> list[Record]:
    """The newest list before a night, among those that are to be published with it and those that are out."""
    coming = {before: each.rows for before, each in lists.items() if each.rows}
    out = [before for before in log.rows_by_night(settings, tables.alerts(use_case)) if before < night]
    last = max([*coming, *out], default=None)
    if last is None:
        return []
    return coming[last] if last in coming else _out(settings, use_case, [last])[last]


def _by_night(rows: Iterable[Record]) -> dict[date, list[Record]]:
    found: dict[date, list[Record]] = {}
    for row in sorted(rows, key=lambda row: int(row["rank"])):
        found.setdefault(row["day"], []).append(row)
    return found


def _marked(rows: Sequence[Record], night: date, mark: str | None, because: str | None) -> list[Record]:
    return [row | {"day": night, "mark": mark, "marked_because": because} for row in rows]


def _numbered(each: _List, decision: Decision, known: Record | None) -> _List:
    """With the revision that is out where that is this very list, with the next one where it is another."""
    revision = max([*(int(row["revision"] or 0) for row in each.out), int(known["revision"]) if known else 0])
    if each.stays:
        return replace(each, revision=revision)
    same = [row | {"revision": None} for row in each.rows] == [row | {"revision": None} for row in each.out]
    if not each.rows:
        # Nothing in the table tells an empty list from none.
        same = same and known is not None and (known["state"], json.loads(known["reasons"])) == (decision.state, list(decision.reasons))
    revision = revision if same and revision else revision + 1
    return replace(each, rows=[row | {"revision": revision} for row in each.rows], revision=revision)


def _write(session: SparkSession, settings: Settings, use_case: UseCase, lists: Mapping[date, _List]) -> int:
    """All of them in one commit, none where they are out already; returns the table's version that holds them."""
    table = tables.alerts(use_case)
    rows = table.arrow(row for each in lists.values() for row in each.rows)
    with writes.staged(session, settings, rows) as frame:
        return writes.replace(session, settings, table, frame, {"day": list(lists)}, rows_expected=len(rows)).version


def _state(each: _List, decision: Decision, known: Record | None) -> tuple[State, str | None]:
    """What is out. Of a list that stays, as it was published; one that nobody recorded is from before there were records."""
    if not each.stays:
        return decision.state, STALE if decision.state == "held" else decision.mark
    return (known["state"], known["mark"]) if known else ("published", None)


def _record(
    session: SparkSession,
    settings: Settings,
    use_case: UseCase,
    decisions: Sequence[Decision],
    lists: Mapping[date, _List],
    known: Mapping[date, Record],
    triggered_by: str | None,
) -> None:
    """A row for each of the lists. That of a revision that is known keeps what it was made from, unless that has changed since."""
    nights = [decision.night for decision in decisions]
    if not nights:
        return
    digested = _digested(session, use_case, nights)
    scored = log.columns(settings, tables.scores(use_case), ["day", "features_version"], {"day": nights, "role": ["champion"]})
    read = {row["day"]: row["features_version"] for row in scored.to_pylist()}
    beneath = [table(feed) for table in (tables.silver, tables.bronze) for feed in use_case.feeds]
    versions = json.dumps({str(table): log.version(settings, table) for table in beneath}, sort_keys=True)
    ran, now = code.name(), datetime.now(UTC)
    new = []
    for decision in decisions:
        night, each, before = decision.night, lists[decision.night], known.get(decision.night)
        again = before if before and before["revision"] == each.revision else None
        record: Record = {
            "day": night,
            "use_case": use_case.name,
            "revision": each.revision,
            "state": decision.state,
            "mark": STALE if decision.state == "held" else decision.mark,
            "reasons": json.dumps(list(decision.reasons)),
            "model_version": decision.model_version,
            "model_sha256": decision.model_sha256,
            "features_version": read.get(night),
            "versions": again["versions"] if again else versions,
            "code": again["code"] if again else ran,
            **digested.get(night, {}),
            "rows": len(each.rows),
            "published_at": now,
            "triggered_by": _parties(before, triggered_by),
        }
        new.append(record)
    _keep(settings, use_case, new)


def _digested(session: SparkSession, use_case: UseCase, nights: Sequence[date]) -> dict[date, dict[str, str]]:
    """By night, the digests of what is published and of what it rests on, by their columns of `ops.publications`."""
    of_champions: dict[str, Collection[Any]] = {"day": nights, "role": ["champion"]}
    slices: list[tuple[Table, Mapping[str, Collection[Any]]]] = [
        (tables.features(use_case), {"day": nights}),
        (tables.scores(use_case), of_champions),
        (tables.alerts(use_case), {"day": nights}),
    ]
    found: dict[date, dict[str, str]] = {}
    for column, (table, slice_) in zip(DIGESTS, slices, strict=True):
        for night, digest in digests(session.table(str(table)).where(where(slice_)), table).items():
            found.setdefault(night, {})[column] = digest
    return found


def _parties(before: Record | None, triggered_by: str | None) -> str | None:
    """Whoever started a run of the night by hand stays a party to it, whoever runs it again."""
    known = (before["triggered_by"] or "").split(",") if before else []
    return ",".join(sorted({name for name in (*known, triggered_by) if name})) or None


def _keep(settings: Settings, use_case: UseCase, new: Sequence[Record], *, unless_known: bool = False) -> None:
    """Each in place of the record of its revision, where there is one, all in one commit; `unless_known`: only of nights that have none."""
    nights = {record["day"] for record in new}
    revisions = {(record["day"], record["revision"]) for record in new}

    def change(known: list[Record]) -> list[Record]:
        have = {record["day"] for record in known} if unless_known else set()
        others = [record for record in known if unless_known or (record["day"], record["revision"]) not in revisions]
        return [*others, *(record for record in new if record["day"] not in have)]

    if new:
        records.amend(settings, tables.PUBLICATIONS, change, {"day": sorted(nights), "use_case": [use_case.name]})


def _newest(settings: Settings, use_case: UseCase, nights: Collection[date]) -> dict[date, Record]:
    found = records.read(settings, tables.PUBLICATIONS, day=sorted(nights), use_case=use_case.name)
    return {record["day"]: record for record in sorted(found, key=lambda record: int(record["revision"]))}
