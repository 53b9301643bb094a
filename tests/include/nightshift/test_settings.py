from datetime import date
from pathlib import Path

import pytest

from include.nightshift import settings
from include.nightshift.errors import ConfigurationError
from include.nightshift.operate.environment import nightshift_variables
from include.nightshift.settings import EVERYWHERE, Binds, Ports, Settings


def test_settings_survive_the_way_through_the_environment(tmp_path: Path) -> None:
    before = Settings(
        home=tmp_path,
        landing=f"{tmp_path}/drops",
        lakehouse=str(tmp_path / "lake"),
        feed_spans={"transactions": (date(2018, 4, 1), None), "fraud_labels": (date(2018, 4, 8), date(2018, 9, 30))},
        clock=False,
        ports=Ports(spark=4001, jdbc=4002),
        binds=Binds(spark=EVERYWHERE),
        tls_in_front=True,
        spark_remote="sc://elsewhere:15002",
        spark_token_file=tmp_path / "spark",
        mlflow_uri="https://elsewhere:5000",
        mlflow_token_file=tmp_path / "mlflow",
        lakehouse_memory="700m",
        approver="admin",
        approvers=("ann", "bob"),
    )
    assert settings.load(nightshift_variables(before)) == before


def test_all_state_lies_under_the_home(tmp_path: Path) -> None:
    installed = settings.load({"NIGHTSHIFT_HOME": str(tmp_path)})
    assert installed.landing_folder == tmp_path / "landing"
    assert Path(installed.lakehouse_location) == tmp_path / "lakehouse"
    assert installed.passwords_file.is_relative_to(tmp_path)


def test_feeds_are_dropped_in_a_folder_or_on_s3_and_what_is_pulled_lies_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def landing(text: str) -> Settings:
        return settings.load({"NIGHTSHIFT_HOME": f"{tmp_path}/home", "NIGHTSHIFT_LANDING": text})

    monkeypatch.chdir(tmp_path)
    assert landing("drops").landing_folder == tmp_path / "drops"
    assert not landing("drops").lands_on_s3
    for text in ("s3://my-bucket.example/drops", "s3://my-bucket.example/drops/"):
        assert landing(text).landing_location == "s3://my-bucket.example/drops"
        assert landing(text).lands_on_s3
        assert landing(text).landing_folder == tmp_path / "home" / "landing"


def test_tables_lie_in_a_folder_or_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lakehouse(text: str) -> Settings:
        return settings.load({"NIGHTSHIFT_HOME": str(tmp_path), "NIGHTSHIFT_LAKEHOUSE": text})

    monkeypatch.chdir(tmp_path)
    assert lakehouse("lake").lakehouse == lakehouse(f"{tmp_path}/lake/").lakehouse == f"{tmp_path}/lake"
    assert not lakehouse("").on_s3
    for text in ("s3a://my-bucket.example/nightshift", "s3a://my-bucket.example/nightshift/", "s3a://my-bucket.example/nightshift//"):
        assert lakehouse(text).lakehouse_location == "s3a://my-bucket.example/nightshift"
        assert lakehouse(text).on_s3


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("NIGHTSHIFT_LANDING", "s3a://bucket/drops", "write s3://bucket/drops"),
        ("NIGHTSHIFT_LANDING", "s3://bucket", "write s3://bucket/prefix"),
        ("NIGHTSHIFT_LANDING", "sftp://bucket/drops", "a path, or s3://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3://bucket/prefix", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3n://bucket/prefix", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "gs://bucket/prefix", "a path, or s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a://bucket", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a://bucket/", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a:///prefix", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a://Bucket/prefix", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a://key:secret@bucket/prefix", r"='s3a://…@bucket/prefix': write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a://bucket/../other", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a://bucket/a//b", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a://bucket/a b", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_LAKEHOUSE", "s3a://bucket/a'b", "write s3a://bucket/prefix"),
        ("NIGHTSHIFT_CLOCK", "maybe", "write on or off"),
        ("NIGHTSHIFT_PORT_SPARK", "many", "NIGHTSHIFT_PORT_SPARK='many'"),
        ("NIGHTSHIFT_PORT_SPARK", "70000", "NIGHTSHIFT_PORT_SPARK to 1..65535"),
        ("NIGHTSHIFT_PORT_SPARK", "10000", "both ask for port 10000"),
        ("NIGHTSHIFT_FEED_SPANS", "transactions=2018-04-01", "write feed=FIRST..LAST"),
        ("NIGHTSHIFT_FEED_SPANS", "transactions=soon..", "write feed=FIRST..LAST"),
        ("NIGHTSHIFT_LAKEHOUSE_MEMORY", "plenty", "write a heap size such as 3g"),
        ("NIGHTSHIFT_USECASES", "card_fraud,../secrets", "lower-case words"),
        ("NIGHTSHIFT_APPROVERS", "ann,,bob", "user names, separated by commas"),
    ],
)
def test_a_variable_that_holds_nonsense_is_named_with_what_to_write(variable: str, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        settings.load({variable: text})


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"BIND_SPARK": EVERYWHERE}, r"NIGHTSHIFT_BIND_SPARK=0\.0\.0\.0: .* does not encrypt.*docs/deploy\.md.*NIGHTSHIFT_TLS_IN_FRONT=on"),
        ({"BIND_MLFLOW": EVERYWHERE, "TLS_IN_FRONT": "off"}, r"NIGHTSHIFT_BIND_MLFLOW=0\.0\.0\.0: .* does not encrypt"),
        ({"BIND_JDBC": EVERYWHERE}, r"NIGHTSHIFT_BIND_JDBC=.* asks nobody who they are, so it stays on 127\.0\.0\.1"),
        ({"BIND_JDBC": EVERYWHERE, "TLS_IN_FRONT": "on"}, r"NIGHTSHIFT_BIND_JDBC=.* asks nobody who they are"),
        ({"BIND_SPARK": "10.0.0.5", "TLS_IN_FRONT": "on"}, r"NIGHTSHIFT_BIND_SPARK='10\.0\.0\.5': write 127\.0\.0\.1 or 0\.0\.0\.0"),
        ({"BIND_MLFLOW": "::"}, r"NIGHTSHIFT_BIND_MLFLOW='::': write"),
        ({"TLS_IN_FRONT": "nginx"}, r"NIGHTSHIFT_TLS_IN_FRONT='nginx': write on or off"),
        ({"SPARK_REMOTE": "sc://lake.example/;token=secret"}, r"NIGHTSHIFT_SPARK_REMOTE holds a token.*NIGHTSHIFT_SPARK_TOKEN_FILE"),
        ({"MLFLOW_URI": "http://mlflow.example", "MLFLOW_TOKEN_FILE": "/t"}, r"NIGHTSHIFT_MLFLOW_URI would get .* plain text: write https"),
    ],
)
def test_a_door_that_would_stand_open_is_refused_with_what_to_do(told: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        settings.load({f"NIGHTSHIFT_{name}": value for name, value in told.items()})
    assert "secret" not in str(raised.value)


def test_doors_are_on_loopback_unless_told_otherwise_and_open_only_where_something_encrypts() -> None:
    assert settings.load({}).binds == Binds(mlflow="127.0.0.1", spark="127.0.0.1", jdbc="127.0.0.1")
    told = {"NIGHTSHIFT_BIND_SPARK": EVERYWHERE, "NIGHTSHIFT_BIND_MLFLOW": EVERYWHERE, "NIGHTSHIFT_TLS_IN_FRONT": "on"}
    assert settings.load(told).binds.open == ["mlflow", "spark"]


def test_the_own_servers_are_known_by_their_addresses() -> None:
    for remote in (None, "sc://localhost:4001", "sc://127.0.0.1:4001"):
        assert Settings(ports=Ports(spark=4001), spark_remote=remote).serves_lakehouse
    assert not Settings(ports=Ports(spark=4001), spark_remote="sc://localhost:4002").serves_lakehouse
    assert Settings(mlflow_uri=Settings().mlflow_url).serves_mlflow
    assert not Settings(mlflow_uri="https://mlflow.example").serves_mlflow
