"""The installation's pool of training machines, as the settings name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from include.nightshift.settings import Settings
    from include.nightshift.spot.pools import Pool


def pool(settings: Settings, rehearsed: int = 0) -> Pool:
    """Where training runs get their machines.

    `rehearsed`: machines to take away on purpose after their first checkpoint; only the local pool can.

    Raises:
        ConfigurationError: the file with the details of EC2 is missing or says something impossible.
        PoolError: the Airflow connection that it names is missing, or has no region.
    """
    if settings.pool == "ec2" and settings.ec2 is not None:
        return _ec2(settings.ec2)
    from include.nightshift.spot.local import LocalPool

    return LocalPool(interruptions=[1] * rehearsed)


def _ec2(path: Path) -> Pool:
    from include.nightshift.errors import PoolError
    from include.nightshift.spot.details import Details
    from include.nightshift.spot.ec2 import Ec2Pool

    details = Details.read(path)

    def client(service: str) -> Any:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
        from botocore.exceptions import BotoCoreError

        try:
            # Credentials, region and endpoint are the connection's.
            return AwsGenericHook(aws_conn_id=details.connection, client_type=service).get_conn()
        except BotoCoreError as error:
            raise PoolError(
                f"connection {details.connection!r} gives no client for {service} ({error}): it needs a region in its extras "
                '({"region_name": "eu-west-1"}), and credentials there or by the role of this machine'
            ) from error

    return Ec2Pool(details, client("ec2"), client("s3"), client("sqs") if details.queue else None)
