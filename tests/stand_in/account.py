"""An account on the stand-in for AWS (`ec2.py` beside this), with what an installation needs there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.nightshift.settings import ROOT
from include.nightshift.spot.details import Details
from include.nightshift.spot.ec2 import Ec2Pool

ZONES = ("eu-west-1a", "eu-west-1b")
KIND = "g5.xlarge"


@dataclass
class Cloud:
    """The stand-in, and an account on it."""

    folder: Path
    endpoint: str
    details: Details
    clients: dict[str, Any]

    @property
    def pool(self) -> Ec2Pool:
        return Ec2Pool(self.details, self.clients["ec2"], self.clients["s3"], self.clients["sqs"])

    def alive(self) -> list[str]:
        pages = self.clients["ec2"].describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}])
        return [one["InstanceId"] for reservation in pages["Reservations"] for one in reservation["Instances"]]

    def warn(self, instance: str) -> None:
        """EventBridge says that the machine will be taken."""
        detail = json.dumps({"instance-id": instance, "instance-action": "terminate"})
        entry = {"Source": "aws.ec2", "DetailType": "EC2 Spot Instance Interruption Warning", "Detail": detail}
        self.clients["events"].put_events(Entries=[entry])

    def mirrored(self, run_id: str, under: str = "") -> list[str]:
        """Names of what lies on S3 of a run."""
        listed = self.clients["s3"].list_objects_v2(Bucket=self.details.bucket, Prefix=f"{self.details.prefix}/runs/{run_id}/{under}")
        return [entry["Key"].removeprefix(f"{self.details.prefix}/runs/{run_id}/") for entry in listed.get("Contents", ())]

    def saves(self, run_id: str, attempt: int) -> bool:
        """Whether that machine is at work, and something of the run is saved."""
        names = self.mirrored(run_id)
        return f"machines/{attempt}.json" in names and any(name.endswith(".state") for name in names)

    def dry(self, *places: str) -> None:
        (self.folder / "dry").write_text("\n".join(places))

    def fleets(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "fleets").read_text().splitlines()]


@contextmanager
def account(folder: Path) -> Iterator[Cloud]:
    """A stand-in of one's own, for as long as the block lasts."""
    import boto3

    server = subprocess.Popen([sys.executable, str(ROOT / "tests/stand_in/ec2.py"), str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        given = {"endpoint_url": endpoint, "region_name": "eu-west-1", "aws_access_key_id": "launcher", "aws_secret_access_key": "x"}
        clients = {name: boto3.client(name, **given) for name in ("ec2", "s3", "sqs", "events", "iam")}
        clients["s3"].create_bucket(Bucket="trainings", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        subnets = {entry["AvailabilityZone"]: entry["SubnetId"] for entry in clients["ec2"].describe_subnets()["Subnets"]}
        queue = clients["sqs"].create_queue(QueueName="warnings")["QueueUrl"]
        arn = clients["sqs"].get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        pattern = {"source": ["aws.ec2"], "detail-type": ["EC2 Spot Instance Interruption Warning"]}
        clients["events"].put_rule(Name="warnings", EventPattern=json.dumps(pattern))
        clients["events"].put_targets(Rule="warnings", Targets=[{"Id": "queue", "Arn": arn}])
        details = Details(
            bucket="trainings",
            prefix="nightshift",
            installation="tests",
            image="ami-0123456789abcdef0",
            instance_profile="nightshift-machine",
            security_groups=(clients["ec2"].describe_security_groups()["SecurityGroups"][0]["GroupId"],),
            subnets={zone: subnets[zone] for zone in ZONES},
            types={KIND: 1.006},
            larger={"g5.4xlarge": 1.624},
            python=sys.executable,
            queue=queue,
        )
        yield Cloud(folder, endpoint, details, clients)
    finally:
        server.terminate()
        server.wait(10)
