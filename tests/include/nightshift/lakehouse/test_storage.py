"""Where tables lie, on disk and on a real S3-compatible server: the same files, the same records, and one driver only."""

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from include.nightshift import objects
from include.nightshift.errors import ConfigurationError, LakehouseError
from include.nightshift.lakehouse import log, records, storage
from include.nightshift.lakehouse.files import Folder, commit_path
from include.nightshift.lakehouse.records import Record
from include.nightshift.lakehouse.tables import NIGHTS, RETRAIN_REQUESTS, Table
from include.nightshift.operate import processes
from include.nightshift.operate.environment import nightshift_variables
from include.nightshift.settings import Ports, Settings

NIGHT = date(2020, 3, 1)
SLICE = {"day": [NIGHT], "use_case": ["card_fraud"], "stage": ["features"]}
ENTRY = {"day": NIGHT, "use_case": "card_fraud", "stage": "features", "rows_in": 1}


def make(settings: Settings, *tables: Table) -> Settings:
    """The platform's own tables, empty, without a server."""
    from deltalake import DeltaTable

    for table in tables:
        schema = table.arrow([]).schema
        partition = list(table.partition)
        DeltaTable.create(storage.location(settings, table), schema, partition_by=partition, storage_options=storage.options(settings))
    return settings


@pytest.fixture(params=["disk", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Records on disk, then the same on S3."""
    if request.param == "disk":
        yield make(Settings(home=tmp_path), NIGHTS, RETRAIN_REQUESTS)
    else:
        prefix = f"{request.getfixturevalue('s3')}/{tmp_path.name}"
        yield make(Settings(home=tmp_path, lakehouse=prefix), NIGHTS, RETRAIN_REQUESTS)


def test_records_are_written_read_and_left_alone_when_equal_wherever_they_lie(lake: Settings) -> None:
    assert storage.is_table(lake, NIGHTS)
    assert records.replace(lake, NIGHTS, [ENTRY], SLICE).changed
    assert not records.replace(lake, NIGHTS, [ENTRY], SLICE).changed
    assert [row["rows_in"] for row in records.read(lake, NIGHTS)] == [1]
    assert (log.version(lake, NIGHTS), log.rows_by_night(lake, NIGHTS)) == (1, {NIGHT: 1})


def test_files_of_a_table_are_listed_read_written_and_removed_wherever_they_lie(lake: Settings) -> None:
    records.replace(lake, NIGHTS, [ENTRY], SLICE)
    folder = Folder(lake, NIGHTS)
    logged = {commit_path(number) for number in (0, 1)}
    [data] = folder.data()
    assert {file.path for file in folder.files()} == logged | {data.path}
    assert data.path.startswith("day=2020-03-01/stage=features/part-")
    # What Delta's own log says of its files is what the listing says.
    added = [json.loads(line) for line in folder.read(commit_path(1)).splitlines()]
    [named] = [action["add"] for action in added if "add" in action]
    assert (named["path"], named["size"]) == (data.path, data.size)
    assert folder.has(data.path)
    assert folder.read_parquet(data.path).num_rows == 1
    assert all(abs(file.modified - datetime.now(UTC)) < timedelta(minutes=1) for file in folder.files())

    folder.write("_delta_log/_aside", b"whole")
    folder.write("_delta_log/_aside", b"and replaced")
    assert folder.read("_delta_log/_aside") == b"and replaced"
    folder.remove([data.path, "_delta_log/_aside", "day=2020-03-01/never-there.parquet"])
    assert {file.path for file in folder.files()} == logged
    assert not folder.has(data.path)
    with pytest.raises(FileNotFoundError):
        folder.read(data.path)


def test_writers_of_records_in_four_processes_lose_none_on_s3(s3: str, tmp_path: Path) -> None:
    lake = make(Settings(home=tmp_path, lakehouse=f"{s3}/many"), RETRAIN_REQUESTS)
    # Spawned, not forked: delta-rs's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_file, args=(lake, name)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    filed = sorted(row["request_id"] for row in records.read(lake, RETRAIN_REQUESTS))
    assert filed == sorted(f"{name}{number}" for name in "abcd" for number in range(5))
    assert log.version(lake, RETRAIN_REQUESTS) == len(filed)


def _file(settings: Settings, name: str) -> None:
    for number in range(5):
        request = {"request_id": f"{name}{number}"}
        records.amend(settings, RETRAIN_REQUESTS, lambda held, new=request: [*held, new])  # type: ignore[misc]


def test_a_version_that_another_writer_made_first_is_not_overwritten_on_s3(s3: str, tmp_path: Path) -> None:
    lake = make(Settings(home=tmp_path, lakehouse=f"{s3}/first"), RETRAIN_REQUESTS)
    seen: list[int] = []

    def slow(held: list[Record]) -> list[Record]:
        if not seen:
            records.amend(lake, RETRAIN_REQUESTS, lambda empty: [{"request_id": "first"}])
        seen.append(len(held))
        return [*held, {"request_id": "late"}]

    assert records.amend(lake, RETRAIN_REQUESTS, slow).version == 2
    assert seen == [0, 1]
    assert sorted(row["request_id"] for row in records.read(lake, RETRAIN_REQUESTS)) == ["first", "late"]


def test_without_the_conditional_put_delta_rs_refuses_to_write(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Settings(home=tmp_path, lakehouse=f"{s3}/careless")
    careful = storage.options(lake)
    assert careful is not None
    monkeypatch.setattr(storage, "options", lambda settings: careful | {"aws_conditional_put": "disabled"})
    with pytest.raises(OSError, match="conditional put is disabled"):
        make(lake, NIGHTS)


def test_a_table_that_cannot_be_read_on_s3_is_said_in_one_line_with_what_to_look_at(s3: str, tmp_path: Path) -> None:
    lake = Settings(home=tmp_path, lakehouse=f"{s3}/empty")
    assert not storage.is_table(lake, NIGHTS)
    for unreadable in (lake, replace(lake, lakehouse="s3a://nowhere/empty")):
        with pytest.raises(LakehouseError, match=r"ops\.nights cannot be read at s3a://.*/empty/ops/nights: .*AWS's variables") as error:
            log.version(unreadable, NIGHTS)
        assert not {"\n", "\x1b"} & set(str(error.value))


def test_the_first_home_claims_the_tables_and_another_is_told_whose_they_are(s3: str, tmp_path: Path) -> None:
    first, second = (Settings(home=tmp_path / name, lakehouse=f"{s3}/claimed") for name in ("first", "second"))
    storage.claim(first)
    storage.claim(first)
    with pytest.raises(ConfigurationError, match=rf"served by the home {first.home} on .*delete s3a://lake/claimed/_nightshift\.json"):
        storage.claim(second)
    storage.release(second)
    with pytest.raises(ConfigurationError, match="served by"):
        storage.claim(second)
    storage.release(first)
    storage.release(first)
    storage.claim(second)
    with pytest.raises(ConfigurationError, match=rf"served by the home {second.home}"):
        storage.claim(first)
    # Another prefix of the bucket is another lakehouse.
    storage.claim(replace(first, lakehouse=f"{s3}/claimed-too"))


def test_an_s3_server_that_overwrites_on_request_not_to_is_refused(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "create", lambda address, content: True)
    with pytest.raises(ConfigurationError, match="does not refuse a second object of one name"):
        storage.claim(Settings(home=tmp_path, lakehouse=f"{s3}/lax"))


def test_a_folder_needs_nothing_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    monkeypatch.delenv("AWS_REGION", raising=False)
    lake = Settings(home=tmp_path)
    assert (storage.options(lake), storage.spark_properties(lake)) == (None, {})
    storage.claim(lake)
    storage.release(lake)
    assert storage.location(lake, NIGHTS) == str(tmp_path / "lakehouse/ops/nights")


@pytest.mark.parametrize(("url", "secure"), [("http://127.0.0.1:9000", "false"), ("https://minio.example", "true")])
def test_an_endpoint_is_told_to_both_clients_with_its_scheme(
    url: str, secure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    lake = Settings(home=tmp_path, lakehouse="s3a://lake/nights")
    options, properties = storage.options(lake), storage.spark_properties(lake)
    assert options is not None
    assert (options["aws_endpoint"], options["aws_allow_http"]) == (url, {"true": "false", "false": "true"}[secure])
    assert (properties["spark.hadoop.fs.s3a.endpoint"], properties["spark.hadoop.fs.s3a.connection.ssl.enabled"]) == (url, secure)
    assert properties["spark.hadoop.fs.s3a.path.style.access"] == "true"


def test_aws_itself_is_found_by_its_region_and_never_without_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    lake = Settings(home=tmp_path, lakehouse="s3a://lake/nights")
    told = {**(storage.options(lake) or {}), **storage.spark_properties(lake)}
    assert not [name for name in told if ("endpoint" in name and "region" not in name) or "http" in name or "path.style" in name]
    assert {value for name, value in told.items() if "region" in name} == {"eu-central-1"}


def test_no_credential_is_told_to_any_client(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "a-secret-that-stays-one")
    lake = Settings(home=tmp_path, lakehouse=f"{s3}/nights")
    assert "a-secret" not in repr([storage.options(lake), storage.spark_properties(lake), lake])


def test_up_says_whose_the_tables_are_before_anything_starts(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (Settings(home=tmp_path / name, ports=Ports.free(), lakehouse=f"{s3}/taken") for name in ("first", "second"))
    storage.claim(first)
    for name, value in nightshift_variables(second).items():
        monkeypatch.setenv(name, value)
    assert processes.main(["up"]) == 1
    assert f"served by the home {first.home}" in capsys.readouterr().err
    assert not (second.home / "supervisord.conf").exists()
    monkeypatch.setenv("NIGHTSHIFT_LAKEHOUSE", "s3a://nowhere/taken")
    assert processes.main(["up"]) == 1
    assert "NoSuchBucket" in capsys.readouterr().err
