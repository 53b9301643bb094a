"""Silver: bronze typed, checked and deduplicated; what breaks a rule goes to quarantine with the rule and the raw row.

Rows in are silver plus quarantine, always. Everything here is SQL over names that `usecase` has checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from include.nightshift.errors import ContractError
from include.nightshift.ingest.landing import Drop
from include.nightshift.lakehouse import tables, writes
from include.nightshift.lakehouse.session import literal, where

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Column, Feed


def write(session: SparkSession, settings: Settings, feed: Feed, nights: Sequence[date], drops: Sequence[Drop]) -> dict[date, int]:
    """Replace the nights' rows in silver and quarantine; returns the accepted rows by night.

    Raises:
        ContractError: rows in are not silver plus quarantine (nothing that is published rests on it then).
    """
    judged = session.sql(judgement(feed, nights))
    accepted, broken = dict.fromkeys(nights, 0), 0
    for count in judged.groupBy("day", judged["_rule"].isNull().alias("good")).count().toArrow().to_pylist():
        if count["good"]:
            accepted[count["day"]] = count["count"]
        else:
            broken += count["count"]
    malformed = sum(len(drop.malformed) for drop in drops)
    _check_sum(feed, drops, sum(accepted.values()), broken, malformed)
    good = judged.where("_rule is null").selectExpr("*", "cast(date_add(day, 1) as timestamp) as known_at")
    writes.replace(session, settings, tables.silver(feed), good, {"day": nights}, rows_expected=sum(accepted.values()))
    rejects = rejected(session, feed, judged, drops)
    slice_ = {"day": nights, "feed": [feed.name]}
    writes.replace(session, settings, tables.QUARANTINE, rejects, slice_, rows_expected=broken + malformed)
    return accepted


def _check_sum(feed: Feed, drops: Sequence[Drop], accepted: int, broken: int, malformed: int) -> None:
    landed = sum(drop.rows for drop in drops)
    if landed != accepted + broken + malformed:
        raise ContractError(
            f"silver.{feed.name}, nights {', '.join(str(drop.night) for drop in drops)}: {landed} rows landed, but {accepted} passed, "
            f"{broken} broke a rule and {malformed} could not be parted. Another run of this night may be writing: run it again"
        )


def judgement(feed: Feed, nights: Sequence[date]) -> str:
    """The query that types each bronze row of the nights and names the first rule it breaks (`_rule`, `_reason`).

    A key that an earlier night, or an earlier row of this one, has brought already is a duplicate; a later night
    that brought it too does not count, so that landing an old night again gives what it gave.
    """
    names = [column.name for column in feed.columns]
    first = min(nights) - timedelta(days=feed.dedup_days)
    typed = ",\n    ".join(f"{_cast(column)} as {column.name}" for column in feed.columns)
    unreadable = [
        (f"{c.name} is null", literal(f"unreadable_{c.name}"), f"concat({literal(c.name + ' is no ' + c.type + ': ')}, _raw.{c.name})")
        for c in feed.columns
    ]
    broken = [(rule.breach, literal(rule.name), literal(rule.reason)) for rule in feed.rules]
    rules = [(condition, name) for condition, name, _ in unreadable + broken]
    reasons = [(condition, reason) for condition, _, reason in unreadable + broken]
    return f"""
with typed as (
  select day, _source, _row, _batch,
    struct({", ".join(names)}) as _raw,
    {typed}
  from bronze.{feed.name}
  where {where({"day": nights})}
),
ruled as (
  select *, {_first_true(rules)} as _broken, {_first_true(reasons)} as _why
  from typed
),
seen as (
  select day, {feed.key}, 0 as _row, true as _earlier from silver.{feed.name}
  where day >= {literal(first)} and day < {literal(max(nights))} and day not in ({", ".join(literal(night) for night in nights)})
  union all
  select day, {feed.key}, _row, false from ruled where _broken is null
),
ranked as (
  select day, {feed.key}, _row, row_number() over (partition by {feed.key} order by day, _row) as _rank,
    first(day) over (partition by {feed.key} order by day, _row) as _first_day
  from seen
  qualify not _earlier
)
select ruled.*,
  coalesce(_broken, if(_rank > 1, 'duplicate', null)) as _rule,
  coalesce(_why, if(_rank > 1, concat({literal(feed.key + " came already in night ")}, _first_day), null)) as _reason
from ruled left join ranked using (day, {feed.key}, _row)
"""


def rejected(session: SparkSession, feed: Feed, judged: DataFrame, drops: Sequence[Drop]) -> DataFrame:
    """The quarantine rows of the nights: those that broke a rule, and those that could not be parted at all."""
    now = datetime.now(UTC)
    broken = judged.where("_rule is not null").selectExpr(
        "day",
        f"{literal(feed.name)} as feed",
        "_rule as rule",
        "_reason as reason",
        "to_json(_raw) as raw",
        "_source",
        "_row",
        "_batch",
        f"{literal(now.replace(tzinfo=None))} as quarantined_at",
        "cast(null as timestamp) as released_at",
    )
    lines = [
        {
            "day": drop.night,
            "feed": feed.name,
            "rule": "malformed",
            "reason": bad.reason,
            "raw": json.dumps(bad.text, ensure_ascii=False),
            "_source": drop.source,
            "_row": bad.row,
            "_batch": drop.batch,
            "quarantined_at": now,
        }
        for drop in drops
        for bad in drop.malformed
    ]
    return broken.unionByName(writes.in_memory(session, tables.QUARANTINE.arrow(lines))) if lines else broken


def _cast(column: Column) -> str:
    return f"try_cast(nullif(trim({column.name}), '') as {column.type})"


def _first_true(cases: list[tuple[str, str]]) -> str:
    return "case " + " ".join(f"when {condition} then {value}" for condition, value in cases) + " end"
