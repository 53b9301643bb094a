"""Seen: the figures of a night as guards look at them, from the tables' files, without the server.

What is read is what will be published, after it was written: a count that a stage remembers would not see what came between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift.lakehouse import log, records, tables
from include.nightshift.monitor import drift
from include.nightshift.nights import between
from include.nightshift.score.guards import BINS, Checked, Distance, Seen

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.promote.trust import Reigning
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

Lists = Mapping[date, Sequence[int]]
"""Entities on the list of a night, by night."""

CHAMPIONS = {"role": ["champion"]}
_SPARKS = {"bigint": "long", "int": "integer"}
"""What Spark calls a column of ours, in the files."""


def figures(settings: Settings, use_case: UseCase, models: Mapping[date, Reigning], lists: Lists) -> dict[date, Seen]:
    """The figures of the nights, each scored by the model that is given for it.

    `lists`: the list that each night would get, and those of nights before, as far as they are known.

    Raises:
        LakehouseError: a table cannot be read.
    """
    nights = sorted(models)
    wrong = _wrong_columns(settings, (tables.features(use_case), tables.scores(use_case)))
    first = nights[0] - timedelta(days=use_case.guards.recent_nights)
    events = log.rows_by_night(settings, tables.silver(use_case.events), {"day": nights})
    rows = log.rows_by_night(settings, tables.features(use_case), {"day": list(between(first, nights[-1]))})
    checked = {record["day"]: _checked(record) for record in records.read(settings, tables.PARITY, day=nights, use_case=use_case.name)}
    if wrong:
        return {night: _unread(use_case, night, events, rows, wrong) for night in nights}
    features = _by_night(_features(settings, use_case, nights))
    scores = _by_night(_scores(settings, use_case, list(between(nights[0] - _back(use_case), nights[-1]))))
    held = _held(settings, use_case, list(scores))
    seen = {}
    for night in nights:
        usual = {
            before: scores[before]
            for before in between(night - _back(use_case), night - timedelta(days=1))
            if before in scores and before not in held and _versions(scores[before]) == (models[night].version,)
        }
        seen[night] = _figures(use_case, night, models[night], features.get(night), scores.get(night), usual) | {
            "events": events.get(night, 0),
            "recent": _recent(use_case, night, rows),
            "parity": checked.get(night),
            **_listed(lists, night),
        }
    return {night: Seen(**figures) for night, figures in seen.items()}


def _figures(
    use_case: UseCase,
    night: date,
    model: Reigning,
    features: pa.Table | None,
    scores: pa.Table | None,
    usual: Mapping[date, pa.Table],
) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    key, no_rows = use_case.events.key, pa.table({})
    features, scores = features or no_rows, scores or no_rows
    score = _column(scores, "score")
    finite = np.isfinite(score)
    keys = _column(features, key)
    own_day = None
    if len(features):
        happened = pc.cast(features.column(use_case.events.event_time), pa.date32(), safe=False)
        own_day = float(pc.mean(pc.equal(happened, pa.scalar(night, pa.date32()))).as_py() or 0.0)
    return {
        "night": night,
        "owed": use_case.events.drops_on(night),
        "features": len(features),
        "features_doubled": len(features) - len(np.unique(keys)),
        "scores": len(scores),
        "scores_doubled": len(scores) - len(np.unique(_column(scores, key))),
        "strangers": int((~np.isin(_column(scores, key), keys)).sum()),
        "own_day": own_day,
        "unknown": int((~finite).sum()),
        "outside": int(((score[finite] < 0) | (score[finite] > 1)).sum()),
        "distinct": len(np.unique(score)),
        "versions": _versions(scores),
        "expected": model.version,
        "distance": _distance(use_case, model, score, usual),
        "entities": len(np.unique(_column(scores, use_case.entity))),
    }


def _distance(use_case: UseCase, model: Reigning, score: np.ndarray, usual: Mapping[date, pa.Table]) -> Distance | None:
    """From the last nights that the same model scored; while they are few, from the rows that it was judged on."""
    import numpy as np

    if len(usual) >= use_case.guards.enough_nights:
        nights = sorted(usual)[-use_case.guards.reference_nights :]
        before = np.concatenate([_column(usual[night], "score") for night in nights])
        described = drift.reference({"score": before}, BINS)["score"]
        return Distance.between(described, score, f"version {model.version}'s nights from {nights[0]} to {nights[-1]}")
    try:
        described = json.loads((model.folder / "reference.json").read_text())["score"]
    except (FileNotFoundError, KeyError):
        return None
    return Distance.between(described, score, f"the rows that version {model.version} was judged on")


def _listed(lists: Lists, night: date) -> dict[str, Any]:
    tonight, earlier = set(lists.get(night, ())), [before for before in lists if before < night]
    before = set(lists[max(earlier)]) if earlier else set()
    return {"listed": len(tonight), "repeated": len(tonight & before) if before else None}


def _unread(use_case: UseCase, night: date, events: Mapping[date, int], rows: Mapping[date, int], wrong: Sequence[str]) -> Seen:
    """A night of which nothing more can be told, because the columns are others."""
    return Seen(
        night=night,
        owed=use_case.events.drops_on(night),
        events=events.get(night, 0),
        features=rows.get(night, 0),
        scores=0,
        own_day=None,
        recent=_recent(use_case, night, rows),
        columns=tuple(wrong),
        parity=None,
        distinct=0,
        versions=(),
        expected=None,
        distance=None,
        entities=0,
        listed=0,
        repeated=None,
    )


def _wrong_columns(settings: Settings, read: Sequence[Table]) -> list[str]:
    """Columns that a table lacks, or has of another type than it is declared with. One that is declared no more does no harm."""
    wrong = []
    for table in read:
        held = {field.name: str(field.type.type) for field in log.opened(settings, table).schema().fields}
        for column in table.columns:
            has, expected = held.get(column.name, "missing"), _SPARKS.get(column.type, column.type)
            if has != expected:
                wrong.append(f"{table}: {column.name} is {has}, expected {expected}; `describe history {table}` says who changed it")
    return wrong


def _features(settings: Settings, use_case: UseCase, nights: list[date]) -> pa.Table:
    return log.columns(settings, tables.features(use_case), ["day", use_case.events.key, use_case.events.event_time], {"day": nights})


def _scores(settings: Settings, use_case: UseCase, nights: list[date]) -> pa.Table:
    names = ["day", use_case.events.key, use_case.entity, "score", "model_version"]
    return log.columns(settings, tables.scores(use_case), names, {"day": nights, **CHAMPIONS})


def _by_night(rows: pa.Table) -> dict[date, pa.Table]:
    import pyarrow.compute as pc

    return {night: rows.filter(pc.equal(rows.column("day"), night)) for night in rows.column("day").unique().to_pylist()}


def _held(settings: Settings, use_case: UseCase, nights: list[date]) -> set[date]:
    """Nights whose list is held: their scores are no measure of others."""
    newest: dict[date, records.Record] = {}
    for record in records.read(settings, tables.PUBLICATIONS, day=nights, use_case=use_case.name):
        if record["day"] not in newest or newest[record["day"]]["revision"] < record["revision"]:
            newest[record["day"]] = record
    return {night for night, record in newest.items() if record["state"] == "held"}


def _checked(record: records.Record) -> Checked:
    return Checked(record["rows"], record["differences"], tuple(column["column"] for column in json.loads(record["sample"])))


def _recent(use_case: UseCase, night: date, rows: Mapping[date, int]) -> dict[date, int]:
    first = night - timedelta(days=use_case.guards.recent_nights)
    return {before: count for before, count in rows.items() if first <= before < night}


def _back(use_case: UseCase) -> timedelta:
    """How far back nights are looked for whose scores are usual: some between them may be held, or another model's."""
    return timedelta(days=2 * use_case.guards.reference_nights)


def _versions(scores: pa.Table) -> tuple[str, ...]:
    return tuple(sorted(map(str, scores.column("model_version").unique().to_pylist()))) if len(scores) else ()


def _column(rows: pa.Table, name: str) -> np.ndarray:
    """As numbers; null as NaN."""
    import numpy as np

    return rows.column(name).to_numpy() if len(rows) else np.array([])
