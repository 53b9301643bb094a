"""Settings: where things lie and listen. The only reader of our environment variables; AWS's own stay AWS's (`objects`).

Two homes are two installations; nothing outside the home is written.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from include.nightshift.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: the folder that holds `dags`, `plugins`, `include` and `dbt_project`."""


LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a word to compare with


@dataclass(frozen=True, kw_only=True)
class Binds:
    """The addresses on which the doors listen: loopback, or all of the machine's, which loopback is one of."""

    mlflow: str = LOOPBACK
    spark: str = LOOPBACK
    jdbc: str = LOOPBACK

    def __post_init__(self) -> None:
        for name, address in vars(self).items():
            if address not in (LOOPBACK, EVERYWHERE):
                raise ConfigurationError(
                    f"NIGHTSHIFT_BIND_{name.upper()}={address!r}: write {LOOPBACK} or {EVERYWHERE}. The platform's own processes come over "
                    "loopback whatever else is open; which of the machine's addresses answer others is for its firewall to say"
                )
        if self.jdbc != LOOPBACK:
            raise ConfigurationError(
                f"NIGHTSHIFT_BIND_JDBC={self.jdbc}: JDBC asks nobody who they are, so it stays on {LOOPBACK}. "
                "Let analysts come through SSH, or through a gateway that knows them (docs/deploy.md, Doors)"
            )

    @property
    def open(self) -> list[str]:
        """The doors that other machines reach."""
        return [name for name, address in vars(self).items() if address != LOOPBACK]


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the processes listen."""

    airflow: int = 8080
    mlflow: int = 5000
    spark: int = 15002
    jdbc: int = 10000

    def __post_init__(self) -> None:
        taken: dict[int, str] = {}
        for name, port in vars(self).items():
            if not 0 < port < 65536:
                raise ConfigurationError(f"port {port} of {name} is out of range: set NIGHTSHIFT_PORT_{name.upper()} to 1..65535")
            if port in taken:
                raise ConfigurationError(f"{name} and {taken[port]} both ask for port {port}: give one of them another")
            taken[port] = name

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody listens on now: for a second installation that lives beside the first for a while."""
        probes = {name: socket.socket() for name in cls.__dataclass_fields__}
        try:
            # All are held open together, so that no two are the same.
            for probe in probes.values():
                probe.bind((LOOPBACK, 0))
            return cls(**{name: probe.getsockname()[1] for name, probe in probes.items()})
        finally:
            for probe in probes.values():
                probe.close()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One installation. Every field has an environment variable `NIGHTSHIFT_<FIELD>`, each port `NIGHTSHIFT_PORT_<NAME>`; binds alike."""

    home: Path = ROOT / "var"
    """The one state folder; deleting it is a clean start."""
    landing: str | None = None
    """Where feeds are dropped, as `<feed>/<night>.csv.gz`: a folder, or s3://bucket/prefix. Default: `<home>/landing`."""
    lakehouse: str | None = None
    """Where Delta tables lie: a folder, or s3a://bucket/prefix. Default: `<home>/lakehouse`."""
    usecases: tuple[str, ...] = ("card_fraud",)
    """Folder names under include/usecases, comma separated."""
    feed_spans: Mapping[str, tuple[date | None, date | None]] = field(default_factory=dict)
    """First and last drop by feed, where they differ from the use case: `transactions=2018-04-01..,fraud_labels=2018-04-08..`."""
    clock: bool = True
    """Whether `ingest` runs by the clock (`on`) or only when asked over REST (`off`)."""
    ports: Ports = field(default_factory=Ports)
    binds: Binds = field(default_factory=Binds)
    tls_in_front: bool = False
    """Whether (`on`) something that encrypts stands in front of doors that are not on loopback: they themselves do not."""
    spark_remote: str | None = None
    """A Spark Connect endpoint elsewhere (also read from SPARK_REMOTE). Default: this installation's lakehouse server."""
    spark_token_file: Path | None = None
    """Where the token for that endpoint lies. The own server's lies in the home."""
    mlflow_uri: str | None = None
    """An MLflow server elsewhere (also read from MLFLOW_TRACKING_URI). Default: this installation's."""
    mlflow_token_file: Path | None = None
    """Where the token for that server lies."""
    lakehouse_memory: str = "3g"
    """Heap of the lakehouse server."""
    local_preemptions: int = 0
    """How many machines the local pool takes away in each training run, as a rehearsal of spot."""
    pool: str = "local"
    """Where trainings get their machines: `local`, processes of this computer, or `ec2`."""
    ec2: Path | None = None
    """The file that says what the EC2 pool uses: bucket, subnets, types and the rest (docs/deploy.md)."""
    approver: str = "operator"
    """The Airflow user name that demo and tests approve with."""
    approvers: tuple[str, ...] = ("operator", "admin")
    """Airflow user names whose word counts, where a person decides what goes out; comma separated."""
    notify: tuple[str, ...] = field(default=(), repr=False)
    """Where broken contract rules are told: Apprise addresses, separated by blanks. They hold secrets."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d*[mg]", self.lakehouse_memory):
            raise ConfigurationError(f"NIGHTSHIFT_LAKEHOUSE_MEMORY={self.lakehouse_memory!r}: write a heap size such as 3g")
        if not 0 <= self.local_preemptions <= 5:
            raise ConfigurationError(f"NIGHTSHIFT_LOCAL_PREEMPTIONS={self.local_preemptions}: take away 0 to 5 machines")
        if self.pool not in ("local", "ec2"):
            raise ConfigurationError(f"NIGHTSHIFT_POOL={self.pool!r}: write local or ec2")
        if self.pool == "ec2" and self.ec2 is None:
            raise ConfigurationError("NIGHTSHIFT_POOL=ec2 needs NIGHTSHIFT_EC2, a file as docs/deploy.md shows it")
        self._check_doors()
        for variable, scheme, place in (("NIGHTSHIFT_LANDING", "s3", self.landing), ("NIGHTSHIFT_LAKEHOUSE", "s3a", self.lakehouse)):
            if place is not None:
                _check_place(variable, scheme, place)
        if not all(re.fullmatch(r"[^\s,]+", name) for name in self.approvers):
            raise ConfigurationError(f"NIGHTSHIFT_APPROVERS={','.join(self.approvers)!r}: write Airflow user names, separated by commas")
        for name in self.usecases:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ConfigurationError(f"NIGHTSHIFT_USECASES names {name!r}: use case names are lower-case words, like card_fraud")

    def _check_doors(self) -> None:
        for name in self.binds.open:
            if not self.tls_in_front:
                raise ConfigurationError(
                    f"NIGHTSHIFT_BIND_{name.upper()}={EVERYWHERE}: this door does not encrypt, so whoever stands on the way would read its "
                    f"token. Leave it on {LOOPBACK} and put TLS in front of it on this machine (docs/deploy.md, Doors); where that stands "
                    "on another machine of a private network, say so with NIGHTSHIFT_TLS_IN_FRONT=on"
                )
        if self.spark_remote and "token=" in self.spark_remote:
            raise ConfigurationError(
                "NIGHTSHIFT_SPARK_REMOTE holds a token, and addresses are shown in logs and errors: put it into a file of mode 0600 that "
                "NIGHTSHIFT_SPARK_TOKEN_FILE names, and leave `token=` out"
            )
        if self.mlflow_token_file and not self.mlflow_url.startswith(("https://", "http://localhost:", f"http://{LOOPBACK}:")):
            raise ConfigurationError(
                "NIGHTSHIFT_MLFLOW_URI would get the token of NIGHTSHIFT_MLFLOW_TOKEN_FILE in plain text: write https://"
            )

    @property
    def landing_location(self) -> str:
        return self.landing or str(self.home / "landing")

    @property
    def lands_on_s3(self) -> bool:
        """Whether feeds are dropped on S3; those that are pulled are not dropped."""
        return self.landing_location.startswith("s3://")

    @property
    def landing_folder(self) -> Path:
        """Where drops lie that are files of this machine: all of them, or those of pulled feeds alone."""
        return self.home / "landing" if self.lands_on_s3 else Path(self.landing_location)

    @property
    def lakehouse_location(self) -> str:
        return self.lakehouse or str(self.home / "lakehouse")

    @property
    def on_s3(self) -> bool:
        """Whether the tables lie on S3."""
        return self.lakehouse_location.startswith("s3a://")

    @property
    def spark_url(self) -> str:
        # By name: Spark's client shows a token without TLS to `localhost` only, not to 127.0.0.1.
        return self.spark_remote or f"sc://localhost:{self.ports.spark}"

    @property
    def serves_lakehouse(self) -> bool:
        """Whether the lakehouse server is ours to run; not when NIGHTSHIFT_SPARK_REMOTE points elsewhere."""
        return self.spark_remote in (None, *(f"sc://{name}:{self.ports.spark}" for name in ("localhost", LOOPBACK)))

    @property
    def mlflow_url(self) -> str:
        return self.mlflow_uri or f"http://{LOOPBACK}:{self.ports.mlflow}"

    @property
    def serves_mlflow(self) -> bool:
        """Whether MLflow is ours to run; not when NIGHTSHIFT_MLFLOW_URI points elsewhere."""
        return self.mlflow_uri in (None, f"http://{LOOPBACK}:{self.ports.mlflow}")

    @property
    def airflow_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.airflow}"

    @property
    def passwords_file(self) -> Path:
        """The generated Airflow passwords: JSON `{user: password}`, mode 0600."""
        return self.home / "airflow" / "passwords.json"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from environment variables.

    Raises:
        ConfigurationError: a variable holds something its setting cannot be.
    """
    env = os.environ if environ is None else environ

    def path(name: str) -> Path | None:
        return Path(env[name]).expanduser().resolve() if env.get(name) else None

    ports = {
        name: _number(variable, env[variable])
        for name in Ports.__dataclass_fields__
        if env.get(variable := f"NIGHTSHIFT_PORT_{name.upper()}")
    }
    binds = {name: env[variable] for name in Binds.__dataclass_fields__ if env.get(variable := f"NIGHTSHIFT_BIND_{name.upper()}")}
    defaults = Settings()
    return Settings(
        home=path("NIGHTSHIFT_HOME") or defaults.home,
        landing=_place(env.get("NIGHTSHIFT_LANDING", "")),
        lakehouse=_place(env.get("NIGHTSHIFT_LAKEHOUSE", "")),
        usecases=tuple(name.strip() for name in env.get("NIGHTSHIFT_USECASES", ",".join(defaults.usecases)).split(",")),
        feed_spans=_spans(env.get("NIGHTSHIFT_FEED_SPANS", "")),
        clock=_switch("NIGHTSHIFT_CLOCK", env.get("NIGHTSHIFT_CLOCK", "on")),
        ports=Ports(**ports),
        binds=Binds(**binds),
        tls_in_front=_switch("NIGHTSHIFT_TLS_IN_FRONT", env.get("NIGHTSHIFT_TLS_IN_FRONT") or "off"),
        spark_remote=env.get("NIGHTSHIFT_SPARK_REMOTE") or env.get("SPARK_REMOTE") or None,
        spark_token_file=path("NIGHTSHIFT_SPARK_TOKEN_FILE"),
        mlflow_uri=env.get("NIGHTSHIFT_MLFLOW_URI") or env.get("MLFLOW_TRACKING_URI") or None,
        mlflow_token_file=path("NIGHTSHIFT_MLFLOW_TOKEN_FILE"),
        lakehouse_memory=env.get("NIGHTSHIFT_LAKEHOUSE_MEMORY", defaults.lakehouse_memory),
        local_preemptions=_number("NIGHTSHIFT_LOCAL_PREEMPTIONS", env.get("NIGHTSHIFT_LOCAL_PREEMPTIONS") or "0"),
        pool=env.get("NIGHTSHIFT_POOL") or defaults.pool,
        ec2=path("NIGHTSHIFT_EC2"),
        approver=env.get("NIGHTSHIFT_APPROVER", defaults.approver),
        approvers=tuple(name.strip() for name in env["NIGHTSHIFT_APPROVERS"].split(","))
        if env.get("NIGHTSHIFT_APPROVERS")
        else defaults.approvers,
        notify=tuple(env.get("NIGHTSHIFT_NOTIFY", "").split()),
    )


def _switch(variable: str, text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ConfigurationError(f"{variable}={text.lower()!r}: write on or off")
    return text.lower() == "on"


def _number(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigurationError(f"{variable}={text!r} is no whole number") from error


def _place(text: str) -> str | None:
    """A folder made absolute, because processes run in another one; an address without the slashes at its end."""
    if not text or "://" in text:
        return text.rstrip("/") or None
    return str(Path(text).expanduser().resolve())


def _check_place(variable: str, scheme: str, text: str) -> None:
    if "://" not in text:
        if not Path(text).is_absolute():
            raise ConfigurationError(f"{variable}={text!r}: give the whole path of the folder")
        return
    # A prefix is asked for, so that what a machine may touch can be told from the rest of the bucket. That of tables becomes part of
    # SQL, of Spark's paths and of delta-rs's, which agree about these characters.
    if not re.fullmatch(rf"{scheme}://[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9](/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)+", text):
        advice = f"write {scheme}://bucket/prefix, the prefix of letters, digits and . _ = -"
        spelt, _, address = text.partition("://")
        if spelt in {"s3", "s3a", "s3n"} - {scheme}:
            whose = "Spark's S3 client is called s3a" if scheme == "s3a" else "drops are read by AWS's own client"
            advice = f"{whose}: write {scheme}://{address}"
        elif spelt != scheme:
            advice = f"it is a folder or on S3: write a path, or {scheme}://bucket/prefix"
        # Somebody may have written a password into it.
        raise ConfigurationError(f"{variable}={re.sub('//.*@', '//…@', text)!r}: {advice}")


def _spans(text: str) -> dict[str, tuple[date | None, date | None]]:
    spans = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, span = part.partition("=")
        first, dots, last = span.partition("..")
        try:
            if not dots:
                raise ValueError("no '..'")
            spans[name] = (date.fromisoformat(first) if first else None, date.fromisoformat(last) if last else None)
        except ValueError as error:
            raise ConfigurationError(
                f"NIGHTSHIFT_FEED_SPANS holds {part!r} ({error}): write feed=FIRST..LAST, either end may be left out"
            ) from error
    return spans
