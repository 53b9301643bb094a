"""Objects on S3, by their address `s3://bucket/key`: found, listed, read, created, removed.

Nothing of how to get there is a setting of ours. Where S3 answers is said by the variables that all of AWS's programs know,
`AWS_ENDPOINT_URL` and `AWS_REGION`; who asks, each client finds out by AWS's own order: environment, profile, the machine's role.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from include.nightshift.errors import ConfigurationError, StorageError

_AT_ONCE = 1000
"""S3 deletes so many objects in one request."""


@dataclass(frozen=True)
class StoredObject:
    """What S3 says of one object."""

    address: str
    bytes: int
    etag: str
    """Another content has another one; how it is made is S3's own affair."""
    modified: datetime
    """When it was put, by S3's clock, UTC."""


def endpoint() -> str | None:
    """Where S3 answers; None for AWS itself, which follows from the region.

    Raises:
        ConfigurationError: it is no address, or holds a password, which would end up in command lines and logs.
    """
    variable = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
    if variable is None:
        return None
    url = os.environ[variable]
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ConfigurationError(f"{variable} holds a user or password: leave them out, credentials go to AWS_ACCESS_KEY_ID and the like")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{variable}={url!r} is no address: write http(s)://host:port")
    return url


def region() -> str:
    """The bucket's region. A server that is not AWS's needs one too, for the signature; any word will do there.

    Raises:
        ConfigurationError: none is named.
    """
    found = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not found:
        raise ConfigurationError("S3 needs a region: set AWS_REGION to the bucket's, for example eu-central-1")
    return found


def trusted() -> str | None:
    """The certificates to trust: `AWS_CA_BUNDLE`, or what the machine trusts (`SSL_CERT_FILE`), which neither boto3 nor Arrow asks for."""
    return os.environ.get("AWS_CA_BUNDLE") or ssl.get_default_verify_paths().cafile


def parted(address: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; Spark's spelling `s3a://` is the same object.

    Raises:
        ConfigurationError: it is no such address.
    """
    parts = urlsplit(address)
    key = parts.path.removeprefix("/")
    if parts.scheme not in ("s3", "s3a") or not parts.netloc or not key:
        raise ConfigurationError(f"{address!r} is no object's address: write s3://bucket/key")
    return parts.netloc, key


def find(address: str) -> StoredObject | None:
    """The object, without its content; None where there is none.

    Raises:
        StorageError: S3 does not answer, or refuses.
    """
    from botocore.exceptions import ClientError

    bucket, key = parted(address)
    with _told(address, "s3:GetObject and s3:ListBucket"):
        try:
            head = _client(endpoint(), region()).head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            # A missing bucket is a 404 too, but nobody meant that one.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404 or error.response["Error"]["Code"] == "NoSuchBucket":
                raise
            return None
    return StoredObject(address, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"])


def under(address: str) -> Iterator[StoredObject]:
    """Every object below the folder `address`, at any depth, ordered by key.

    Raises:
        StorageError: S3 does not answer, or refuses.
    """
    return starting(address.rstrip("/") + "/")


def starting(address: str) -> Iterator[StoredObject]:
    """Every object whose address begins so, ordered by key.

    Raises:
        StorageError: S3 does not answer, or refuses.
    """
    bucket, prefix = parted(address)
    with _told(address, "s3:ListBucket"):
        pages = _client(endpoint(), region()).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", ()):
                found = f"{urlsplit(address).scheme}://{bucket}/{entry['Key']}"
                yield StoredObject(found, entry["Size"], entry["ETag"].strip('"'), entry["LastModified"])


def read(address: str) -> tuple[StoredObject, bytes]:
    """The object and its content, both of one moment.

    Raises:
        StorageError: there is no such object, S3 does not answer, or refuses.
    """
    bucket, key = parted(address)
    with _told(address, "s3:GetObject"):
        answer = _client(endpoint(), region()).get_object(Bucket=bucket, Key=key)
        content: bytes = answer["Body"].read()
    return StoredObject(address, len(content), answer["ETag"].strip('"'), answer["LastModified"]), content


def create(address: str, content: bytes) -> bool:
    """Put the object where there is none; False, with nothing done, where there is one. Of many who try at once one succeeds.

    Raises:
        StorageError: S3 does not answer, or refuses.
    """
    from botocore.exceptions import ClientError

    bucket, key = parted(address)
    with _told(address, "s3:PutObject"):
        try:
            _client(endpoint(), region()).put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
        except ClientError as error:
            # 412: there is one; 409: another put was a moment ahead.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                raise
            return False
    return True


def remove(addresses: Iterable[str]) -> None:
    """Delete objects of one bucket; those that are gone already are no error.

    Raises:
        StorageError: S3 does not answer, or refuses one of them; the others are gone then.
    """
    wanted = [(address, *parted(address)) for address in addresses]
    for first in range(0, len(wanted), _AT_ONCE):
        batch = wanted[first : first + _AT_ONCE]
        [bucket] = {bucket for _, bucket, _ in batch}
        with _told(batch[0][0], "s3:DeleteObject"):
            keys: list[Any] = [{"Key": key} for _, _, key in batch]
            answer = _client(endpoint(), region()).delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        if refused := answer.get("Errors"):
            raise StorageError(
                f"s3://{bucket}/{refused[0]['Key']} and {len(refused) - 1} more were not deleted: {refused[0]['Code']}, "
                f"{refused[0]['Message']}. May this machine s3:DeleteObject there, and is the object under a lock?"
            )


def client() -> Any:
    """AWS's own client, for what is not done object by object."""
    return _client(endpoint(), region())


@contextmanager
def _told(address: str, right: str) -> Iterator[None]:
    """Say what S3 refused, and what to look at."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise StorageError(
            f"{address} at {endpoint() or f'AWS, region {region()}'}: {error}. Does the bucket exist, are AWS_ENDPOINT_URL and AWS_REGION "
            f"right, and does AWS's credential chain find somebody here who has {right}? docs/deploy.md has the whole policy"
        ) from error


@functools.cache
def _client(url: str | None, named: str) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 4},
        # A server that is not AWS's has no names for its buckets, and may not know the newer checksums.
        s3={"addressing_style": "path" if url else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=url, region_name=named, verify=trusted(), config=config)
