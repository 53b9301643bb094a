"""Details: what an installation says of its place in EC2, in one TOML file that `NIGHTSHIFT_EC2` names (docs/deploy.md shows one)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from include.nightshift.errors import ConfigurationError

_NEEDED = ("bucket", "prefix", "installation", "image", "instance_profile", "security_groups", "subnets", "types")


@dataclass(frozen=True, kw_only=True)
class Details:
    """What an installation says of its EC2: a TOML file, table `ec2`."""

    bucket: str
    prefix: str
    """Below it lie runs and code; a machine may touch nothing else."""
    installation: str
    """Tells our machines from those of another installation in the account."""
    image: str
    """An AMI with Python 3.11, AWS's command line and, for GPUs, the driver."""
    instance_profile: str
    """Name of the machines' role."""
    security_groups: tuple[str, ...]
    subnets: Mapping[str, str]
    """By zone."""
    types: Mapping[str, float]
    """Instance types, each with its on-demand price an hour; of the pricing service we ask nothing, it is another right and region."""
    larger: Mapping[str, float] = field(default_factory=dict)
    """The same, for runs that ran out of memory."""
    connection: str = "aws_default"
    """The Airflow connection: credentials, region, endpoint."""
    python: str = ""
    """A Python on the image that has what requirements-training.txt asks for; empty: it is made at every boot."""
    volume_gib: int = 100
    queue: str = ""
    """Address of the SQS queue that EventBridge's spot warnings go to; empty: nobody listens but the machine."""

    def __post_init__(self) -> None:
        shapes = {
            "bucket": r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
            "prefix": r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*",
            "installation": r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}",
            "image": r"ami-[0-9a-f]{8,17}",
            "instance_profile": r"[A-Za-z0-9+=,.@_-]{1,128}",
            "connection": r"[A-Za-z0-9_.-]+",
            "python": r"(/[A-Za-z0-9._-]+)*",
            "queue": r"(https?://[^\s\"']+)?",
        }
        for name, shape in shapes.items():
            if not re.fullmatch(shape, str(getattr(self, name))):
                raise ConfigurationError(f"ec2.{name} = {getattr(self, name)!r}: it must look like {shape}")
        _check_each("security_groups", self.security_groups, r"sg-[0-9a-f]{8,17}")
        _check_each("subnets", self.subnets, r"[a-z]{2}(-[a-z]+)+-\d[a-z]")
        _check_each("subnets", self.subnets.values(), r"subnet-[0-9a-f]{8,17}")
        for name in ("types", "larger"):
            priced: Mapping[str, float] = getattr(self, name)
            if name == "types" or priced:
                _check_each(name, priced, r"[a-z0-9-]+\.[a-z0-9-]+")
            if any(isinstance(price, bool) or not isinstance(price, int | float) or price <= 0 for price in priced.values()):
                raise ConfigurationError(f"ec2.{name} = {dict(priced)}: give each type its on-demand price an hour, above 0")
        if isinstance(self.volume_gib, bool) or not isinstance(self.volume_gib, int) or not 8 <= self.volume_gib <= 16_384:
            raise ConfigurationError(f"ec2.volume_gib = {self.volume_gib!r}: give 8 to 16384")

    @classmethod
    def read(cls, path: Path) -> Details:
        """Read the file.

        Raises:
            ConfigurationError: no such file, no TOML, or a field that is missing, unknown or impossible.
        """
        import tomllib

        try:
            raw = tomllib.loads(path.read_text())["ec2"]
        except FileNotFoundError as error:
            raise ConfigurationError(f"{path} is missing: NIGHTSHIFT_EC2 names a file as docs/deploy.md shows it") from error
        except (tomllib.TOMLDecodeError, KeyError) as error:
            raise ConfigurationError(f"{path} is no TOML with a table [ec2] ({error}): docs/deploy.md shows one") from error
        known = {entry.name: entry for entry in fields(cls)}
        unknown = sorted(set(raw) - set(known))
        missing = sorted(name for name in _NEEDED if name not in raw)
        if unknown or missing:
            raise ConfigurationError(f"{path}: [ec2] lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}")
        for name in ("subnets", "types", "larger"):
            if not isinstance(raw.get(name, {}), dict):
                raise ConfigurationError(f"{path}: ec2.{name} is a table, [ec2.{name}]")
        if not isinstance(raw["security_groups"], list):
            raise ConfigurationError(f"{path}: ec2.security_groups is a list")
        return cls(**raw | {"security_groups": tuple(raw["security_groups"])})


def _check_each(name: str, values: Any, shape: str) -> None:
    if not values or not all(isinstance(value, str) and re.fullmatch(shape, value) for value in values):
        raise ConfigurationError(f"ec2.{name} = {list(values)}: at least one, each must look like {shape}")
