"""Contracts: the standard's own schema accepts ours, a version may only add columns, and what cannot be meant is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from open_data_contract_standard.model import OpenDataContractStandard

from include.nightshift import contract
from include.nightshift.errors import ConfigurationError
from include.nightshift.rules import Counts, Distribution, Freshness, Gaps, OwnDay, Reference, RowRule, Volume
from include.nightshift.settings import ROOT
from include.nightshift.usecase import Feed
from include.usecases.card_fraud.usecase import FRAUD_LABELS, TRANSACTIONS

CONTRACTS = sorted((ROOT / "include" / "usecases").glob("*/contracts/*.odcs.yaml"))

VISITS: dict[str, Any] = {
    "apiVersion": "v3.1.0",
    "kind": "DataContract",
    "id": "visits",
    "name": "visits",
    "version": "1.0.0",
    "status": "active",
    "description": {"purpose": "Visits."},
    "team": {"name": "doormen"},
    "slaProperties": [{"property": "latency", "value": 2, "unit": "h"}],
    "schema": [
        {
            "name": "visits",
            "dataGranularityDescription": "One row per visit.",
            "customProperties": [{"property": "eventTime", "value": "came_at"}],
            "properties": [
                {"name": "visit_id", "physicalType": "bigint", "description": "Names it.", "primaryKey": True, "required": True},
                {"name": "came_at", "physicalType": "timestamp", "description": "When.", "required": True},
                {"name": "guest", "physicalType": "string", "description": "Who.", "required": True, "classification": "personal"},
            ],
        }
    ],
}
GAPS: dict[str, Any] = {"implementation": {"check": "temporal", "measure": "gaps", "hours": 3}}
PLATE = {"name": "plate", "physicalType": "string", "description": "The car's.", "required": False}


def changed(
    version: str = "1.0.0", *, added: list[dict[str, Any]] | None = None, quality: Any = None, of: str | None = None
) -> dict[str, Any]:
    """The contract of visits with another version, more columns, or a rule of the schema or of a column."""
    data: dict[str, Any] = json.loads(json.dumps(VISITS)) | {"version": version}
    schema = data["schema"][0]
    schema["properties"] += added or []
    if quality is not None:
        owner = schema if of is None else next(p for p in schema["properties"] if p["name"] == of)
        owner["quality"] = [
            {"name": "a_rule", "severity": "warn", "engine": "nightshift", "type": "custom", "description": "Odd."} | quality
        ]
    return data


def read(folder: Path, *contracts: dict[str, Any]) -> Feed:
    for data in contracts:
        (folder / f"visits-{data['version']}.odcs.yaml").write_text(yaml.safe_dump(data))
    return contract.feed(folder, "visits")


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: path.name)
def test_every_contract_is_valid_by_the_standards_own_schema(path: Path) -> None:
    schema = json.loads(OpenDataContractStandard.json_schema())
    errors = [error.message for error in jsonschema.Draft201909Validator(schema).iter_errors(yaml.safe_load(path.read_text()))]
    assert errors == []
    assert path.name == f"{yaml.safe_load(path.read_text())['name']}-{yaml.safe_load(path.read_text())['version']}.odcs.yaml"


def test_the_standards_schema_refuses_what_is_no_contract() -> None:
    schema = json.loads(OpenDataContractStandard.json_schema())
    assert list(jsonschema.Draft201909Validator(schema).iter_errors(VISITS | {"kind": "Poem"}))


def test_the_feeds_that_ship_have_rules_of_every_kind_owners_promises_and_a_person() -> None:
    rules = [rule for feed in (TRANSACTIONS, FRAUD_LABELS) for rule in (*feed.rules, *feed.batch_rules, *feed.feed_rules)]
    # Schema and duplicates are every feed's.
    assert {rule.kind for rule in rules} == {"range", "distribution", "temporal", "consistency"}
    assert {type(rule) for rule in rules} == {RowRule, OwnDay, Volume, Gaps, Freshness, Distribution, Reference, Counts}
    assert {rule.severity for rule in rules} == {"reject", "stop", "warn"}
    assert all(rule.reason for rule in rules)
    assert (TRANSACTIONS.owner, TRANSACTIONS.grain, TRANSACTIONS.landed_within_hours) == ("payment-switch", "One row per transaction.", 6.0)
    assert [column.name for column in TRANSACTIONS.columns if column.personal] == ["customer_id"]


def test_a_contract_says_what_the_feed_is(tmp_path: Path) -> None:
    feed = read(tmp_path, VISITS)
    assert (feed.name, feed.key, feed.event_time, feed.owner, feed.version) == ("visits", "visit_id", "came_at", "doormen", "1.0.0")
    assert [(c.name, c.type, c.required, c.personal) for c in feed.columns] == [
        ("visit_id", "bigint", True, False),
        ("came_at", "timestamp", True, False),
        ("guest", "string", True, True),
    ]
    assert [(type(rule), rule.severity) for rule in feed.batch_rules] == [(Freshness, "warn")]


def test_a_later_version_adds_a_column_at_the_end_and_files_of_both_are_known(tmp_path: Path) -> None:
    newer = changed("1.10.0", added=[PLATE])
    newer["schema"][0]["properties"].sort(key=lambda p: p["name"] != "plate")  # written first, it still goes last
    feed = read(tmp_path, VISITS, changed("1.9.0"), newer)
    assert feed.version == "1.10.0"
    assert [(c.name, c.since) for c in feed.columns] == [
        ("visit_id", "1.0.0"),
        ("came_at", "1.0.0"),
        ("guest", "1.0.0"),
        ("plate", "1.10.0"),
    ]
    assert feed.headers == {"1.10.0": ("visit_id", "came_at", "guest", "plate"), "1.0.0": ("visit_id", "came_at", "guest")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop(), "column guest was string in 1.0.0 and is gone"),
        (lambda p: p[2].update(physicalType="bigint"), "column guest was string in 1.0.0 and is bigint"),
        (lambda p: p.append(PLATE | {"required": True}), r"new columns \['plate'\] are required"),
        (lambda p: (p[0].pop("primaryKey"), p[2].update(primaryKey=True)), "column visit_id was bigint in 1.0.0"),
    ],
    ids=["a column gone", "another type", "a required column", "another key"],
)
def test_a_version_that_does_more_than_add_columns_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    newer = changed("1.1.0")
    change(newer["schema"][0]["properties"])
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, VISITS, newer)


@pytest.mark.parametrize(
    ("of", "check", "wanted"),
    [
        ("guest", {"check": "range", "measure": "allowed", "allowed": ["a", "b'c"]}, r"guest not in ('a', 'b\'c')"),
        ("visit_id", {"check": "range", "measure": "bounds", "minimum": 1}, "visit_id < 1"),
        ("visit_id", {"check": "range", "measure": "bounds", "minimum": 1, "maximum": 2.5}, "visit_id < 1 or visit_id > 2.5"),
        ("came_at", {"check": "temporal", "measure": "ancient", "days": 3}, "came_at < day - interval 3 days"),
    ],
)  # fmt: skip
def test_rules_of_a_column_become_sql_over_it(tmp_path: Path, of: str, check: dict[str, Any], wanted: str) -> None:
    (rule,) = read(tmp_path, changed(quality={"implementation": check, "severity": "reject"}, of=of)).rules
    assert (rule.breach, rule.severity) == (wanted, "reject")


@pytest.mark.parametrize(
    ("of", "quality", "message"),
    [
        (None, {"implementation": {"check": "vibes"}}, "check 'vibes' with measure None is none of"),
        (None, {"implementation": "text"}, "write engine: nightshift, and an implementation with a check"),
        (None, {"engine": "soda", "implementation": {"check": "range"}}, "write engine: nightshift"),
        (None, {"implementation": {"check": "range", "measure": "bounds", "minimum": 1}}, "belongs under a property"),
        ("visit_id", {"implementation": {"check": "range", "measure": "bounds"}}, "a range has a minimum, a maximum or both"),
        ("visit_id", {"implementation": {"check": "range", "measure": "bounds", "minimum": "1; drop table x"}}, "is no number"),
        (None, {"implementation": {"check": "duplicates", "within_days": 3}}, "a duplicate is rejected, never warn"),
        (None, {"severity": "shrug", **GAPS}, "severity 'shrug' is none of"),
        (None, {"severity": "reject", **GAPS}, "severity 'reject' is none of"),
        (None, {"name": "Drop Table", **GAPS}, "names are lower-case words"),
        (None, {"name": "fresh", **GAPS}, "a rule's name stands twice"),
        ("guest", {"implementation": {"check": "distribution", "of": "shares", "tolerance": 0.5}}, "tolerance is at least 1"),
        (None, {"implementation": {"check": "temporal", "measure": "gaps", "days": 3}}, "unexpected keyword argument 'days'"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused_with_the_files_name(
    tmp_path: Path, of: str | None, quality: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"contract visits-1\.0\.0\.odcs\.yaml: .*{message}"):
        read(tmp_path, changed(quality=quality, of=of))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "contract visits-1.0.0.odcs.yaml"),
        ("- a list", "contract visits-1.0.0.odcs.yaml"),
        (yaml.safe_dump(VISITS | {"name": "guests"}), "it must have the name 'visits'"),
        (yaml.safe_dump(VISITS | {"surprise": 1}), "surprise"),
        (yaml.safe_dump(VISITS | {"schema": []}), "one schema"),
        (yaml.safe_dump(VISITS | {"version": "one"}), "version 'one' is no MAJOR.MINOR.PATCH"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_contract_is_refused_by_its_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "visits-1.0.0.odcs.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        contract.feed(tmp_path, "visits")


def test_a_feed_without_a_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no contract .*visits-<version>\.odcs\.yaml"):
        contract.feed(tmp_path, "visits")


def test_what_decides_over_rows_changes_the_digest_and_words_about_the_feed_do_not(tmp_path: Path) -> None:
    first = read(tmp_path, VISITS)
    assert read(tmp_path, VISITS | {"team": {"name": "porters"}}).digest == first.digest
    ruled = changed(quality=GAPS)
    assert read(tmp_path, ruled).digest != first.digest
    assert {field.name for field in fields(Feed)} >= {"rules", "batch_rules", "feed_rules"}
