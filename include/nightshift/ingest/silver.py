"""Silver: landed rows typed, checked and deduplicated; what breaks a rule goes to quarantine with the rule and the raw row.

Rows in are silver plus quarantine, always. Everything here is SQL over names that `usecase` has checked.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from include.nightshift.lakehouse import log, tables, writes
from include.nightshift.lakehouse.session import literal, where

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Column, Feed

MALFORMED = "malformed"
UNREADABLE = "unreadable_"
DUPLICATE, CONFLICT = "duplicate", "conflict"

SHOWN = 100
"""Characters of a value that a reason shows; quarantine holds all of it."""

_DATE = r"^\d{4}-\d{2}-\d{2}"


@contextmanager
def judged(session: SparkSession, settings: Settings, feed: Feed, landed: DataFrame, nights: Sequence[date]) -> Iterator[DataFrame]:
    """The landed rows of the nights, typed, each with the first rule it breaks (`_rule`, `_reason`; null where it keeps all).

    A key that an earlier night, or an earlier row of this one, has brought already is a duplicate (a conflict where other values
    came with it); a later night that brought it too does not count, so that landing an old night again gives what it gave.
    Judged once and held by the server until the block ends.
    """
    view, held = f"landed_{uuid.uuid4().hex}", f"ruled_{uuid.uuid4().hex}"
    landed.where(where({"day": nights})).createOrReplaceTempView(view)
    ruled = session.sql(_ruling(feed, view)).persist()
    ruled.createOrReplaceTempView(held)
    frame = session.sql(_deduplication(feed, held, _candidates(session, settings, feed, held, nights))).persist()
    try:
        yield frame
    finally:
        frame.unpersist()
        ruled.unpersist()
        for name in (held, view):
            session.catalog.dropTempView(name)


def write(
    session: SparkSession,
    settings: Settings,
    feed: Feed,
    judged: DataFrame,
    nights: Sequence[date],
    accepted: int,
    *,
    changing: Callable[[list[date]], None],
) -> writes.Written:
    """Replace the nights' rows in silver by those that keep all rules; `changing` is told first which nights change."""
    good = judged.where("_rule is null").where(where({"day": nights})).selectExpr("*", "cast(date_add(day, 1) as timestamp) as known_at")
    return writes.replace(session, settings, tables.silver(feed), good, {"day": nights}, rows_expected=accepted, changing=changing)


def quarantine(session: SparkSession, settings: Settings, feed: Feed, judged: DataFrame, nights: Sequence[date], rejected: int) -> int:
    """Replace the nights' rows in quarantine; returns how many that waited there were released, because they pass now.

    A released row stays, with the moment of its release, until its file is landed anew with other content.
    """
    slice_ = {"day": nights, "feed": [feed.name]}
    now = literal(datetime.now(UTC).replace(tzinfo=None))
    judged = judged.where(where({"day": nights}))
    rejects = judged.where("_rule is not null").selectExpr(
        "day",
        f"{literal(feed.name)} as feed",
        "_rule as rule",
        "_reason as reason",
        "if(_malformed is null, to_json(_raw, map('ignoreNullFields', 'false')), to_json(named_struct('text', _text))) as raw",
        "_source",
        "_row",
        "_line",
        "_batch",
        f"{now} as quarantined_at",
        "cast(null as timestamp) as released_at",
    )
    waiting = log.rows_by_night(settings, tables.QUARANTINE, slice_)
    released = 0
    if any(waiting.values()):
        passing = judged.where("_rule is null").select("day", "_batch", "_row")
        held = session.table(str(tables.QUARANTINE)).where(where(slice_)).join(passing, ["day", "_batch", "_row"], "left_semi")
        freed = held.selectExpr(*(f"coalesce(released_at, {now}) as released_at" if n == "released_at" else n for n in rejects.columns))
        released = freed.count()
        rejects = rejects.unionByName(freed) if released else rejects
    writes.replace(session, settings, tables.QUARANTINE, rejects, slice_, rows_expected=rejected + released)
    return released


def overlapping(session: SparkSession, settings: Settings, feed: Feed, judged: DataFrame, nights: Sequence[date]) -> dict[date, int]:
    """Later nights, not among these, whose silver holds keys that these nights bring: rows by night."""
    later = [night for night in log.rows_by_night(settings, tables.silver(feed)) if night > min(nights) and night not in set(nights)]
    later = holding(settings, feed, later, judged.where("_rule is null"))
    if not later:
        return {}
    bringing = judged.where("_rule is null").selectExpr(feed.key, "day as _brought")
    held = session.table(str(tables.silver(feed))).where(where({"day": later})).select("day", feed.key)
    counted = held.join(bringing, feed.key).where("day > _brought").groupBy("day").count().toArrow().to_pylist()
    return {row["day"]: row["count"] for row in sorted(counted, key=lambda row: row["day"])}


def _ruling(feed: Feed, view: str) -> str:
    """Types each row and names the first rule of the row's own that it breaks."""
    names = [column.name for column in feed.columns]
    typed = ",\n    ".join(f"{_cast(column)} as {column.name}" for column in feed.columns)
    cases = [("_malformed is not null", literal(MALFORMED), "_malformed"), *(_unreadable(column) for column in feed.columns)]
    cases += [(rule.breach, literal(rule.name), literal(rule.reason)) for rule in feed.rules if rule.severity != "warn"]
    warned = [f"if({rule.breach}, {literal(rule.name)}, null)" for rule in feed.rules if rule.severity == "warn"]
    return f"""
with typed as (
  select day, _source, _row, _line, _batch, _malformed, _text,
    struct({", ".join(names)}) as _raw,
    {typed}
  from {view}
)
select *,
  {_first_true([(when, name) for when, name, _ in cases])} as _broken,
  {_first_true([(when, why) for when, _, why in cases])} as _why,
  filter(array({", ".join(warned) or "cast(null as string)"}), name -> name is not null) as _warned
from typed
"""


def _unreadable(column: Column) -> tuple[str, str, str]:
    """Condition, rule and reason of a value that its column's type cannot hold; a column that may be empty may be."""
    given = "" if column.required else f" and nullif(trim(_raw.{column.name}), '') is not null"
    wrong, missing = literal(f"{column.name} is no {column.type}: "), literal(f"{column.name} is missing")
    return (
        f"{column.name} is null{given}",
        literal(UNREADABLE + column.name),
        f"coalesce({wrong} || left(_raw.{column.name}, {SHOWN}), {missing})",
    )


def _deduplication(feed: Feed, ruled: str, candidates: Collection[date]) -> str:
    """Adds the rule of the key: the first row that brings it keeps it."""
    searched = where({"day": sorted(candidates)}) if candidates else "false"
    came, other = literal(f"{feed.key} came already in night "), literal(", with other values")
    return f"""
with ruled as (
  select *, {_values(feed)} as _values from {ruled}
),
ranked as (
  select *, row_number() over first as _rank, first(day) over first as _first_day, first(_values) over first as _first_values
  from ruled
  window first as (partition by {feed.key}, _broken is null order by day, _row)
),
earlier as (
  select {feed.key} as _key, min(day) as _earlier_day, min_by({_values(feed)}, day) as _earlier_values
  from silver.{feed.name}
  where {searched} and {feed.key} in (select {feed.key} from {ruled} where _broken is null)
  group by {feed.key}
),
compared as (
  select ranked.*, coalesce(_earlier_day, if(_rank > 1, _first_day, null)) as _since,
    coalesce(_earlier_values, _first_values) = _values as _equal
  from ranked left join earlier on {feed.key} = _key and _earlier_day < day and _broken is null
)
select * except (_broken, _why, _values, _rank, _first_day, _first_values, _since, _equal),
  coalesce(_broken, if(_since is null, null, if(_equal, {literal(DUPLICATE)}, {literal(CONFLICT)}))) as _rule,
  if(_broken is not null, _why, {came} || _since || if(_equal, '', {other})) as _reason
from compared
"""


def _values(feed: Feed) -> str:
    """A hash of a row's values, nulls marked, because the hash function passes over them."""
    return f"xxhash64({', '.join(f'{column.name} is null, {column.name}' for column in feed.columns)})"


def _candidates(session: SparkSession, settings: Settings, feed: Feed, ruled: str, nights: Sequence[date]) -> list[date]:
    """Earlier nights outside these in which some of their keys may stand, going by the key ranges of silver's files.

    Within `dedup_days` every such night is searched. Beyond, only while those ranges tell nights apart: where keys have no order
    in time, all history would be searched each night.
    """
    held = log.rows_by_night(settings, tables.silver(feed))
    earlier = [night for night in held if night < max(nights) and night not in set(nights)]
    found = holding(settings, feed, earlier, session.table(ruled).where("_broken is null"))
    near = [night for night in found if (min(nights) - night).days <= feed.dedup_days]
    beyond = [night for night in found if (min(nights) - night).days > feed.dedup_days]
    return near + (beyond if len(beyond) <= feed.dedup_days else [])


def holding(settings: Settings, feed: Feed, nights: Collection[date], bringing: DataFrame) -> list[date]:
    """Those of the nights that have a file in whose key range some of the keys lie which the frame brings."""
    import numpy as np

    if not nights:
        return []
    keys = np.unique(bringing.select(feed.key).toArrow()[feed.key].to_numpy())
    return sorted(
        {
            night
            for night, low, high in log.ranges(settings, tables.silver(feed), feed.key)
            if night in set(nights) and (low is None or np.searchsorted(keys, low, "left") < np.searchsorted(keys, high, "right"))
        }
    )


DOUBLE_DIGITS = 15
"""Decimals of so many digits come through a double and back; of longer ones a double cannot tell noise from digits."""
DOUBLE_NOISE = 2.0**-51
"""Relative: two units in the last place of a double, which is what one sum or product of decimals is off by."""


def _cast(column: Column) -> str:
    """The text as the column's type, null where it does not say one without rounding or guessing."""
    text = f"nullif(trim({column.name}), '')"
    cast = f"try_cast({text} as {column.type})"
    if column.type.startswith("decimal"):
        # A cast rounds what has more digits.
        precision, scale = map(int, column.type[8:-1].split(","))
        exact = f"{cast} = try_cast({text} as decimal(38,{38 - precision + scale}))"
        if precision <= DOUBLE_DIGITS:
            # An export of binary doubles says 1108.8500000000001 where it means 1108.85: the number next to it, not another amount.
            double = f"try_cast({cast} as double)"
            exact = f"({exact} or abs(try_cast({text} as double) - {double}) <= abs({double}) * {DOUBLE_NOISE!r}d)"
        return f"if({exact}, {cast}, null)"
    if column.type == "double":
        return f"if(isnan({cast}) or abs({cast}) = double('infinity'), null, {cast})"
    if column.type in ("timestamp", "date"):
        # A cast takes a year for its first of January, and a time for today's.
        return f"if({text} rlike {literal(_DATE)}, {cast}, null)"
    return cast


def _first_true(cases: list[tuple[str, str]]) -> str:
    return "case " + " ".join(f"when {condition} then {value}" for condition, value in cases) + " end"
