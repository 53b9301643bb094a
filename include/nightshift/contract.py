"""Contracts: what a feed owes, in the Open Data Contract Standard (v3), read into a `Feed`.

`contracts/<feed>-<version>.odcs.yaml`, one file a version. The newest is in force; it may only add columns that need no value, so
that files of the versions before it can still be read. Rules stand under `quality` with `engine: nightshift`; their
`implementation` says `check` (one of the six kinds) and its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import ConfigurationError
from include.nightshift.lakehouse.session import literal
from include.nightshift.rules import BatchRule, Counts, Distribution, FeedRule, Freshness, Gaps, OwnDay, Reference, RowRule, Volume
from include.nightshift.usecase import Column, Feed, version_number

if TYPE_CHECKING:
    from open_data_contract_standard.model import DataQuality, OpenDataContractStandard, SchemaObject, SchemaProperty

SUFFIX = ".odcs.yaml"
PERSONAL = "personal"
"""The `classification` of a column that names or describes a person."""

AnyRule = RowRule | BatchRule | FeedRule


def feed(folder: Path, name: str) -> Feed:
    """The feed as its newest contract describes it.

    Raises:
        ConfigurationError: there is no contract, one cannot be read, or a version does more than add columns.
    """
    found = sorted((_read(path, name) for path in folder.glob(f"{name}-*{SUFFIX}")), key=lambda read: version_number(read.version))
    if not found:
        raise ConfigurationError(f"no contract {folder}/{name}-<version>{SUFFIX}: every feed has one")
    current = found[0]
    for newer in found[1:]:
        current = _succeeded(current, newer)
    return current


def _succeeded(older: Feed, newer: Feed) -> Feed:
    """The newer feed, each of its columns knowing the version that brought it."""
    kept = {column.name: column for column in older.columns}
    for name, column in kept.items():
        after = next((c for c in newer.columns if c.name == name), None)
        if after is None or after.type != column.type or newer.key != older.key or newer.event_time != older.event_time:
            raise ConfigurationError(
                f"contract {newer.name} {newer.version}: column {name} was {column.type} in {older.version} and is "
                f"{after.type if after else 'gone'}. A version only adds columns; another shape is another feed"
            )
    added = [column for column in newer.columns if column.name not in kept]
    if needed := [column.name for column in added if column.required]:
        raise ConfigurationError(
            f"contract {newer.name} {newer.version}: new columns {needed} are required, but files of {older.version} lack them: "
            "write `required: false`"
        )
    columns = [replace(c, since=kept[c.name].since if c.name in kept else newer.version) for c in newer.columns]
    # New columns go last, as they do in the tables that exist already.
    ordered = tuple(sorted(columns, key=lambda column: version_number(column.since)))
    return replace(newer, columns=ordered, versions=(*older.versions, newer.version))


def _read(path: Path, name: str) -> Feed:
    import yaml
    from open_data_contract_standard.model import OpenDataContractStandard
    from pydantic import ValidationError

    try:
        contract = OpenDataContractStandard.from_file(str(path))
        return _feed(contract, name)
    except (yaml.YAMLError, ValidationError, ConfigurationError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"contract {path.name}: {type(error).__name__}: {error}") from error


def _feed(contract: OpenDataContractStandard, name: str) -> Feed:
    if contract.name != name or not contract.schema_ or len(contract.schema_) != 1 or not contract.version:
        raise ConfigurationError(f"it must have the name {name!r}, a version, and one schema, that of a row")
    schema = contract.schema_[0]
    properties = schema.properties or []
    keys = [p.name for p in properties if p.primaryKey]
    if len(keys) != 1:
        raise ConfigurationError(f"one property must be the primaryKey, found {keys}")
    parsed = [*_rules(schema, None), *(rule for p in properties for rule in _rules(p, p))]
    rules = [rule for rule in parsed if not isinstance(rule, int)]
    latency = next((float(str(sla.value)) for sla in contract.slaProperties or [] if sla.property == "latency"), None)
    if latency is not None:
        reason = f"the file came later than the {latency:g} hours after midnight that the contract promises"
        rules.append(Freshness(name="fresh", severity="warn", reason=reason, hours=latency))
    return Feed(
        name=name,
        description=_words(contract.description.purpose if contract.description else None),
        columns=tuple(_column(p) for p in properties),
        key=str(keys[0]),
        event_time=str(_custom(schema)["eventTime"]),
        rules=tuple(rule for rule in rules if isinstance(rule, RowRule)),
        batch_rules=tuple(rule for rule in rules if isinstance(rule, BatchRule)),
        feed_rules=tuple(rule for rule in rules if isinstance(rule, FeedRule)),
        version=contract.version,
        versions=(contract.version,),
        owner=getattr(contract.team, "name", None) or "",
        grain=_words(schema.dataGranularityDescription),
        landed_within_hours=latency,
        dedup_days=next((rule for rule in parsed if isinstance(rule, int)), Feed.dedup_days),
    )


def _column(property_: SchemaProperty) -> Column:
    return Column(
        name=str(property_.name),
        type=str(property_.physicalType),
        comment=_words(property_.description),
        required=bool(property_.required),
        personal=property_.classification == PERSONAL,
    )


def _words(text: str | None) -> str:
    return " ".join((text or "").split())


def _custom(schema: SchemaObject) -> dict[str, Any]:
    return {str(custom.property): custom.value for custom in schema.customProperties or []}


def _rules(owner: SchemaObject | SchemaProperty, property_: SchemaProperty | None) -> Iterator[AnyRule | int]:
    """The rules of a schema or a property; a number is the nights that duplicates are looked for."""
    for quality in owner.quality or []:
        if quality.engine != "nightshift" or not isinstance(quality.implementation, dict):
            raise ConfigurationError(f"rule {quality.name!r}: write engine: nightshift, and an implementation with a check")
        parameters = dict(quality.implementation)
        check, measure = parameters.pop("check", None), parameters.pop("measure", None)
        make = _MAKERS.get((check, measure))
        if make is None:
            raise ConfigurationError(
                f"rule {quality.name!r}: check {check!r} with measure {measure!r} is none of {sorted(map(str, _MAKERS))}"
            )
        yield make(quality, property_, parameters)


def _common(quality: DataQuality) -> dict[str, Any]:
    return {"name": quality.name, "severity": quality.severity, "reason": _words(quality.description)}


def _bounds(quality: DataQuality, property_: SchemaProperty | None, given: Mapping[str, Any]) -> RowRule:
    name = _of(property_, quality)
    unknown = set(given) - {"minimum", "maximum"}
    if unknown or not given:
        raise ConfigurationError(f"rule {quality.name!r}: a range has a minimum, a maximum or both, not {sorted(given)}")
    parts = [f"{name} {sign} {_number(given[end])}" for end, sign in (("minimum", "<"), ("maximum", ">")) if end in given]
    return RowRule(kind="range", breach=" or ".join(parts), **_common(quality))


def _allowed(quality: DataQuality, property_: SchemaProperty | None, given: Mapping[str, Any]) -> RowRule:
    values = ", ".join(literal(value) for value in given["allowed"])
    return RowRule(kind="range", breach=f"{_of(property_, quality)} not in ({values})", **_common(quality))


def _future(quality: DataQuality, property_: SchemaProperty | None, given: Mapping[str, Any]) -> RowRule:
    return RowRule(kind="temporal", breach=f"{_of(property_, quality)} >= day + interval 1 day", **_common(quality))


def _ancient(quality: DataQuality, property_: SchemaProperty | None, given: Mapping[str, Any]) -> RowRule:
    days = int(given["days"])
    return RowRule(kind="temporal", breach=f"{_of(property_, quality)} < day - interval {days} days", **_common(quality))


def _of(property_: SchemaProperty | None, quality: DataQuality) -> str:
    if property_ is None:
        raise ConfigurationError(f"rule {quality.name!r} belongs under a property: it judges one column")
    return str(property_.name)


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{value!r} is no number")
    return repr(value)


def _whole(make: type[AnyRule]) -> Callable[[DataQuality, SchemaProperty | None, Mapping[str, Any]], AnyRule]:
    """A rule whose parameters are its fields; under a property it is about that column."""

    def maker(quality: DataQuality, property_: SchemaProperty | None, given: Mapping[str, Any]) -> AnyRule:
        column: dict[str, Any] = {"column": property_.name} if property_ is not None else {}
        return make(**_common(quality), **column, **given)

    return maker


def _within(quality: DataQuality, property_: SchemaProperty | None, given: Mapping[str, Any]) -> int:
    if quality.severity != "reject":
        raise ConfigurationError(
            f"rule {quality.name!r}: a key stands once in silver, so a duplicate is rejected, never {quality.severity}"
        )
    return int(given["within_days"])


_MAKERS: dict[tuple[str | None, str | None], Callable[[DataQuality, SchemaProperty | None, Mapping[str, Any]], AnyRule | int]] = {
    ("range", "bounds"): _bounds,
    ("range", "allowed"): _allowed,
    ("distribution", None): _whole(Distribution),
    ("duplicates", None): _within,
    ("temporal", "future"): _future,
    ("temporal", "ancient"): _ancient,
    ("temporal", "own_day"): _whole(OwnDay),
    ("temporal", "volume"): _whole(Volume),
    ("temporal", "gaps"): _whole(Gaps),
    ("consistency", "reference"): _whole(Reference),
    ("consistency", "counts"): _whole(Counts),
}
