"""The IAM policies: what they allow is what the pool does, and what they deny is everything else that was thought of."""

import fnmatch
import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import pytest

from include.nightshift.spot import ec2

FOLDER = Path(ec2.__file__).with_name("policies")
FILLED = {
    "region": "eu-west-1",
    "account": "123456789012",
    "installation": "ours",
    "image": "ami-0123456789abcdef0",
    "subnet": "subnet-0123456789abcdef0",
    "security_group": "sg-0123456789abcdef0",
    "machine_role": "nightshift-machine",
    "bucket": "trainings",
    "prefix": "nightshift",
    "queue": "nightshift-warnings",
    "rule": "nightshift-warnings",
}
EC2, S3 = "arn:aws:ec2:eu-west-1:123456789012", "arn:aws:s3:::trainings"
OURS, THEIRS = ({f"aws:ResourceTag/{ec2.INSTALLATION_TAG}": whose} for whose in ("ours", "theirs"))
MADE_OURS = {f"aws:RequestTag/{ec2.INSTALLATION_TAG}": "ours"}
TEMPLATE = {"ec2:MetadataHttpTokens": "required", "ec2:LaunchTemplate": f"{EC2}:launch-template/lt-1"}

Policy = dict[str, Any]


def policy(name: str) -> Policy:
    return json.loads(Template((FOLDER / f"{name}.json").read_text()).substitute(FILLED))  # type: ignore[no-any-return]


def allows(policy: Policy, action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """As IAM evaluates one policy of Allow statements: denied, unless a statement matches action, resource and every condition."""
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow", "this evaluation knows no other"
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition", "Principal"}, statement["Sid"]
        if (
            any(fnmatch.fnmatchcase(action.lower(), one.lower()) for one in _each(statement["Action"]))
            and any(fnmatch.fnmatchcase(resource, one) for one in _each(statement["Resource"]))
            and all(_holds(kind, keys, context or {}) for kind, keys in statement.get("Condition", {}).items())
        ):
            return True
    return False


def _each(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _holds(kind: str, keys: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    """A key that a request does not have is no match, for all of these kinds."""
    same = {
        "StringEquals": lambda seen, wanted: seen == wanted,
        "Bool": lambda seen, wanted: seen == wanted,
        "StringLike": fnmatch.fnmatchcase,
        "ArnLike": fnmatch.fnmatchcase,
        "ArnEquals": lambda seen, wanted: seen == wanted,
    }[kind]
    return all(key in context and any(same(context[key], wanted) for wanted in _each(value)) for key, value in keys.items())


LAUNCHER_ALLOWED: list[tuple[str, str, dict[str, str]]] = [
    ("ec2:DescribeInstances", "*", {}),
    ("ec2:DescribeInstanceTypes", "*", {}),
    ("ec2:DescribeSpotPriceHistory", "*", {}),
    ("ec2:CreateLaunchTemplate", f"{EC2}:launch-template/lt-1", MADE_OURS),
    ("ec2:DeleteLaunchTemplate", f"{EC2}:launch-template/lt-1", OURS),
    ("ec2:CreateFleet", f"{EC2}:fleet/fleet-1", {}),
    ("ec2:RunInstances", f"{EC2}:instance/i-1", MADE_OURS | TEMPLATE),
    ("ec2:RunInstances", f"{EC2}:volume/vol-1", MADE_OURS | {"ec2:Encrypted": "true"}),
    ("ec2:RunInstances", f"{EC2}:subnet/subnet-0123456789abcdef0", {}),
    ("ec2:RunInstances", "arn:aws:ec2:eu-west-1::image/ami-0123456789abcdef0", {}),
    ("ec2:CreateTags", f"{EC2}:instance/i-1", {"ec2:CreateAction": "RunInstances"}),
    ("ec2:CreateTags", f"{EC2}:instance/i-1", OURS),
    ("ec2:TerminateInstances", f"{EC2}:instance/i-1", OURS),
    ("iam:PassRole", "arn:aws:iam::123456789012:role/nightshift-machine", {"iam:PassedToService": "ec2.amazonaws.com"}),
    ("s3:ListBucket", S3, {"s3:prefix": "nightshift/runs/r/"}),
    ("s3:PutObject", f"{S3}/nightshift/code/a.tar.gz", {}),
    ("s3:GetObject", f"{S3}/nightshift/runs/r/data/train/part-0.parquet", {}),
    ("sqs:ReceiveMessage", "arn:aws:sqs:eu-west-1:123456789012:nightshift-warnings", {}),
]
LAUNCHER_DENIED: list[tuple[str, str, dict[str, str]]] = [
    ("ec2:TerminateInstances", f"{EC2}:instance/i-1", THEIRS),
    ("ec2:TerminateInstances", f"{EC2}:instance/i-1", {}),
    ("ec2:CreateTags", f"{EC2}:instance/i-1", THEIRS),
    ("ec2:CreateTags", f"{EC2}:instance/i-1", {}),
    ("ec2:RunInstances", f"{EC2}:instance/i-1", TEMPLATE),
    ("ec2:RunInstances", f"{EC2}:instance/i-1", MADE_OURS | {"ec2:MetadataHttpTokens": "required"}),
    ("ec2:RunInstances", f"{EC2}:instance/i-1", MADE_OURS | TEMPLATE | {"ec2:MetadataHttpTokens": "optional"}),
    ("ec2:RunInstances", f"{EC2}:volume/vol-1", MADE_OURS | {"ec2:Encrypted": "false"}),
    ("ec2:RunInstances", f"{EC2}:subnet/subnet-0fffffffffffffff0", {}),
    ("ec2:RunInstances", f"{EC2}:security-group/sg-0fffffffffffffff0", {}),
    ("ec2:RunInstances", "arn:aws:ec2:eu-west-1::image/ami-0fffffffffffffff0", {}),
    ("ec2:RunInstances", f"{EC2}:key-pair/mine", {}),
    ("ec2:RunInstances", f"{EC2}:launch-template/lt-2", THEIRS),
    ("ec2:DeleteLaunchTemplate", f"{EC2}:launch-template/lt-2", THEIRS),
    ("ec2:StopInstances", f"{EC2}:instance/i-1", OURS),
    ("ec2:ModifyInstanceAttribute", f"{EC2}:instance/i-1", OURS),
    ("iam:PassRole", "arn:aws:iam::123456789012:role/admin", {"iam:PassedToService": "ec2.amazonaws.com"}),
    ("iam:PassRole", "arn:aws:iam::123456789012:role/nightshift-machine", {"iam:PassedToService": "lambda.amazonaws.com"}),
    ("iam:CreateRole", "arn:aws:iam::123456789012:role/x", {}),
    ("s3:ListBucket", S3, {}),
    ("s3:GetObject", f"{S3}/other/secret", {}),
    ("s3:DeleteObject", f"{S3}/nightshift/runs/r/result.json", {}),
    ("s3:PutObject", "arn:aws:s3:::elsewhere/nightshift/x", {}),
    ("sqs:ReceiveMessage", "arn:aws:sqs:eu-west-1:123456789012:payments", {}),
    ("sqs:SendMessage", "arn:aws:sqs:eu-west-1:123456789012:nightshift-warnings", {}),
]
MACHINE_ALLOWED: list[tuple[str, str, dict[str, str]]] = [
    ("s3:GetObject", f"{S3}/nightshift/code/a.tar.gz", {}),
    ("s3:GetObject", f"{S3}/nightshift/runs/r/run.json", {}),
    ("s3:PutObject", f"{S3}/nightshift/runs/r/fence.json", {}),
    ("s3:DeleteObject", f"{S3}/nightshift/runs/r/checkpoints/1.state", {}),
    ("s3:ListBucket", S3, {"s3:prefix": "nightshift/runs/r/"}),
]
MACHINE_DENIED: list[tuple[str, str, dict[str, str]]] = [
    ("s3:PutObject", f"{S3}/nightshift/code/a.tar.gz", {}),
    ("s3:GetObject", f"{S3}/lakehouse/gold/scores", {}),
    ("s3:ListBucket", S3, {"s3:prefix": ""}),
    ("s3:PutBucketPolicy", S3, {}),
    ("ec2:DescribeInstances", "*", {}),
    ("ec2:TerminateInstances", f"{EC2}:instance/i-1", OURS),
    ("ec2:RunInstances", f"{EC2}:instance/i-1", MADE_OURS | TEMPLATE),
    ("iam:PassRole", "arn:aws:iam::123456789012:role/nightshift-machine", {"iam:PassedToService": "ec2.amazonaws.com"}),
    ("sqs:ReceiveMessage", "arn:aws:sqs:eu-west-1:123456789012:nightshift-warnings", {}),
    ("secretsmanager:GetSecretValue", "*", {}),
    ("sts:AssumeRole", "*", {}),
]


@pytest.mark.parametrize(("name", "wanted"), [("launcher", LAUNCHER_ALLOWED), ("machine", MACHINE_ALLOWED)])
def test_what_the_pool_does_is_allowed(name: str, wanted: list[tuple[str, str, dict[str, str]]]) -> None:
    assert [asked for asked in wanted if not allows(policy(name), *asked)] == []


@pytest.mark.parametrize(("name", "unwanted"), [("launcher", LAUNCHER_DENIED), ("machine", MACHINE_DENIED)])
def test_what_it_has_no_need_of_is_denied(name: str, unwanted: list[tuple[str, str, dict[str, str]]]) -> None:
    assert [asked for asked in unwanted if allows(policy(name), *asked)] == []


def test_the_queue_takes_messages_of_our_rule_alone() -> None:
    events, queue = policy("events"), "arn:aws:sqs:eu-west-1:123456789012:nightshift-warnings"
    ours = {"aws:SourceArn": "arn:aws:events:eu-west-1:123456789012:rule/nightshift-warnings"}
    assert allows(events, "sqs:SendMessage", queue, ours)
    assert not allows(events, "sqs:SendMessage", queue, {"aws:SourceArn": "arn:aws:events:eu-west-1:999999999999:rule/nightshift-warnings"})
    assert not allows(events, "sqs:ReceiveMessage", queue, ours)
    assert [statement["Principal"] for statement in events["Statement"]] == [{"Service": "events.amazonaws.com"}]


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("launcher", {"Action": "ec2:*", "Resource": "*"}),
        ("launcher", {"Action": "ec2:TerminateInstances", "Resource": f"{EC2}:instance/*"}),
        ("launcher", {"Action": "iam:PassRole", "Resource": "*"}),
        ("launcher", {"Action": "s3:GetObject", "Resource": f"{S3}/*"}),
        ("machine", {"Action": "s3:*", "Resource": f"{S3}/nightshift/*"}),
        ("machine", {"Action": "ec2:Describe*", "Resource": "*"}),
    ],
)
def test_a_policy_that_says_too_much_is_noticed(name: str, planted: dict[str, str]) -> None:
    """Planted defects: the denials above must be able to fail."""
    broad = policy(name)
    broad["Statement"].append({"Effect": "Allow", "Sid": "Planted", **planted})
    unwanted = LAUNCHER_DENIED if name == "launcher" else MACHINE_DENIED
    assert [asked for asked in unwanted if allows(broad, *asked)]


@pytest.mark.parametrize("name", ["launcher", "machine", "events"])
def test_no_policy_allows_all_of_a_service_and_only_looking_needs_no_resource(name: str) -> None:
    for statement in policy(name)["Statement"]:
        actions = _each(statement["Action"])
        assert not [action for action in actions if "*" in action]
        if "*" in _each(statement["Resource"]):
            assert all(re.match(r"ec2:Describe", action) for action in actions)
