"""The dbt project: run a command on it in this process, on this process's Spark session, and hear what each node did.

`compiled` gives the same models as plain SQL over any tables of the same columns: what parity recomputes a night by, and what the
leak scan perturbs.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import durable
from include.nightshift.errors import ContractError
from include.nightshift.features import groups
from include.nightshift.settings import ROOT

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

PROJECT = ROOT / "dbt_project"

_FAILED = ("error", "fail", "runtime error")
_ENDS = ("first_night", "last_night")


@dataclass(frozen=True)
class Node:
    """What became of one node of a dbt run."""

    name: str
    kind: str
    """model, test or unit_test."""
    status: str
    """dbt's word: success, pass, warn, error, fail or skipped."""
    seconds: float
    rows: int | None
    """Rows that a model brought, or that a test found at fault; None where dbt says nothing."""
    message: str


class BuildError(ContractError):
    """A dbt command failed: a model, or a test of what it built. Or a build lost rows."""

    def __init__(self, message: str, nodes: Sequence[Node]) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)
        """What ran until then, and what was skipped because of it."""


def dbt(session: SparkSession, settings: Settings, use_cases: Sequence[UseCase], arguments: Sequence[str], **variables: str) -> list[Node]:
    """Run a dbt command on the project; returns what each node did, in the order of their ends.

    Target, log and steps are in a folder of the call's own: two nights may build at once, and dbt locks nothing.

    Raises:
        BuildError: it failed; the message holds dbt's own words for each failed node, and it carries all nodes.
    """
    with _invoked(session, settings, use_cases, arguments, variables) as result:
        return _nodes(result)


@dataclass(frozen=True)
class Compiled:
    """The models of one use case as plain SQL, in the order in which they build on each other."""

    models: tuple[tuple[str, str], ...]
    """Name and query of each, the features last. `{first_night}` and `{last_night}` stand for the nights."""

    @contextmanager
    def over(self, session: SparkSession, settings: Settings, nights: Sequence[date], sources: Mapping[str, str]) -> Iterator[DataFrame]:
        """The features of the nights over other relations: `sources` names one for each `silver.<feed>`.

        As in a build, each model is laid in a folder before the next one reads it; the frame can be read until the block ends.
        """
        (settings.home / "dbt").mkdir(parents=True, exist_ok=True)
        ends = dict(zip(_ENDS, (min(nights).isoformat(), max(nights).isoformat()), strict=True))
        with tempfile.TemporaryDirectory(dir=settings.home / "dbt", prefix="over-") as folder:
            renamed = {name: f"{Path(folder).name.replace('-', '_')}_{name}" for name, _ in self.models} | dict(sources)
            names = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, renamed))})(?![\w.])")
            try:
                for name, query in self.models:
                    for end, night in ends.items():
                        query = query.replace(f"{{{end}}}", night)
                    session.sql(names.sub(lambda match: renamed[match[1]], query)).write.orc(f"{folder}/{name}")
                    session.read.orc(f"{folder}/{name}").createOrReplaceTempView(renamed[name])
                yield session.table(renamed[self.models[-1][0]])
            finally:
                for name, _ in self.models:
                    session.catalog.dropTempView(renamed[name])


def compiled(session: SparkSession, settings: Settings, use_case: UseCase) -> Compiled:
    """The models of the use case as they stand in the project, compiled once per version of it; the session can run them.

    Raises:
        BuildError: dbt cannot compile them.
    """
    prepare(session, [use_case])

    def compile_() -> bytes:
        placeholders = {end: f"{{{end}}}" for end in _ENDS}
        arguments = ["compile", "--select", f"path:models/{use_case.name}", "--exclude", "test_type:data", "test_type:unit"]
        with _invoked(session, settings, [use_case], arguments, placeholders) as result:
            done = [run.node for run in result.result.results if run.node.resource_type == "model"]
        ready = [node for node in done if node.config.materialized != "ephemeral"]
        return json.dumps([(node.name, node.compiled_code) for node in _ordered(ready)]).encode()

    models = json.loads(_once(settings, f"{use_case.name}.json", compile_))
    return Compiled(tuple((name, query) for name, query in models))


def version() -> str:
    """Changes with every file of the project that says what a model is, and with dbt itself."""
    digest = hashlib.sha256(json.dumps([metadata.version(name) for name in ("dbt-core", "dbt-spark")]).encode())
    for path in sorted(path for pattern in ("*.sql", "*.yml") for path in PROJECT.rglob(pattern)):
        digest.update(json.dumps([str(path.relative_to(PROJECT)), path.read_text()]).encode())
    return digest.hexdigest()


def prepare(session: SparkSession, use_cases: Sequence[UseCase]) -> None:
    """Make `packed` and the functions that a use case's models call (`include/usecases/<name>/functions.py`) known to the session."""
    groups.register(session)
    for use_case in use_cases:
        module = f"include.usecases.{use_case.name}.functions"
        if importlib.util.find_spec(module):
            importlib.import_module(module).register(session)


def options(folder: str) -> list[str]:
    """dbt's options that say where the project is, and that all it writes belongs into this folder."""
    read, written = (
        ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)],
        ["--target-path", folder, "--log-path", f"{folder}/logs"],
    )
    return [*read, *written, "--no-partial-parse", "--no-use-colors"]


@contextmanager
def _invoked(
    session: SparkSession, settings: Settings, use_cases: Sequence[UseCase], arguments: Sequence[str], variables: Mapping[str, str]
) -> Iterator[Any]:
    from dbt.cli.main import dbtRunner
    from dbt.contracts.graph.manifest import Manifest

    os.environ["SPARK_REMOTE"] = settings.spark_url
    prepare(session, use_cases)
    (settings.home / "dbt").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home / "dbt", prefix="run-") as folder, _default(session):
        where = [*options(folder), "--no-write-json"]
        told = ["--vars", json.dumps(dict(variables) | {"steps": f"{folder}/steps"})]
        try:
            # Read anew for each call: dbt keeps in it what it compiled, with that call's variables.
            manifest = Manifest.from_msgpack(_once(settings, "manifest.msgpack", lambda: _parsed(where)))
            result = dbtRunner(manifest=manifest).invoke([*arguments, *told, *where, "--no-populate-cache"])
        finally:
            # dbt's Spark adapter turns ANSI mode off on the session it uses, and this process goes on with that session.
            session.conf.set("spark.sql.ansi.enabled", "true")
        if not result.success:
            nodes = _nodes(result)
            words = [f"{node.name}: {node.message}" for node in nodes if node.status in _FAILED]
            raise BuildError(f"dbt {arguments[0]} failed: " + ("; ".join(words) or str(result.exception)), nodes)
        yield result


@contextmanager
def _default(session: SparkSession) -> Iterator[None]:
    """Make it the session that dbt's Spark adapter takes: it is told none, and asks for its process's default one from other threads.

    That would be whichever was opened first, on another installation's server perhaps; and with none left it would open one of its own,
    without our functions and our token. pyspark has no public way to say it.
    """
    from pyspark.sql.connect.session import SparkSession as Connected

    before, Connected._default_session = Connected._default_session, session
    try:
        yield
    finally:
        Connected._default_session = before


def _parsed(arguments: Sequence[str]) -> bytes:
    """The project as dbt understands it: parsing takes seconds, and dbt by itself would do it again for every other night."""
    from dbt.cli.main import dbtRunner

    result = dbtRunner().invoke(["parse", *arguments])
    if not result.success:
        raise BuildError(f"dbt cannot read the project: {result.exception}", [])
    content: bytes = result.result.to_msgpack()
    return content


def _once(settings: Settings, name: str, make: Callable[[], bytes]) -> bytes:
    """What was made of this version of the project, made now if it was not yet."""
    kept = settings.home / "dbt" / version()[:16] / name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Of this process alone, because two may make it at once; whoever comes last replaces it by the same.
        own = kept.with_name(f"{name}.{os.getpid()}")
        with durable.placed(own) as temporary:
            temporary.write_bytes(make())
        own.replace(kept)
    return kept.read_bytes()


def _nodes(result: Any) -> list[Node]:
    runs = getattr(result.result, "results", None) or []
    return [
        Node(
            name=run.node.name,
            kind=str(run.node.resource_type),
            status=str(run.status),
            seconds=float(run.execution_time),
            rows=_rows(run),
            message=run.message or "",
        )
        for run in runs
        if hasattr(run, "node")
    ]


def _rows(run: Any) -> int | None:
    if run.failures is not None:
        return int(run.failures)
    told = (run.adapter_response or {}).get("rows_affected")
    return None if told is None else int(told)


def _ordered(nodes: Sequence[Any]) -> Iterator[Any]:
    """Each model after those it builds on."""
    waiting = {node.unique_id: node for node in nodes}
    while waiting:
        ready = [name for name, node in waiting.items() if not set(node.depends_on.nodes) & (waiting.keys() - {name})]
        for name in ready:
            yield waiting.pop(name)
