"""The EC2 pool: real user data of instances that moto keeps, on a stand-in that runs it and is short of machines when told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.errors import ConfigurationError, NoCapacityError, PoolError, TrainingFailedError
from include.nightshift.spot import bundle
from include.nightshift.spot.attempts import ledger
from include.nightshift.spot.details import Details
from include.nightshift.spot.ec2 import Ec2Pool
from include.nightshift.spot.local import LocalPool
from include.nightshift.spot.pools import Order, place
from include.nightshift.spot.steering import Terms, cancel, train_on
from include.nightshift.train.recipes import Trees
from tests.stand_in.account import KIND, ZONES, Cloud, account

RECIPE = Trees(name="trees", rounds=700, rounds_per_chunk=1, max_depth=2, learning_rate=0.2, subsample=0.7, colsample_bytree=0.6, seed=5)
"""So many chunks, each of them saved, that there is time to come between."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with account(tmp_path_factory.mktemp("cloud")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def plenty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test finds capacity, and leaves no machine."""
    if "cloud" not in request.fixturenames:
        yield
        return
    cloud = request.getfixturevalue("cloud")
    cloud.dry()
    yield
    left = cloud.alive()
    if left:
        cloud.clients["ec2"].terminate_instances(InstanceIds=left)
    assert left == []


def terms(**more: Any) -> Terms:
    return Terms(
        **{"deadline": datetime.now(UTC) + timedelta(hours=2), "at_risk_seconds": 0, "tick_seconds": 1.0, "work_hours": 0.01} | more
    )


def sha(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["model_sha256"]


def order(folder: Path, attempt: int = 1, places: tuple[str, ...] = tuple(place(zone, KIND) for zone in ZONES), **more: Any) -> Order:
    until = datetime.now(UTC) + timedelta(hours=1)
    return Order(run_id=folder.name, run_folder=folder, attempt=attempt, places=places, until=until, at_risk_seconds=0, **more)


def wait_for(what: Callable[[], Any], seconds: float = 90) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)
    return found


def queued(cloud: Cloud) -> bool:
    """Whether a message still waits to be read."""
    asked = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    told = cloud.clients["sqs"].get_queue_attributes(QueueUrl=cloud.details.queue, AttributeNames=asked)["Attributes"]
    return any(int(number) for number in told.values())


@pytest.mark.processes
def test_whatever_takes_a_machine_the_next_one_goes_on_and_the_model_is_that_of_a_run_here(
    cloud: Cloud, make_run: Callable[..., Path]
) -> None:
    """One machine is warned over EventBridge, one by its metadata service, one goes without a word; by then a zone is dry."""
    there, here = (make_run(name, recipe=RECIPE, run_id=name, count=300) for name in ("there", "here"))
    pool = cloud.pool
    trainings = threading.Thread(target=train_on, args=(pool, there, terms()), kwargs={"poll_seconds": 0.3}, daemon=True)
    trainings.start()

    def booted() -> list[str]:
        return [name for name in cloud.alive() if name not in taken]

    taken: list[str] = []
    taken += wait_for(booted)
    wait_for(lambda: cloud.saves("there", 1))
    cloud.warn(taken[0])

    taken += wait_for(booted)
    gone = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    (cloud.folder / taken[1]).mkdir(exist_ok=True)
    (cloud.folder / taken[1] / "instance-action").write_text(json.dumps({"action": "terminate", "time": gone}))
    [second] = [machine.zone for machine in pool.find("there", there) if machine.name == taken[1]]
    cloud.dry(second)

    taken += wait_for(booted)
    wait_for(lambda: cloud.saves("there", 3))
    cloud.clients["ec2"].terminate_instances(InstanceIds=[taken[2]])
    trainings.join(180)
    tried = ledger(there)
    assert [attempt.outcome for attempt in tried] == ["preempted", "preempted", "preempted", "finished"]
    assert second not in [attempt.zone for attempt in tried[2:]]
    assert json.loads((there / "result.json").read_text())["resumed_from_step"] > 0
    train_on(LocalPool(), here, terms(), poll_seconds=0.1)
    assert sha(there) == sha(here)
    assert len(cloud.mirrored("there", "checkpoints/")) == 4, "two kept, each a state and a manifest"


def test_the_same_order_gives_the_same_machine_also_where_its_answer_was_lost(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    folder = make_run("twice", run_id="twice", count=30)
    wanted = order(folder)
    first = cloud.pool.start(wanted)
    assert cloud.pool.start(wanted) == replace(first, refused=())
    assert [machine.name for machine in cloud.pool.find("twice", folder)] == cloud.alive() == [first.name]
    cloud.pool.stop(first, folder)
    assert not cloud.pool.look(first, folder).alive


def test_rows_that_are_not_the_runs_own_are_put_right_before_a_machine_reads_them(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    folder, s3 = make_run("rows", run_id="rows", count=30), cloud.clients["s3"]
    mirror, path = cloud.pool._mirror("rows"), next((folder / "data/train").iterdir())
    there = {"Bucket": mirror.bucket, "Key": f"{mirror.prefix}/data/train/{path.name}"}
    mirror.deliver(folder)
    s3.put_object(Body=b"x" * path.stat().st_size, **there)
    mirror.deliver(folder)
    put = s3.get_object(**there)
    assert put["Body"].read() == path.read_bytes()
    mirror.deliver(folder)
    assert s3.head_object(**there)["LastModified"] == put["LastModified"]


def test_places_without_capacity_are_named_and_other_refusals_are_errors(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    folder = make_run("dry", run_id="dry", count=30)
    cloud.dry(*ZONES)
    with pytest.raises(NoCapacityError) as refusal:
        cloud.pool.start(order(folder))
    assert refusal.value.refused == dict.fromkeys((place(zone, KIND) for zone in ZONES), "InsufficientInstanceCapacity")
    cloud.dry(f"{ZONES[0]}=UnauthorizedOperation", ZONES[1])
    with pytest.raises(PoolError, match=r"UnauthorizedOperation.*launcher's policy"):
        cloud.pool.start(order(folder, attempt=2))
    assert cloud.clients["ec2"].describe_launch_templates()["LaunchTemplates"] == [], "none is left lying about"


def test_an_order_says_what_is_paid_and_the_larger_type(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    folder = make_run("larger", run_id="larger", count=30)
    machine = cloud.pool.start(order(folder, places=(), larger=True))
    asked = cloud.fleets()[-1]
    assert asked["type"] == "on-demand"
    assert {one["InstanceType"] for one in asked["places"]} == {"g5.4xlarge"}
    assert (machine.on_demand, machine.price_per_hour, machine.kind) == (True, 1.624, "g5.4xlarge")
    cloud.pool.stop(machine, folder)
    cloud.pool.start(order(folder, attempt=2, max_price=0.45))
    assert {one["MaxPrice"] for one in cloud.fleets()[-1]["places"]} == {"0.4500"}
    assert cancel(cloud.pool, folder)
    assert cloud.pool.page(machine).endswith(f"instanceId={machine.name}")


@pytest.fixture
def mixed(cloud: Cloud) -> Ec2Pool:
    """A pool of types that add up differently: two with one GPU, one with another, one with four, and two kinds of processors."""
    types = {"g5.xlarge": 1.0, "g5.2xlarge": 1.2, "g4dn.xlarge": 0.5, "g5.12xlarge": 5.7, "c6i.large": 0.1, "c6a.large": 0.09}
    return Ec2Pool(replace(cloud.details, types=types), *(cloud.clients[name] for name in ("ec2", "s3", "sqs")))


@pytest.mark.parametrize(
    ("like", "alike"),
    [
        ("g5.xlarge", {"g5.xlarge": 1.0, "g5.2xlarge": 1.2}),
        ("g4dn.xlarge", {"g4dn.xlarge": 0.5}),
        ("g5.16xlarge", {"g5.xlarge": 1.0, "g5.2xlarge": 1.2}),
        ("c6i.large", {"c6i.large": 0.1}),
    ],
)
def test_a_run_that_has_begun_is_given_a_machine_that_adds_up_the_same(
    mixed: Ec2Pool, cloud: Cloud, make_run: Callable[..., Path], like: str, alike: dict[str, float]
) -> None:
    prices = mixed.prices(like=like)
    assert {where.rpartition("/")[2] for where in prices.spot} <= set(alike)
    assert prices.on_demand == min(alike.values())
    folder = make_run(like, run_id=like, count=30)
    machine = mixed.start(order(folder, places=(), like=like))
    assert {one["InstanceType"] for one in cloud.fleets()[-1]["places"]} == set(alike)
    mixed.stop(machine, folder)


def test_a_run_that_no_type_can_go_on_with_is_told_why(mixed: Ec2Pool) -> None:
    with pytest.raises(
        PoolError, match=r"began on p4d.24xlarge \(8 NVIDIA A100 .*ec2.types has .*g4dn.xlarge \(1 NVIDIA T4 .*pin a new run"
    ):
        mixed.prices(like="p4d.24xlarge")
    with pytest.raises(PoolError, match=r"ec2.larger has g5.4xlarge \(1 NVIDIA A10G .*another model"):
        mixed.prices(like="g4dn.xlarge", larger=True)
    with pytest.raises(PoolError, match="DescribeInstanceTypes"):
        mixed.prices(like="no.such")


def test_a_pool_of_one_type_asks_nothing_about_it(cloud: Cloud) -> None:
    assert cloud.pool.prices(like=KIND) == cloud.pool.prices()
    assert cloud.pool._ways == {}


def test_the_template_is_as_strict_as_it_must_be(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    folder = make_run("strict", run_id="strict", count=30)
    name = cloud.pool._template(order(folder), "0" * 64)["LaunchTemplateName"]
    [version] = cloud.clients["ec2"].describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
    data = version["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert all(mapping["Ebs"]["Encrypted"] for mapping in data["BlockDeviceMappings"])
    assert {entry["ResourceType"] for entry in data["TagSpecifications"]} >= {"instance", "volume"}
    assert "KeyName" not in data
    cloud.clients["ec2"].delete_launch_template(LaunchTemplateName=name)


@pytest.mark.processes
def test_a_machine_that_cannot_boot_says_why_and_three_of_them_are_enough(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    folder = make_run("boots", run_id="boots", count=30)
    broken = Ec2Pool(replace(cloud.details, python="/no/such/python"), *(cloud.clients[name] for name in ("ec2", "s3", "sqs")))
    with pytest.raises(TrainingFailedError, match="3 machines in a row never began"):
        train_on(broken, folder, terms(), poll_seconds=0.2)
    assert "/no/such/python" in (folder / "machines/1.boot.txt").read_text()
    assert [attempt.outcome for attempt in ledger(folder)] == ["never_began"] * 3


def test_a_warning_about_somebody_elses_machine_is_none_of_ours(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    folder = make_run("ours", run_id="ours", count=30)
    machine = cloud.pool.start(order(folder))
    for instance in ("i-0123456789abcdef0", machine.name):
        cloud.warn(instance)
        # Looking is what reads the queue.
        wait_for(lambda: not (cloud.pool.look(machine, folder), queued(cloud))[1])
        assert cloud.pool.look(machine, folder).taken == (instance == machine.name)
    cloud.pool.stop(machine, folder)


def test_a_message_that_is_no_event_is_dropped_and_stops_nobody(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    folder = make_run("noise", run_id="noise", count=30)
    machine = cloud.pool.start(order(folder))
    for noise in ("no JSON", "[]", '{"detail-type": "EC2 Spot Instance Interruption Warning", "time": "2026-01-01T00:00:00Z"}'):
        cloud.clients["sqs"].send_message(QueueUrl=cloud.details.queue, MessageBody=noise)
    wait_for(lambda: not (cloud.pool.look(machine, folder), queued(cloud))[1])
    assert not cloud.pool.look(machine, folder).taken
    cloud.pool.stop(machine, folder)


def test_a_machine_that_ec2_does_not_show_at_once_is_waited_for(cloud: Cloud, make_run: Callable[..., Path]) -> None:
    """AWS's answers agree only after some seconds; moto's do at once, so a client forgets the newest machine for a while."""
    from botocore.exceptions import ClientError

    class Forgetful:
        left = 2

        def __getattr__(self, name: str) -> Any:
            return getattr(cloud.clients["ec2"], name)

        def create_tags(self, **asked: Any) -> Any:
            if self.left == 2:
                self.left = 1
                raise ClientError({"Error": {"Code": "InvalidInstanceID.NotFound"}}, "CreateTags")
            return cloud.clients["ec2"].create_tags(**asked)

        def get_paginator(self, name: str) -> Any:
            if name == "describe_instances" and self.left == 1:
                self.left = 0
                # What it shows of a run that is not there.
                return type("Empty", (), {"paginate": lambda self, **asked: [{"Reservations": []}]})()
            return cloud.clients["ec2"].get_paginator(name)

    folder = make_run("shown", run_id="shown", count=30)
    client = Forgetful()
    pool = Ec2Pool(cloud.details, client, cloud.clients["s3"])
    machine = pool.start(order(folder))
    assert (client.left, cloud.alive()) == (0, [machine.name])
    pool.stop(machine, folder)


def test_the_bundle_is_the_same_bytes_and_holds_what_a_trainer_needs() -> None:
    import io
    import tarfile

    assert bundle.packed() == bundle.packed()
    with tarfile.open(fileobj=io.BytesIO(bundle.packed())) as archive:
        names = archive.getnames()
    assert {"include/nightshift/train/__main__.py", "include/nightshift/spot/agent.py", "requirements-training.txt"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


GOOD = """
[ec2]
bucket = "trainings"
prefix = "nightshift"
installation = "tests"
image = "ami-0123456789abcdef0"
instance_profile = "nightshift-machine"
security_groups = ["sg-0123456789abcdef0"]
[ec2.subnets]
eu-west-1a = "subnet-0123456789abcdef0"
[ec2.types]
"g5.xlarge" = 1.006
"""


def test_the_details_are_read_from_their_file(tmp_path: Path) -> None:
    (tmp_path / "ec2.toml").write_text(GOOD)
    details = Details.read(tmp_path / "ec2.toml")
    assert (details.subnets, details.types, details.connection) == (
        {"eu-west-1a": "subnet-0123456789abcdef0"},
        {"g5.xlarge": 1.006},
        "aws_default",
    )


@pytest.mark.parametrize(
    ("good", "wrong", "word"),
    [
        ('bucket = "trainings"', "", "lacks \\['bucket'\\]"),
        ('bucket = "trainings"', 'bucket = "Trainings; rm -rf /"', "ec2.bucket"),
        ("[ec2]", "[ec2]\ncolour = 1", "unknown \\['colour'\\]"),
        ("[ec2]", "[ec3]", "lacks"),
        ("[ec2]", "ec2", "no TOML"),
        ("ami-0123456789abcdef0", "latest", "ec2.image"),
        ('["sg-0123456789abcdef0"]', "[]", "security_groups"),
        ('["sg-0123456789abcdef0"]', '"sg-0123456789abcdef0"', "security_groups is a list"),
        ("eu-west-1a =", "somewhere =", "ec2.subnets"),
        ("1.006", "0", "on-demand price"),
        ("1.006", '"cheap"', "on-demand price"),
        ('prefix = "nightshift"', 'prefix = "../x"', "ec2.prefix"),
        ("[ec2]", "[ec2]\nvolume_gib = 2", "volume_gib"),
        ("[ec2]", '[ec2]\npython = "python3; reboot"', "ec2.python"),
    ],
)
def test_details_that_cannot_be_are_refused_by_name(tmp_path: Path, good: str, wrong: str, word: str) -> None:
    assert good in GOOD
    (tmp_path / "ec2.toml").write_text(GOOD.replace(good, wrong, 1))
    with pytest.raises(ConfigurationError, match=word):
        Details.read(tmp_path / "ec2.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ec2\.toml is missing: NIGHTSHIFT_EC2"):
        Details.read(tmp_path / "ec2.toml")
