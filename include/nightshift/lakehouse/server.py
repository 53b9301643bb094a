"""Under the whole walk: the lakehouse server, one JVM on one catalog for pipelines (Spark Connect) and analysts (JDBC).

`python -m include.nightshift.lakehouse.server` becomes that JVM (`exec`), so that whoever supervises the one supervises the other.
Spark Connect asks for the token of this home. JDBC asks nobody who they are, so it listens on loopback only.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

from include.nightshift import doors
from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError, NightshiftError
from include.nightshift.lakehouse import jars, storage
from include.nightshift.settings import LOOPBACK, ROOT, Settings

# What Spark's own launcher passes to Java 17 and later (JavaModuleOptions), without `jdk.incubator.vector`, which the wheel's
# runtime lacks: Spark then logs that it computes without it.
_OPENED = (
    *("java.base/java." + name for name in ("io", "lang", "lang.invoke", "lang.reflect", "net", "nio", "util", "util.concurrent")),
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/sun.nio.cs",
    "java.base/sun.security.action",
    "java.base/sun.util.calendar",
    "java.security.jgss/sun.security.krb5",
)
_JAVA_OPTIONS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENED),
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    # Nobody waits for a pause: the collector that gets most done, nearly a tenth more than G1 with rows that come in large blocks.
    "-XX:+UseParallelGC",
    # Spark generates code for every plan. Where there is no room left for it, queries crawl, or fail with "Out of space in CodeCache".
    "-XX:ReservedCodeCacheSize=512m",
    # A JVM that ran out of memory is half dead and holds its ports: leave, and be started again.
    "-XX:+ExitOnOutOfMemoryError",
    "-Duser.timezone=UTC",
    "-Dfile.encoding=UTF-8",
)


def properties(settings: Settings) -> dict[str, str]:
    """Spark's settings, with the reason wherever the default would not do."""
    home = settings.home
    return {
        "spark.app.name": "nightshift-lakehouse",
        "spark.master": "local[*]",
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "hive",
        "spark.sql.warehouse.dir": settings.lakehouse_location,
        "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={home / 'metastore' / 'derby'};create=true",
        "spark.local.dir": str(home / "metastore" / "scratch"),
        "spark.sql.session.timeZone": "UTC",
        # No web UI beside the ports that the settings name.
        "spark.driver.host": LOOPBACK,
        "spark.driver.bindAddress": LOOPBACK,
        "spark.connect.grpc.binding.address": settings.binds.spark,
        "spark.connect.grpc.binding.port": str(settings.ports.spark),
        "spark.hadoop.hive.server2.thrift.bind.host": settings.binds.jdbc,
        "spark.hadoop.hive.server2.thrift.port": str(settings.ports.jdbc),
        "spark.hadoop.hive.server2.transport.mode": "binary",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # A whole night, or a model's training rows, in one message.
        "spark.connect.grpc.maxInboundMessageSize": str(512 * 1024 * 1024),
        "spark.connect.session.manager.defaultSessionTimeout": "30m",
        "spark.connect.execute.manager.detachedTimeout": "5m",
        # Nights are small tables on one machine: Spark's 200 shuffle partitions, Delta's 50 snapshot partitions and the 10,000
        # tasks with which VACUUM lists files (47 s for five of them) would be nearly all of the time.
        "spark.sql.shuffle.partitions": "4",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        # Sessions bring no jars of their own here. Isolated, each (that is, each task) would load Spark's classes and compile its
        # queries anew, which was most of what a small night cost.
        "spark.sql.artifact.isolation.enabled": "false",
        # Delta would answer min(day) from its log, and over Connect fails to: `LocalDate cannot be cast to java.sql.Date` (4.4.0).
        "spark.databricks.delta.optimizeMetadataQuery.enabled": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Python workers over sockets of the file system: a tenth faster than TCP, and nobody else can knock.
        "spark.python.unix.domain.socket.enabled": str(_has_room(home / "metastore" / "scratch")).lower(),
        # An error's words are for people; the JVM's stack stays in the server's log.
        "spark.sql.connect.serverStacktrace.enabled": "false",
        "spark.sql.pyspark.jvmStacktrace.enabled": "false",
        # INFO is ten lines for each request.
        "spark.log.level": "WARN",
        # A long-lived driver: forget finished queries, which nobody looks at without a UI.
        "spark.sql.ui.retainedExecutions": "20",
        "spark.ui.retainedJobs": "50",
        "spark.ui.retainedStages": "50",
        "spark.ui.retainedTasks": "1000",
        "spark.sql.thriftserver.ui.retainedStatements": "20",
        "spark.sql.thriftserver.ui.retainedSessions": "20",
        **storage.spark_properties(settings),
    }


def _has_room(folder: Path) -> bool:
    """Whether the path of a socket in it, which Spark names by a UUID, stays within the 107 bytes that Linux allows."""
    return len(os.fsencode(folder)) <= 60


def command(settings: Settings, class_path: list[Path]) -> list[str]:
    """The JVM's whole command line.

    Delta lies on the JVM's own class path, never on Spark's (`--jars`, `--packages`): when a JDBC client leaves, Hive closes the
    class loader that holds the latter, and from then on every client fails.
    """
    on_path = os.pathsep.join([*map(str, class_path), str(jars.spark_jars() / "*")])
    folder = settings.home / "metastore"
    line = [str(jars.java()), f"-Xmx{settings.lakehouse_memory}", *_JAVA_OPTIONS, *jars.trust_options(settings.home / "jars")]
    line += [f"-Djava.io.tmpdir={folder / 'scratch'}", f"-Dderby.stream.error.file={settings.home / 'logs' / 'derby.log'}"]
    line += ["-cp", on_path, "org.apache.spark.deploy.SparkSubmit"]
    line += ["--class", "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"]
    for name, value in properties(settings).items():
        line += ["--conf", f"{name}={value}"]
    return [*line, "spark-internal"]


def environment(settings: Settings) -> dict[str, str]:
    """The JVM's environment: this one's, Spark's Python workers on this very Python, and `include` importable by them.

    Raises:
        ConfigurationError: there is no token, or others can read it; without one Spark would let in anybody.
    """
    shown = doors.token(settings, "spark")
    if shown is None:
        raise ConfigurationError("NIGHTSHIFT_SPARK_REMOTE names a lakehouse elsewhere: unset it to run this home's own")
    kept = {name: value for name, value in os.environ.items() if name not in ("SPARK_REMOTE", "SPARK_HOME", "SPARK_CONF_DIR", "JAVA_HOME")}
    return kept | {
        "SPARK_CONNECT_AUTHENTICATE_TOKEN": shown,
        "SPARK_LOCAL_IP": LOOPBACK,
        "SPARK_HOME": str(jars.spark_jars().parent),
        "SPARK_SCALA_VERSION": "2.13",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "NIGHTSHIFT_HOME": str(settings.home),
        "TZ": "UTC",
        # Python workers keep the memory of their arrays for the next ones, until they are idle for a minute and end: given back each
        # time, it comes with a page fault per 4 KiB, which in a virtual machine was a quarter of their time.
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
        "MIMALLOC_PURGE_DELAY": "-1",
    }


def prepare(settings: Settings) -> None:
    """Make the server's folders, and empty the scratch folder that a killed predecessor could not.

    Raises:
        ConfigurationError: something listens on the server's ports, perhaps this server already.
    """
    for name, port in (("SPARK", settings.ports.spark), ("JDBC", settings.ports.jdbc)):
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                raise ConfigurationError(
                    f"port {port} is taken: is this lakehouse running already? If not, set NIGHTSHIFT_PORT_{name} to another port"
                )
    scratch = settings.home / "metastore" / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    for needed in (scratch, settings.home / "logs"):
        needed.mkdir(parents=True, exist_ok=True)


def main() -> int:
    """Fetch the jars if need be, claim the tables, then become the JVM; returns only when that cannot be."""
    try:
        settings = settings_module.load()
        line = command(settings, jars.fetch(settings))
        doors.make(settings)
        told = environment(settings)
        prepare(settings)
        storage.claim(settings)
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)  # noqa: T201 - a program's answer
        return 1
    # Hive and Derby drop files where they are started: that is never the checkout.
    os.chdir(settings.home / "metastore")
    os.execve(line[0], line, told)  # noqa: S606 - the JVM takes this process's place


if __name__ == "__main__":
    raise SystemExit(main())
