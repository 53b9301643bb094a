"""Objects on a real S3-compatible server: what is there, what is not, and what is said when S3 refuses."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from include.nightshift import objects
from include.nightshift.errors import ConfigurationError, StorageError


def test_an_object_is_found_listed_read_and_removed_by_its_address(s3: str) -> None:
    address = f"{s3}/drops/transactions/2026-04-01.csv.gz"
    assert objects.find(address) is None
    assert objects.create(address, b"rows")
    found = objects.find(address)
    assert found is not None
    assert (found.address, found.bytes) == (address, 4)
    assert abs(found.modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert objects.read(address) == (found, b"rows")
    assert list(objects.under(f"{s3}/drops")) == list(objects.under(f"{s3}/drops/")) == [found]
    objects.remove([address, address + ".never-there"])
    assert objects.find(address) is None


def test_a_folder_does_not_show_its_neighbour_whose_name_begins_alike_and_shows_more_than_a_page(s3: str) -> None:
    client = objects._client(objects.endpoint(), objects.region())
    names = [f"night/{number:04d}" for number in range(1100)]
    for name in [*names, "nightly/0000"]:
        client.put_object(Bucket="lake", Key=f"paged/{name}", Body=b"")
    seen = [found.address for found in objects.under(f"{s3}/paged/night")]
    assert seen == [f"{s3}/paged/{name}" for name in names]
    objects.remove(seen)
    assert [found.address for found in objects.under(f"{s3}/paged")] == [f"{s3}/paged/nightly/0000"]


def test_another_content_is_another_etag(s3: str) -> None:
    address = f"{s3}/etag"
    etags = []
    for content in (b"one", b"two"):
        objects.create(address, content)
        etags.append(objects.read(address)[0].etag)
        objects.remove([address])
    assert etags[0] != etags[1]


def test_of_many_who_create_one_object_one_succeeds(s3: str) -> None:
    with ThreadPoolExecutor(8) as writers:
        won = list(writers.map(lambda name: objects.create(f"{s3}/once", name.encode()), "abcdefgh"))
    assert won.count(True) == 1
    assert objects.read(f"{s3}/once")[1].decode() == "abcdefgh"[won.index(True)]


@pytest.mark.parametrize("address", ["s3://nowhere/key", "s3a://nowhere/key"])
def test_a_bucket_that_is_not_there_is_said_with_what_to_look_at(s3: str, address: str) -> None:
    acts = (objects.read, lambda address: list(objects.under(address)), lambda address: objects.create(address, b""))
    for act in acts:
        with pytest.raises(StorageError, match=r"nowhere/key/? at http://127\.0\.0\.1:\d+: .*NoSuchBucket.* AWS_ENDPOINT_URL"):
            act(address)


def test_an_object_that_is_not_there_cannot_be_read(s3: str) -> None:
    with pytest.raises(StorageError, match="NoSuchKey"):
        objects.read(f"{s3}/never")


def test_a_server_that_does_not_answer_is_an_error_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-stays-one")
    with pytest.raises(StorageError, match=r"Could not connect to the endpoint") as refused:
        objects.find("s3://lake/key")
    assert "a-secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["lake/key", "s3://lake", "s3://lake/", "s3:///key", "gs://lake/key", "/lake/key"])
def test_what_is_no_objects_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="write s3://bucket/key"):
        objects.parted(address)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:9000", "write http"),
        ("s3.example", "write http"),
        ("https://", "write http"),
        ("https://me:a-secret@s3.example", "leave them out"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_without_repeating_a_secret(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    with pytest.raises(ConfigurationError, match=message) as refused:
        objects.endpoint()
    assert "a-secret" not in str(refused.value)


def test_the_endpoint_of_s3_goes_before_the_one_of_all_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert objects.endpoint() is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://aws.example")
    assert objects.endpoint() == "https://aws.example"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    assert objects.endpoint() == "https://s3.example"


def test_without_a_region_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="set AWS_REGION"):
        objects.region()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert objects.region() == "eu-west-1"
