"""Checks: a night's batch against its contract, as verdicts. Spark counts, this module judges, `ops.contract_results` remembers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from include.nightshift import nights as nights_module
from include.nightshift.ingest import silver
from include.nightshift.lakehouse import records, tables
from include.nightshift.lakehouse.session import literal, where
from include.nightshift.rules import SAMPLE, BatchRule, Distribution, Freshness, Gaps, Kind, OwnDay, Severity, Verdict, Volume, outcome

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.ingest.batches import Batch
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed

GRID = tuple(number / 20 for number in range(1, 20))
"""Where quantile functions are compared: 5 %, 10 %, … 95 %; the tails are the range rules' business."""
RETYPED_SHARE, RETYPED_ROWS = 0.5, 20
"""A column of which more than this share cannot be read has another type; fewer rows than this are no evidence."""
HISTORY = timedelta(days=3)
"""A file that came so much later than its day was landed as history; how fresh it is says nothing."""


@dataclass(frozen=True)
class Counted:
    """What Spark counted of one night."""

    accepted: int = 0
    broken: Mapping[str, int] = field(default_factory=dict)
    """Rows by the rule they broke, rules that only warn among them."""
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own_day: int = 0
    hours: tuple[int, ...] = ()
    """Hours of the own day in which something happened."""
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By distribution rule, its column's figures."""

    @property
    def rejected(self) -> int:
        return sum(self.broken.values()) - sum(rows for rule, rows in self.broken.items() if rule.startswith(_WARNED))

    def failing(self, rule: str) -> int:
        return self.broken.get(rule, 0) + self.broken.get(_WARNED + rule, 0)


_WARNED = "warned:"


def count(session: SparkSession, feed: Feed, judged: DataFrame, nights: Sequence[date]) -> dict[date, Counted]:
    """What the verdicts rest on, by night: one pass over the judged rows, one more where any broke a rule or categories are counted."""
    distributions = [rule for rule in feed.batch_rules if isinstance(rule, Distribution)]
    rows = {row["day"]: row for row in judged.groupBy("day").agg(*_figures(feed, distributions)).toArrow().to_pylist()}
    broken: dict[date, dict[str, int]] = {night: {} for night in nights}
    samples: dict[date, dict[str, tuple[str, ...]]] = {night: {} for night in nights}
    if any(row["_told"] for row in rows.values()):
        for row in _broken(judged).toArrow().to_pylist():
            broken[row["day"]][row["rule"]] = row["failed"]
            samples[row["day"]][row["rule"].removeprefix(_WARNED)] = tuple(row["sample"])
    shares = {rule.name: _shares(judged.where("_rule is null"), rule.column) for rule in distributions if rule.of == "shares"}
    counted = {}
    for night in nights:
        row = rows.get(night, {})
        columns = {rule.name: _column(rule, row, shares.get(rule.name, {}).get(night, {})) for rule in distributions}
        hours = tuple(sorted(row.get("_hours") or ()))
        counted[night] = Counted(row.get("_rows", 0), broken[night], samples[night], row.get("_own_day", 0), hours, columns)
    return counted


def _broken(judged: DataFrame) -> DataFrame:
    """Rows by night and rule, with the first few as file:line (or file#row where there are no lines)."""
    rejected = judged.where("_rule is not null").selectExpr("day", "_rule as rule", "_source", "_line", "_row")
    warned = judged.where("_rule is null and size(_warned) > 0").selectExpr(
        "day", f"explode(transform(_warned, name -> {literal(_WARNED)} || name)) as rule", "_source", "_line", "_row"
    )
    numbered = rejected.unionByName(warned).selectExpr(
        "*", "row_number() over (partition by day, rule order by _row) as _number", "count(*) over (partition by day, rule) as failed"
    )
    place = "struct(_row, concat(_source, coalesce(concat(':', _line), concat('#', _row))) as place)"
    return (
        numbered.where(f"_number <= {SAMPLE}")
        .groupBy("day", "rule", "failed")
        .agg(_expr(f"array_sort(collect_list({place})).place as sample"))
    )


def _expr(text: str) -> Any:
    from pyspark.sql import functions as F

    return F.expr(text)


def _figures(feed: Feed, distributions: Sequence[Distribution]) -> list[Any]:
    """Aggregates over the accepted rows, and how many rows there is anything to tell of."""
    own = f"_rule is null and to_date({feed.event_time}) = day"
    grid = ", ".join(f"{share}D" for share in GRID)
    wanted = [
        "count_if(_rule is null) as _rows",
        "count_if(_rule is not null or size(_warned) > 0) as _told",
        f"count_if({own}) as _own_day",
        f"collect_set(if({own}, hour({feed.event_time}), null)) as _hours",
    ]
    for rule in distributions:
        if rule.of == "values":
            wanted.append(f"percentile(if(_rule is null, cast({rule.column} as double), null), array({grid})) as {rule.name}")
        if rule.of == "nulls":
            wanted.append(f"avg(if(_rule is null, if({rule.column} is null, 1D, 0D), null)) as {rule.name}")
    return [_expr(text) for text in wanted]


def _shares(good: DataFrame, column: str) -> dict[date, dict[str, float]]:
    """Share of each value by night."""
    found: dict[date, dict[str, float]] = {}
    counted = good.groupBy("day", _expr(f"coalesce(cast({column} as string), 'null') as value")).count()
    for row in counted.toArrow().to_pylist():
        found.setdefault(row["day"], {})[row["value"]] = row["count"]
    return {night: {value: rows / sum(values.values()) for value, rows in sorted(values.items())} for night, values in found.items()}


def _column(rule: Distribution, row: Mapping[str, Any], shares: Mapping[str, float]) -> dict[str, Any]:
    match rule.of:
        case "values":
            return {"quantiles": row.get(rule.name) or []}
        case "nulls":
            return {"null_share": row.get(rule.name)}
        case _:
            return {"shares": dict(shares)}


@dataclass(frozen=True)
class Past:
    """What other nights were like."""

    nights: frozenset[date]
    """Nights that were ingested."""
    rows: Mapping[date, int]
    """Rows accepted by night."""
    figures: Mapping[date, Mapping[str, Mapping[str, Any]]]
    """Each distribution rule's figures by night."""

    def after(self, night: date, counted: Counted) -> Past:
        """The past as the nights after this one see it."""
        return Past(self.nights | {night}, {**self.rows, night: counted.accepted}, {**self.figures, night: counted.columns})


def past(settings: Settings, feed: Feed, nights: Sequence[date]) -> Past:
    """What is remembered of the nights before and between these."""
    rules = [rule for rule in feed.batch_rules if isinstance(rule, Distribution)]
    first = min(nights) - timedelta(days=max([rule.nights for rule in rules], default=1))
    window = list(nights_module.between(first, max(nights)))
    ingested = records.read(settings, tables.BATCHES, day=window, feed=feed.name)
    figures: dict[date, dict[str, Any]] = {}
    if rules:
        for record in records.read(settings, tables.CONTRACT_RESULTS, day=window, feed=feed.name, rule=[rule.name for rule in rules]):
            figures.setdefault(record["day"], {})[record["rule"]] = json.loads(record["figures"])
    rows = {record["day"]: record["accepted"] for record in ingested}
    return Past(frozenset(rows), rows, figures)


def judge(feed: Feed, batch: Batch, counted: Counted, past: Past, accepted_rules: Collection[str] = ()) -> list[Verdict]:
    """The verdicts on one night's batch; a rule in `accepted_rules` lets the batch through though it would stop it."""
    if not batch.lands:
        return []
    found = [*_schema(feed, batch, counted), *_rows(feed, batch, counted)]
    found += [_batch_rule(rule, feed, batch, counted, past) for rule in feed.batch_rules]
    return [replace(verdict, outcome="accepted") if verdict.stops and verdict.rule in accepted_rules else verdict for verdict in found]


def _verdict(feed: Feed, batch: Batch, rule: str, kind: Kind, severity: Severity, passed: bool | None, reason: str, **more: Any) -> Verdict:
    return Verdict(
        feed=feed.name,
        night=batch.night,
        rule=rule,
        kind=kind,
        severity=severity,
        outcome=outcome(passed),
        rows=batch.rows,
        reason=reason,
        batch=batch.batch,
        **more,
    )


def _schema(feed: Feed, batch: Batch, counted: Counted) -> list[Verdict]:
    unreadable = {c.name: counted.failing(silver.UNREADABLE + c.name) for c in feed.columns}
    retyped = {name: rows for name, rows in unreadable.items() if batch.rows >= RETYPED_ROWS and rows > RETYPED_SHARE * batch.rows}
    types = ", ".join(f"{c.name} is no {c.type} in {retyped[c.name]} of {batch.rows} rows" for c in feed.columns if c.name in retyped)
    order = "the file's columns stand in another order than the contract's" if batch.reordered else "in the contract's order"
    verdicts = [
        _verdict(feed, batch, "same_columns", "schema", "stop", True, f"the columns of contract {feed.name} {batch.contract_version}"),
        _verdict(feed, batch, "same_order", "schema", "warn", not batch.reordered, order),
        _verdict(feed, batch, "same_types", "schema", "stop", not retyped, types or "the contract's types"),
    ]
    readable = {silver.MALFORMED: "the row could not be parted"}
    readable |= {silver.UNREADABLE + name: f"{name} could not be read" for name in unreadable}
    verdicts += [_row_verdict(feed, batch, counted, rule, "schema", "reject", reason) for rule, reason in readable.items()]
    return verdicts


def _rows(feed: Feed, batch: Batch, counted: Counted) -> list[Verdict]:
    own = [_row_verdict(feed, batch, counted, rule.name, rule.kind, rule.severity, rule.reason) for rule in feed.rules]
    keys = (
        (silver.DUPLICATE, f"{feed.key} came before, with the same values"),
        (silver.CONFLICT, f"{feed.key} came before, with other values"),
    )
    return own + [_row_verdict(feed, batch, counted, rule, "duplicates", "reject", reason) for rule, reason in keys]


def _row_verdict(feed: Feed, batch: Batch, counted: Counted, rule: str, kind: Kind, severity: Severity, reason: str) -> Verdict:
    failed = counted.failing(rule)
    sample = counted.samples.get(rule, ())
    return _verdict(feed, batch, rule, kind, severity, not failed, reason if failed else "no row", failed_rows=failed, sample=sample)


def _batch_rule(rule: BatchRule, feed: Feed, batch: Batch, counted: Counted, past: Past) -> Verdict:
    match rule:
        case OwnDay():
            passed, reason, figures = _own_day(rule, batch, counted)
        case Volume():
            passed, reason, figures = _volume(rule, batch, counted, past)
        case Gaps():
            passed, reason, figures = _gaps(rule, feed, batch, counted, past)
        case Freshness():
            passed, reason, figures = _freshness(rule, batch)
        case Distribution():
            passed, reason, figures = _distribution(rule, batch, counted, past)
    return _verdict(feed, batch, rule.name, rule.kind, rule.severity, passed, reason, figures=figures)


Judged = tuple[bool | None, str, dict[str, Any]]


def _own_day(rule: OwnDay, batch: Batch, counted: Counted) -> Judged:
    if not counted.accepted:
        return None, "no row was accepted", {}
    share = counted.own_day / counted.accepted
    return share >= rule.at_least, f"{share:.1%} of the rows happened on {batch.night}, at least {rule.at_least:.0%} must", {"share": share}


def _volume(rule: Volume, batch: Batch, counted: Counted, past: Past) -> Judged:
    weekdays = [batch.night - timedelta(weeks=number) for number in range(1, rule.weeks + 1)]
    seen = [past.rows[night] for night in weekdays if past.rows.get(night)]
    usual = median(seen) if seen else 0
    if len(seen) < 2 or usual < rule.min_rows:
        return None, f"{len(seen)} earlier {batch.night:%A}s of {usual:g} rows are too little to compare with", {}
    low, high = rule.at_least * usual, rule.at_most * usual
    reason = f"{counted.accepted} rows, expected {low:.0f} to {high:.0f}: the last {len(seen)} {batch.night:%A}s had {usual:g}"
    return low <= counted.accepted <= high, reason, {"usual": usual}


def _gaps(rule: Gaps, feed: Feed, batch: Batch, counted: Counted, past: Past) -> Judged:
    before = batch.night - timedelta(days=1)
    if feed.drops_on(before) and before not in past.nights and any(night < before for night in past.nights):
        return False, f"night {before} is missing: land it, then run it and this night again", {}
    if not counted.hours:
        return None, "nothing happened on the night's own day", {}
    hours = [-1, *counted.hours, 24]
    longest = max(after - hour - 1 for hour, after in pairwise(hours))
    return longest < rule.hours, f"{longest} hours in a row without an event, fewer than {rule.hours} expected", {"hours": longest}


def _freshness(rule: Freshness, batch: Batch) -> Judged:
    if batch.landed_at is None or batch.landed_at > nights_module.known_at(batch.night) + HISTORY:
        return None, "landed as history", {}
    hours = (batch.landed_at - nights_module.known_at(batch.night)).total_seconds() / 3600
    return hours <= rule.hours, f"it came {hours:.1f} hours after the day ended, {rule.hours:g} are promised", {"hours": round(hours, 2)}


def _distribution(rule: Distribution, batch: Batch, counted: Counted, past: Past) -> Judged:
    figures = dict(counted.columns.get(rule.name, {}))
    window = [batch.night - timedelta(days=number) for number in range(1, rule.nights + 1)]
    before = [past.figures[n][rule.name] for n in window if rule.name in past.figures.get(n, {}) and past.rows.get(n, 0) >= rule.min_rows]
    if len(before) < rule.min_nights or counted.accepted < rule.min_rows:
        return None, f"{len(before)} nights to compare with, {rule.min_nights} are needed", figures
    distances = _distances(rule, [*before, figures])
    tonight, furthest = distances[-1], max(distances[:-1])
    reason = (
        f"{rule.column} lies {tonight:.4f} from the {len(before)} nights before, the furthest of which lies {furthest:.4f}; "
        f"{rule.tolerance:g} times that is allowed"
    )
    return tonight <= rule.tolerance * furthest or tonight < 1e-9, reason, figures


def _distances(rule: Distribution, figures: Sequence[Mapping[str, Any]]) -> list[float]:
    """How far each night lies from the mean of the others."""
    import numpy as np

    if rule.of == "shares":
        values = sorted({value for night in figures for value in night["shares"]})
        points, scale = np.array([[night["shares"].get(value, 0.0) for value in values] for night in figures]), 0.5
    elif rule.of == "nulls":
        points, scale = np.array([[night["null_share"]] for night in figures]), 1.0
    else:
        points = np.array([night["quantiles"] for night in figures], dtype=float)
        middle = points[:-1].mean(axis=0)
        spread = float(middle[GRID.index(0.75)] - middle[GRID.index(0.25)])
        scale = 1 / len(GRID) / (spread if spread > 0 else 1.0)
    others = (points.sum(axis=0) - points) / (len(points) - 1)
    return [float(scale * np.abs(point - other).sum()) for point, other in zip(points, others, strict=True)]


def accepted_before(settings: Settings, feed: Feed, batch: Batch) -> set[str]:
    """Rules that a person has accepted for this very file."""
    found = records.read(settings, tables.CONTRACT_RESULTS, day=[batch.night], feed=feed.name, verdict="accepted")
    return {record["rule"] for record in found if record["batch"] == batch.batch}


def store(settings: Settings, feed: Feed, nights: Collection[date], verdicts: Iterable[Verdict], kinds: Collection[str]) -> list[Verdict]:
    """Replace what the rules of these kinds said of the nights; returns the failures that were not known before."""
    wanted = list(verdicts)
    slice_: dict[str, list[Any]] = {"day": sorted(nights), "feed": [feed.name], "kind": sorted(kinds)}
    known = {
        (record["day"], record["rule"], record["batch"])
        for record in records.read(settings, tables.CONTRACT_RESULTS, **slice_)
        if record["verdict"] == "failed"
    }
    now = datetime.now(UTC)
    written = [
        {
            "day": verdict.night,
            "feed": verdict.feed,
            "rule": verdict.rule,
            "kind": verdict.kind,
            "severity": verdict.severity,
            "verdict": verdict.outcome,
            "rows": verdict.rows,
            "failed_rows": verdict.failed_rows,
            "sample": ", ".join(verdict.sample),
            "reason": verdict.reason,
            "figures": json.dumps(verdict.figures, sort_keys=True),
            "batch": verdict.batch,
            "judged_at": now,
        }
        for verdict in wanted
    ]
    records.replace(settings, tables.CONTRACT_RESULTS, written, slice_)
    return [v for v in wanted if v.outcome == "failed" and (v.night, v.rule, v.batch) not in known]


def refigure(session: SparkSession, settings: Settings, feed: Feed, nights: Collection[date]) -> None:
    """Make the figures of distributions those of the nights' rows as silver holds them now; the verdicts stand as they were given.

    The quantiles of a small night are amounts of single rows: what is erased must not live on in them.
    """
    rules = {rule.name for rule in feed.batch_rules if isinstance(rule, Distribution)}
    if not rules or not nights:
        return
    held = session.table(str(tables.silver(feed))).where(where({"day": sorted(nights)}))
    accepted = held.selectExpr("*", "cast(null as string) as _rule", "cast(array() as array<string>) as _warned")
    figures = {night: counted.columns for night, counted in count(session, feed, accepted, sorted(nights)).items()}

    def refigured(records_: list[records.Record]) -> list[records.Record]:
        return [
            record | {"figures": json.dumps(figures[record["day"]][record["rule"]], sort_keys=True)} if record["rule"] in rules else record
            for record in records_
        ]

    records.amend(settings, tables.CONTRACT_RESULTS, refigured, {"day": sorted(nights), "feed": [feed.name]})
