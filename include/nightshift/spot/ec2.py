"""The EC2 pool: spot and on-demand machines of Amazon's, a fleet of one for each order.

A fleet of type `instant` asks all wished places at once and takes one by price and by how likely it is to stay
(`price-capacity-optimized`); it answers at once, with a machine or with the reason of each refusal. Machines are known by their tags.
What is trained, and what comes of it, goes over S3 (`mirror`); the machine needs no other way to us, and none leads to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from include.nightshift.errors import NoCapacityError, PoolError
from include.nightshift.spot import bundle
from include.nightshift.spot.details import Details
from include.nightshift.spot.mirror import NOTICES, Mirror, told
from include.nightshift.spot.pools import MACHINES, Machine, Order, Prices, Sight, Word, agent_options, place

log = logging.getLogger(__name__)

USER_DATA = Path(__file__).with_name("user_data.sh")
"""What a machine does when it boots; `@NAME@` stands for a quoted value."""

RUN_TAG, ATTEMPT_TAG, INSTALLATION_TAG, UNTIL_TAG, PRICE_TAG = (
    f"nightshift:{name}" for name in ("run", "attempt", "installation", "until", "price")
)

_NO_CAPACITY = frozenset(
    {
        "CapacityNotAvailable",
        "InstanceLimitExceeded",
        "InsufficientCapacity",
        "InsufficientFreeAddressesInSubnet",
        "InsufficientHostCapacity",
        "InsufficientInstanceCapacity",
        "InsufficientReservedInstanceCapacity",
        "MaxSpotInstanceCountExceeded",
        "SpotMaxPriceTooLow",
        "UnfulfillableCapacity",
        "Unsupported",
        "VcpuLimitExceeded",
    }
)
"""What EC2 calls it when a place has nothing for us now."""

_ALIVE = ("pending", "running", "stopping", "shutting-down")
_TAKEN = "Server.SpotInstanceTermination"
_CHANGEOVER_SECONDS = 240.0
_TICK_SECONDS = 60.0
_SHOWN_SECONDS = 30.0
_SHOWN_EVERY_SECONDS = 0.5
_GRACE = timedelta(minutes=10)
"""Beyond its time a machine has this long to bring away what it has."""


class Ec2Pool:
    """Machines of one account and region."""

    name = "ec2"
    changeover_seconds = _CHANGEOVER_SECONDS
    tick_seconds = _TICK_SECONDS

    def __init__(self, details: Details, ec2: Any, s3: Any, sqs: Any = None) -> None:
        """`ec2`, `s3`, `sqs`: boto3's clients; the last only where the details name a queue."""
        self.details, self._ec2, self._s3, self._sqs = details, ec2, s3, sqs
        self._mirrors: dict[str, Mirror] = {}
        self._ways: dict[str, str] = {}
        """By type, what the arithmetic of its machines depends on."""
        self.has_larger = bool(details.larger)

    def prices(self, *, like: str | None = None, larger: bool = False) -> Prices:
        types = self._types(like, larger=larger)
        with _told("ec2:DescribeSpotPriceHistory"):
            pages = self._ec2.get_paginator("describe_spot_price_history").paginate(
                InstanceTypes=list(types), ProductDescriptions=["Linux/UNIX"], StartTime=datetime.now(UTC)
            )
            history = [entry for page in pages for entry in page["SpotPriceHistory"]]
        newest: dict[str, tuple[datetime, float]] = {}
        for entry in history:
            if entry["AvailabilityZone"] in self.details.subnets and entry["InstanceType"] in types:
                where = place(entry["AvailabilityZone"], entry["InstanceType"])
                newest[where] = max(newest.get(where, (entry["Timestamp"], 0.0)), (entry["Timestamp"], float(entry["SpotPrice"])))
        if not newest:
            raise PoolError(
                f"EC2 has no spot price for {', '.join(types)} in {', '.join(self.details.subnets)}: are types and zones of this region?"
            )
        return Prices(spot={where: price for where, (_, price) in newest.items()}, on_demand=min(types.values()))

    def start(self, order: Order) -> Machine:
        held = [machine for machine in self._machines(order.run_id, order.attempt, _ALIVE[:2])]
        if held:
            return held[0]
        mirror = self._mirror(order.run_id)
        mirror.deliver(order.run_folder)
        template = self._template(order, self._code())
        places = [tuple(wanted.split("/")) for wanted in order.places] or [
            (zone, kind) for kind in self._types(order.like, larger=order.larger) for zone in self.details.subnets
        ]
        overrides = [
            {"InstanceType": kind, "SubnetId": self.details.subnets[zone]}
            | ({"MaxPrice": f"{order.max_price:.4f}"} if order.max_price and not order.on_demand else {})
            for zone, kind in places
        ]
        options = {"OnDemandOptions": {"AllocationStrategy": "lowest-price"}} if order.on_demand else {}
        if not order.on_demand:
            options["SpotOptions"] = {"AllocationStrategy": "price-capacity-optimized", "InstanceInterruptionBehavior": "terminate"}
        try:
            with _told("ec2:CreateFleet, ec2:RunInstances, ec2:CreateTags and iam:PassRole"):
                answer = self._ec2.create_fleet(
                    Type="instant",
                    # The same order again is the same fleet, should the answer to the first have been lost; another ask is another one.
                    ClientToken=_token(order),
                    LaunchTemplateConfigs=[{"LaunchTemplateSpecification": template, "Overrides": overrides}],
                    TargetCapacitySpecification={
                        "TotalTargetCapacity": 1,
                        "DefaultTargetCapacityType": "on-demand" if order.on_demand else "spot",
                    },
                    TagSpecifications=[{"ResourceType": "fleet", "Tags": _tags(self._tags(order))}],
                    **options,
                )
        finally:
            self._forget(template)
        ids = [instance_id for instance in answer.get("Instances", ()) for instance_id in instance["InstanceIds"]]
        refused = self._refused(answer.get("Errors", ()), places, given=bool(ids))
        if not ids:
            raise NoCapacityError(
                f"EC2 has no machine for attempt {order.attempt} of {order.run_id}: {refused or 'it gave no reason'}", refused
            )
        machine = self._shown(order, ids)
        price = machine.on_demand_per_hour if machine.on_demand else self._spot_price(machine)
        with _told("ec2:CreateTags"):
            self._ec2.create_tags(Resources=ids, Tags=_tags({PRICE_TAG: f"{price:.6f}"}))
        return Machine(**vars(machine) | {"price_per_hour": price, "refused": tuple(sorted(refused))})

    def find(self, run_id: str, run_folder: Path) -> list[Machine]:
        return sorted(
            self._machines(run_id, None, (*_ALIVE, "stopped", "terminated")), key=lambda machine: (machine.attempt, machine.started_at)
        )

    def look(self, machine: Machine, run_folder: Path) -> Sight:
        self._listen()
        with _told("ec2:DescribeInstances"):
            found = [
                instance
                for page in self._ec2.get_paginator("describe_instances").paginate(
                    Filters=[{"Name": "instance-id", "Values": [machine.name]}]
                )
                for reservation in page["Reservations"]
                for instance in reservation["Instances"]
            ]
        mirror = self._mirror(machine.run_id)
        with told(mirror.bucket, mirror.prefix):
            heard = mirror.read(f"{NOTICES}/{machine.attempt}.json")
            said = mirror.read(f"{MACHINES}/{machine.attempt}.json")
        word = Word.of(said[0]) if said else None
        state = found[0]["State"]["Name"] if found else "terminated"
        why = found[0].get("StateReason", {}).get("Code", "") if found else ""
        taken = why == _TAKEN or bool(heard)
        if state in _ALIVE:
            # One that has said its last word does no more work, however long EC2 takes to end it; it is paid until then.
            over = state in ("stopping", "shutting-down") and word is not None and word.ended_at is not None
            return Sight(alive=not over, taken=taken, word=word)
        return Sight(alive=False, taken=taken, ended_at=_ended_at(found[0]) if found else None, word=word)

    def page(self, machine: Machine) -> str:
        region = self._ec2.meta.region_name
        return f"https://{region}.console.aws.amazon.com/ec2/home?region={region}#InstanceDetails:instanceId={machine.name}"

    def fetch(self, run_id: str, run_folder: Path) -> None:
        self._mirror(run_id).fetch(run_folder)

    def stop(self, machine: Machine, run_folder: Path) -> None:
        with _told("ec2:TerminateInstances"):
            self._ec2.terminate_instances(InstanceIds=[machine.name])

    def _shown(self, order: Order, ids: list[str]) -> Machine:
        """The machine that a fleet has given: EC2 tells of it everywhere only some seconds after it gave it."""
        from botocore.exceptions import ClientError

        until = time.monotonic() + _SHOWN_SECONDS
        while True:
            late = time.monotonic() > until
            with _told("ec2:CreateTags and ec2:DescribeInstances"):
                try:
                    self._ec2.create_tags(Resources=ids, Tags=_tags(self._tags(order)))
                except ClientError as error:
                    if error.response["Error"]["Code"] != "InvalidInstanceID.NotFound" or late:
                        raise
            for machine in self._machines(order.run_id, order.attempt, (*_ALIVE, "terminated")):
                if machine.name == ids[0]:
                    return machine
            if late:
                raise PoolError(
                    f"EC2 gave {ids[0]} for attempt {order.attempt} of {order.run_id} and does not show it after {_SHOWN_SECONDS:.0f} s: "
                    "the same order again finds it by its tags, and it ends itself in any case"
                )
            time.sleep(_SHOWN_EVERY_SECONDS)

    def _machines(self, run_id: str, attempt: int | None, states: tuple[str, ...]) -> list[Machine]:
        wanted = {RUN_TAG: run_id, INSTALLATION_TAG: self.details.installation} | ({ATTEMPT_TAG: str(attempt)} if attempt else {})
        filters = [{"Name": f"tag:{name}", "Values": [value]} for name, value in wanted.items()]
        filters.append({"Name": "instance-state-name", "Values": list(states)})
        with _told("ec2:DescribeInstances"):
            pages = self._ec2.get_paginator("describe_instances").paginate(Filters=filters)
            instances = [entry for page in pages for reservation in page["Reservations"] for entry in reservation["Instances"]]
        return [self._machine(instance) for instance in instances]

    def _machine(self, instance: Mapping[str, Any]) -> Machine:
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        kind, on_demand = instance["InstanceType"], instance.get("InstanceLifecycle") != "spot"
        full = {**self.details.types, **self.details.larger}.get(kind, min(self.details.types.values()))
        return Machine(
            name=instance["InstanceId"],
            run_id=tags[RUN_TAG],
            attempt=int(tags[ATTEMPT_TAG]),
            zone=instance["Placement"]["AvailabilityZone"],
            kind=kind,
            on_demand=on_demand,
            price_per_hour=float(tags.get(PRICE_TAG, full)),
            on_demand_per_hour=full,
            started_at=instance["LaunchTime"],
        )

    def _spot_price(self, machine: Machine) -> float:
        """Of the machine's own place, now."""
        with _told("ec2:DescribeSpotPriceHistory"):
            answer = self._ec2.describe_spot_price_history(
                InstanceTypes=[machine.kind], AvailabilityZone=machine.zone, ProductDescriptions=["Linux/UNIX"], StartTime=datetime.now(UTC)
            )
        held = [
            (entry["Timestamp"], float(entry["SpotPrice"]))
            for entry in answer["SpotPriceHistory"]
            if entry["AvailabilityZone"] == machine.zone
        ]
        return max(held)[1] if held else machine.on_demand_per_hour

    def _types(self, like: str | None, *, larger: bool) -> Mapping[str, float]:
        """Those that may be asked for, with their on-demand prices: a run that has begun goes on where it adds up the same."""
        table = "larger" if larger and self.details.larger else "types"
        types: Mapping[str, float] = getattr(self.details, table)
        if like is None or set(types) == {like}:
            return types
        unknown = sorted({like, *types} - self._ways.keys())
        if unknown:
            with _told("ec2:DescribeInstanceTypes"):
                pages = self._ec2.get_paginator("describe_instance_types").paginate(InstanceTypes=unknown)
                self._ways |= {entry["InstanceType"]: _way(entry) for page in pages for entry in page["InstanceTypes"]}
        alike = {kind: price for kind, price in types.items() if self._ways[kind] == self._ways[like]}
        if not alike:
            others = ", ".join(f"{kind} ({self._ways[kind]})" for kind in types)
            raise PoolError(
                f"the run began on {like} ({self._ways[like]}), and ec2.{table} has {others}, which round otherwise: going on there would "
                f"give another model. Add a type like {like}, or pin a new run"
            )
        return alike

    def _forget(self, template: Mapping[str, str]) -> None:
        """Delete a launch template: a fleet of type instant has read it, and what is left would pile up."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._ec2.delete_launch_template(LaunchTemplateName=template["LaunchTemplateName"])
        except (BotoCoreError, ClientError) as error:
            # What the fleet answered matters more.
            log.warning("launch template %s is left: %s", template["LaunchTemplateName"], error)

    def _refused(self, errors: Any, places: list[Any], *, given: bool) -> dict[str, str]:
        """The places that had none; any other error is one of ours, unless a machine was given all the same."""
        zones = {subnet: zone for zone, subnet in self.details.subnets.items()}
        refused: dict[str, str] = {}
        for error in errors:
            code = error.get("ErrorCode", "")
            if code not in _NO_CAPACITY and given:
                log.warning("EC2 gave a machine, and said too: %s, %s", code, error.get("ErrorMessage", ""))
                continue
            if code not in _NO_CAPACITY:
                raise PoolError(
                    f"EC2 refused: {code}, {error.get('ErrorMessage', '')}. Look at image, subnets, security groups and the launcher's "
                    "policy (include/nightshift/spot/policies/launcher.json)"
                )
            asked = error.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
            where = [(zones.get(asked.get("SubnetId", ""), ""), asked.get("InstanceType", ""))] if asked else places
            refused |= {place(zone, kind): code for zone, kind in where if zone}
        return refused

    def _tags(self, order: Order) -> dict[str, str]:
        return {
            "Name": f"nightshift {order.run_id} {order.attempt}",
            RUN_TAG: order.run_id,
            ATTEMPT_TAG: str(order.attempt),
            INSTALLATION_TAG: self.details.installation,
            UNTIL_TAG: order.until.isoformat(),
        }

    def _mirror(self, run_id: str) -> Mirror:
        if run_id not in self._mirrors:
            self._mirrors[run_id] = Mirror(self._s3, self.details.bucket, f"{self.details.prefix}/runs/{run_id}")
        return self._mirrors[run_id]

    def _code(self) -> str:
        """Digest of the code that machines run, which lies on S3 under it."""
        content = bundle.packed()
        digest = hashlib.sha256(content).hexdigest()
        key = f"{self.details.prefix}/code/{digest}.tar.gz"
        with told(self.details.bucket, key):
            held = self._s3.list_objects_v2(Bucket=self.details.bucket, Prefix=key)
            if not held.get("KeyCount"):
                self._s3.put_object(Bucket=self.details.bucket, Key=key, Body=content)
        return digest

    def _template(self, order: Order, code: str) -> dict[str, str]:
        """A launch template of the order's own version: the same order, the same name."""
        data = {
            "ImageId": self.details.image,
            "IamInstanceProfile": {"Name": self.details.instance_profile},
            "SecurityGroupIds": list(self.details.security_groups),
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {"Encrypted": True, "DeleteOnTermination": True, "VolumeSize": self.details.volume_gib, "VolumeType": "gp3"},
                }
            ],
            "TagSpecifications": [{"ResourceType": kind, "Tags": _tags(self._tags(order))} for kind in ("instance", "volume")],
            "UserData": base64.b64encode(self._user_data(order, code).encode()).decode(),
        }
        digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
        name = f"nightshift-{self.details.installation}-{digest}"
        from botocore.exceptions import ClientError

        with _told("ec2:CreateLaunchTemplate"):
            try:
                self._ec2.create_launch_template(
                    LaunchTemplateName=name,
                    LaunchTemplateData=data,
                    TagSpecifications=[
                        {
                            "ResourceType": "launch-template",
                            "Tags": _tags({INSTALLATION_TAG: self.details.installation, RUN_TAG: order.run_id}),
                        }
                    ],
                )
            except ClientError as error:
                if "AlreadyExists" not in error.response["Error"]["Code"]:
                    raise
        return {"LaunchTemplateName": name, "Version": "$Latest"}

    def _user_data(self, order: Order, code: str) -> str:
        mirror = self._mirror(order.run_id)
        values = {
            "UNTIL": (order.until + _GRACE).isoformat(),
            "CODE": f"s3://{self.details.bucket}/{self.details.prefix}/code/{code}.tar.gz",
            "DIGEST": code,
            "PYTHON": self.details.python,
            "MIRROR": f"s3://{mirror.bucket}/{mirror.prefix}",
            "BOOT": f"s3://{mirror.bucket}/{mirror.prefix}/{MACHINES}/{order.attempt}.boot.txt",
            "REGION": self._ec2.meta.region_name,
        }
        script = USER_DATA.read_text()
        for name, value in values.items():
            script = script.replace(f"@{name}@", shlex.quote(value))
        return script.replace("@OPTIONS@", shlex.join([*agent_options(order), "--mirror", values["MIRROR"], "--metadata"]))

    def _listen(self) -> None:
        """Read what EventBridge has told of our machines, and pass it on to where machine and launching side find it."""
        if not self.details.queue or self._sqs is None:
            return
        with _told("sqs:ReceiveMessage and sqs:DeleteMessage"):
            answer = self._sqs.receive_message(QueueUrl=self.details.queue, MaxNumberOfMessages=10, WaitTimeSeconds=0)
            for message in answer.get("Messages", ()):
                self._heard(message["Body"])
                # Only now: a message that was not written down comes again.
                self._sqs.delete_message(QueueUrl=self.details.queue, ReceiptHandle=message["ReceiptHandle"])

    def _heard(self, body: str) -> None:
        try:
            event = json.loads(body)
            kind, instance, at = event["detail-type"], event["detail"].get("instance-id"), datetime.fromisoformat(event["time"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Left in the queue, it would stop every run that reads there, again and again.
            log.warning("the queue %s holds something that is no event of EventBridge (%r), dropped", self.details.queue, error)
            return
        if kind != "EC2 Spot Instance Interruption Warning" or not re.fullmatch(r"i-[0-9a-f]{8,17}", str(instance)):
            return
        filters = [
            {"Name": "instance-id", "Values": [instance]},
            {"Name": f"tag:{INSTALLATION_TAG}", "Values": [self.details.installation]},
        ]
        found = [
            entry for reservation in self._ec2.describe_instances(Filters=filters)["Reservations"] for entry in reservation["Instances"]
        ]
        for machine in map(self._machine, found):
            # Two minutes, AWS says; the message has been on its way for some of them.
            deadline = at + timedelta(seconds=110)
            mirror = self._mirror(machine.run_id)
            with told(mirror.bucket, mirror.prefix):
                mirror.write(f"{NOTICES}/{machine.attempt}.json", {"deadline": deadline.isoformat(), "machine": machine.name})
            log.warning("%s of run %s goes at %s, says EventBridge", machine.name, machine.run_id, deadline.isoformat(timespec="seconds"))


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]


def _way(kind: Mapping[str, Any]) -> str:
    """What the arithmetic of an instance type's machines depends on; for people too."""
    processor = kind["ProcessorInfo"]
    gpus = [f"{gpu['Count']} {gpu['Manufacturer']} {gpu['Name']}" for gpu in kind.get("GpuInfo", {}).get("Gpus", ())]
    return " + ".join([*gpus, f"{processor.get('Manufacturer', 'some')} {'/'.join(processor['SupportedArchitectures'])}"])


def _token(order: Order) -> str:
    """Names one ask: the same again gives the same fleet, should the answer have been lost; one after a refusal is another."""
    asked = [order.run_id, order.attempt, order.ask, order.on_demand, sorted(order.places), order.until.isoformat()]
    asked += [order.larger, order.like]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _ended_at(instance: Mapping[str, Any]) -> datetime | None:
    """From `User initiated (2026-01-31 12:00:00 GMT)`, the only place where EC2 tells it."""
    found = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (GMT|UTC)\)", instance.get("StateTransitionReason", ""))
    return datetime.fromisoformat(found[1]).replace(tzinfo=UTC) if found else None


@contextmanager
def _told(rights: str) -> Iterator[None]:
    """Say what EC2 refused, and what to look at."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _NO_CAPACITY:
            raise NoCapacityError(f"EC2 has no machine now: {code}", {}) from error
        raise PoolError(
            f"EC2: {error}. Does the launcher have {rights}? include/nightshift/spot/policies/launcher.json has the whole policy"
        ) from error
    except BotoCoreError as error:
        raise PoolError(f"EC2 does not answer: {error}. Look at region, endpoint and credentials of the connection") from error
