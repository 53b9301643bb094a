"""Storage: where the tables lie, a folder or S3, and how each client gets there.

Four clients reach the same files: Spark (S3A, in the server's JVM) the data tables, delta-rs (in each task) logs and records,
Arrow and boto3 single files. `objects` says where S3 answers; who asks, each finds out by itself, in AWS's own order.
"""

from __future__ import annotations

import functools
import json
import socket
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from include.nightshift import objects
from include.nightshift.errors import ConfigurationError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

CLAIM = "_nightshift.json"
"""The object at the tables' prefix that says whose server may write there."""


def location(settings: Settings, table: Table) -> str:
    """Where the table lies: a folder, or `s3a://bucket/prefix/schema/table`, which Spark and delta-rs both understand."""
    return f"{settings.lakehouse_location}/{table.schema}/{table.name}"


def options(settings: Settings) -> dict[str, str] | None:
    """What delta-rs is told beside the location.

    Raises:
        ConfigurationError: the tables lie on S3, and AWS's variables do not say where that is.
    """
    if not settings.on_s3:
        return None
    told = {
        "aws_region": objects.region(),
        # A version is a file that is put only where there is none: of two writers, one wins and the other looks again.
        "aws_conditional_put": "etag",
        # A server that is away for longer is an error for whoever runs the task, which tries again.
        "connect_timeout": "5s",
        "retry_timeout": "60s",
    }
    if url := objects.endpoint():
        told |= {"aws_endpoint": url, "aws_allow_http": str(urlsplit(url).scheme == "http").lower()}
    return told


def is_table(settings: Settings, table: Table) -> bool:
    """Whether a Delta table lies at the table's location, whatever the catalog knows."""
    from deltalake import DeltaTable

    return DeltaTable.is_deltatable(location(settings, table), storage_options=options(settings))


def filesystem(settings: Settings) -> FileSystem:
    """The tables' files, for Arrow; paths are `root` and what is below it.

    Raises:
        ConfigurationError: the tables lie on S3, and AWS's variables do not say where that is.
    """
    from pyarrow.fs import LocalFileSystem

    return _s3(objects.endpoint(), objects.region()) if settings.on_s3 else LocalFileSystem()


@functools.cache
def _s3(url: str | None, region: str) -> FileSystem:
    from pyarrow.fs import S3FileSystem

    told = {"endpoint_override": urlsplit(url).netloc, "scheme": urlsplit(url).scheme} if url else {}
    return S3FileSystem(region=region, connect_timeout=5, tls_ca_file_path=objects.trusted(), **told)


def root(settings: Settings, table: Table) -> str:
    """The table's folder, as `filesystem` names it."""
    return location(settings, table).removeprefix("s3a://")


def spark_properties(settings: Settings) -> dict[str, str]:
    """What S3A is told, as Spark's settings. No credentials: a command line is everybody's to read.

    Raises:
        ConfigurationError: the tables lie on S3, and AWS's variables do not say where that is.
    """
    if not settings.on_s3:
        return {}
    told = {
        "endpoint.region": objects.region(),
        # The order in which boto3 and delta-rs look too. S3A's own default knows no profile and no web identity.
        "aws.credentials.provider": "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
        # What is being uploaded lies here, not under /tmp.
        "buffer.dir": str(settings.home / "metastore" / "scratch" / "s3a"),
    }
    if url := objects.endpoint():
        secure = str(urlsplit(url).scheme == "https").lower()
        told |= {"endpoint": url, "path.style.access": "true", "connection.ssl.enabled": secure}
    return {f"spark.hadoop.fs.s3a.{name}": value for name, value in told.items()}


def claim(settings: Settings) -> None:
    """Take the tables on S3 for this home's server, for good, or find that it has them already.

    Spark puts a version of a table without asking S3 whether there is one: it keeps order among the writers of its own driver only. A
    second driver would overwrite the first one's commits, and nobody would notice.

    Raises:
        ConfigurationError: they are another home's, AWS's variables do not say where S3 is, or this S3 takes two objects of one name.
        StorageError: S3 does not answer, or refuses.
    """
    if not settings.on_s3:
        return
    address, identity = f"{settings.lakehouse_location}/{CLAIM}", _identity(settings)
    mine = {"home": identity, "folder": str(settings.home), "machine": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
    if objects.create(address, json.dumps(mine).encode()):
        if objects.create(address, b""):
            raise ConfigurationError(
                f"{address}: this S3 server does not refuse a second object of one name (If-None-Match), so writers of records would "
                "overwrite each other. Use one that does (AWS S3 and current MinIO do), or a folder"
            )
        return
    holder = json.loads(objects.read(address)[1])
    if holder["home"] != identity:
        raise ConfigurationError(
            f"{settings.lakehouse_location} is served by the home {holder['folder']} on {holder['machine']}, since {holder['since']}: two "
            f"servers would overwrite each other's commits. Choose another prefix; or, when that home is gone for good, delete {address}"
        )


def release(settings: Settings) -> None:
    """Give up the claim of a home that is about to go, so that another may take the tables over; somebody else's is left alone.

    Raises:
        StorageError: S3 does not answer, or refuses.
    """
    address = f"{settings.lakehouse_location}/{CLAIM}"
    if settings.on_s3 and objects.find(address) and json.loads(objects.read(address)[1])["home"] == _identity(settings):
        objects.remove([address])


def _identity(settings: Settings) -> str:
    """The home's own name, made once: machines are renamed, and folders are mounted elsewhere."""
    path = settings.home / "metastore" / "identity"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), path.open("x") as file:
        file.write(uuid.uuid4().hex)
    return path.read_text()
