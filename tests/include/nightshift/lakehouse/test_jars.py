import hashlib
import ssl
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from include.nightshift.errors import ConfigurationError
from include.nightshift.lakehouse import jars
from include.nightshift.settings import ROOT, Settings


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose one wanted jar lies there already, and is what was pinned."""
    jar = tmp_path / "jars" / "delta.jar"
    jar.parent.mkdir()
    jar.write_bytes(b"a jar")
    monkeypatch.setattr(jars, "DELTA", {"delta.jar": hashlib.sha256(b"a jar").hexdigest()})
    return jar


def test_every_jar_of_ivy_xml_is_pinned_and_no_other() -> None:
    dependencies = ElementTree.parse(ROOT / "ivy.xml").getroot().findall("./dependencies/dependency")  # noqa: S314 - our own file
    listed = {(d.get("conf", "").partition("->")[0], f"{d.get('name')}-{d.get('rev')}.jar") for d in dependencies}
    assert listed == {("delta", name) for name in jars.DELTA} | {("s3", name) for name in jars.S3}
    assert {d.get("transitive") for d in dependencies} == {"false"}


def test_jars_that_are_there_are_not_fetched_again(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "_retrieve", lambda conf, folder: pytest.fail("it went to the network"))
    assert jars.fetch(Settings(home=pinned.parents[1])) == [pinned]


def test_a_jar_that_is_not_the_pinned_one_is_deleted_and_named(pinned: Path) -> None:
    pinned.write_bytes(b"another jar")
    with pytest.raises(ConfigurationError, match=r"delta\.jar has SHA-256 .* tampered"):
        jars.fetch(Settings(home=pinned.parents[1]))
    assert not pinned.exists()


def test_a_failed_download_says_why_and_what_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho PKIX path building failed\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setattr(jars, "java", lambda: java)
    with pytest.raises(ConfigurationError, match=r"PKIX path building failed.*SSL_CERT_FILE"):
        jars.fetch(Settings(home=tmp_path))


def test_s3_jars_are_wanted_only_where_the_lakehouse_lies_on_s3(tmp_path: Path) -> None:
    assert set(jars.wanted(Settings(home=tmp_path))) == {"delta"}
    assert set(jars.wanted(Settings(home=tmp_path, lakehouse="s3a://bucket/lake"))) == {"delta", "s3"}


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_java_trusts_every_certificate_that_the_machine_trusts(tmp_path: Path) -> None:
    store = jars.trust_store(tmp_path)
    stored = pkcs12.load_pkcs12(store.read_bytes(), jars.TRUST_STORE_PASSWORD.encode()).additional_certs
    trusted = ssl.create_default_context(cafile=ssl.get_default_verify_paths().cafile).get_ca_certs(binary_form=True)
    assert len(stored) == len(trusted) > 0


def test_another_certificate_bundle_is_another_trust_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jars.trust_store(tmp_path)
    assert jars.trust_store(tmp_path) == whole
    first_of_all = tmp_path / "one.pem"
    first_of_all.write_text(ssl.DER_cert_to_PEM_cert(ssl.create_default_context().get_ca_certs(binary_form=True)[0]))
    monkeypatch.setenv("SSL_CERT_FILE", str(first_of_all))
    one = jars.trust_store(tmp_path)
    assert one.stat().st_size < whole.stat().st_size
