"""Every stage on tables under s3a://, against a real S3-compatible server, held against the same nights on disk.

Run where NIGHTSHIFT_TEST_S3=on says so, as the build does: S3A's libraries are 700 MB.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
from pyspark.sql import SparkSession

from bench.courts import Court
from include.nightshift import objects
from include.nightshift.lakehouse import catalog, ledger, log, maintenance, pins, purge, records, storage, tables, writes
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.lakehouse.files import Folder, commit_path
from include.nightshift.operate import sql
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Ports, Settings
from include.nightshift.usecase import UseCase

pytestmark = [
    pytest.mark.lakehouse,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("NIGHTSHIFT_TEST_S3") != "on",
        reason="needs 700 MB of jars: NIGHTSHIFT_TEST_S3=on fetches them and tests tables on S3",
    ),
]

AS_OF = date(2024, 1, 16)
"""The last night known when the model is trained."""
NIGHTS = [AS_OF + timedelta(days=n) for n in (-15, -8, -7, 0, 1, 2, 8, 9)]
"""A night to learn from and its verdicts, a night to be judged on and its verdicts, two nights to score, and their verdicts. What lies
between them brings nothing new and costs minutes."""
FIRST, LAST = NIGHTS[0], NIGHTS[-1]
Served = Callable[[Settings], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def homes() -> Iterator[Path]:
    """A folder for homes with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="ns-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def landed(homes: Path) -> Path:
    """Drops of a small world."""
    from include.usecases.card_fraud.simulator import simulate
    from include.usecases.card_fraud.world import World

    # A month before the first night, so that it has its frauds.
    begin = FIRST - timedelta(days=30)
    simulate(homes / "landing", first=begin, nights=(LAST - begin).days + 1, world=World.of_size(600, seed=6))
    return homes / "landing"


@pytest.fixture(scope="module")
def on_disk(homes: Path, landed: Path, served: Served) -> dict[str, Any]:
    """What every stage leaves behind on disk."""
    settings = installed(homes / "disk", landed)
    with served(settings):
        return apart(walk, settings, homes / "disk.json")


@pytest.fixture(scope="module")
def lake_on_s3(homes: Path, landed: Path, served: Served, s3: str) -> Iterator[Settings]:
    """The settings of a running lakehouse whose tables lie on S3."""
    settings = replace(installed(homes / "s3", landed), lakehouse=f"{s3}/nightshift/lake")
    with served(settings):
        yield settings
        # While the server still answers: a client left open asks a dead one for minutes when Python ends.
        lakehouse.connect(settings).stop()


def installed(home: Path, landing: Path) -> Settings:
    home.mkdir()
    spans = {"transactions": (FIRST, None), "fraud_labels": (FIRST + timedelta(days=7), None)}
    return Settings(home=home, ports=Ports.free(), landing=str(landing), feed_spans=spans, lakehouse_memory="1g", clock=False)


def apart(act: Callable[..., None], settings: Settings, answer: Path, *arguments: Any) -> dict[str, Any]:
    """Run it in a process of its own, like a task: dbt takes whatever session its process opened first."""
    together([(act, settings, answer, *arguments)])
    told: dict[str, Any] = json.loads(answer.read_text())
    return told


def together(acts: Sequence[tuple[Any, ...]]) -> None:
    """Run each in a process of its own, side by side, until all have ended well."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=act, args=arguments, daemon=True) for act, *arguments in acts]
    for process in processes:
        process.start()
    for process in processes:
        process.join(400)
        assert process.exitcode == 0


def walk(settings: Settings, answer: Path) -> None:
    """All stages of all nights, as the tasks call them; MLflow, which knows nothing of tables, is left out."""
    from include.nightshift.features import build
    from include.nightshift.features.leaks import record as leaks
    from include.nightshift.ingest import ingest
    from include.nightshift.monitor import performance, requests, watch
    from include.nightshift.promote import history, judge, registry
    from include.nightshift.promote.question import IMPROVE
    from include.nightshift.score import publications, scores
    from include.nightshift.train import __main__ as trainer
    from include.nightshift.train import pin
    from include.nightshift.train.run import TrainingRun
    from include.nightshift.usecase import load

    class Models:
        """Stands for the model server."""

        def __getattr__(self, name: str) -> Callable[..., SimpleNamespace]:
            return lambda *told: SimpleNamespace(run_id="1", aliases={})

    registry.client = lambda settings: Models()  # type: ignore[assignment, return-value]

    use_case = load("card_fraud", settings)
    use_case = replace(use_case, gate=replace(use_case.gate, short_holdout_nights=1, min_frauds=1))
    session = lakehouse.connect(settings)
    told: dict[str, Any] = {"created": catalog.create(session, settings)}
    for feed in use_case.feeds:
        brought = ingest(session, settings, feed, NIGHTS)
        ledger.record(settings, use_case, [ledger.Entry(night, feed.name, rows, rows, 0, 1.0) for night, rows in brought.landed.items()])
    build.build(session, settings, use_case, NIGHTS)

    scan = {"use_case": use_case.name, "code": leaks.code(use_case), "passed": True, "seen": "not scanned: another test does"}
    records.replace(settings, tables.LEAK_SCANS, [scan], {"use_case": [use_case.name]})
    recipe = replace(use_case.recipes[0], rounds=20, rounds_per_chunk=10)
    folder = pin.pin(session, settings, use_case, recipe, AS_OF)
    trainer.train(folder)
    run = TrainingRun.load(folder)
    model_sha256 = json.loads((folder / "result.json").read_text())["model_sha256"]
    judged = judge.judge(settings, use_case, folder, run, model_version="1", model_sha256=model_sha256)
    shutil.copytree(folder / "model", settings.home / "models" / use_case.name / "1")
    # Whatever the gates said of so small a model: here it is to score.
    Court(settings.home, lakehouse=settings.lakehouse).enthroned("1", history.first_free_night(settings, use_case, AS_OF))

    scored = scores.score(session, settings, use_case, NIGHTS)
    decisions = [publications.Decision(night=night, state="published", model_version=whose) for night, whose in scored.models.items()]
    listed = publications.publish(session, settings, use_case, decisions)
    matured = performance.measure(session, settings, use_case, NIGHTS)
    drifted = watch.measure_drift(session, settings, use_case, NIGHTS)
    verdict = watch.decide(settings, use_case, LAST)
    requests.file(settings, use_case, LAST, "test", IMPROVE, verdict.evidence)
    requests.close(settings, [request["request_id"] for request in requests.claim(settings, use_case, LAST)], done=True, outcome="test")

    versions = {str(table): log.version(settings, table) for table in (*tables.of(use_case), *tables.SHARED)}
    told |= {
        "versions": versions,
        "content": {name: content(session, table_of(use_case, name)) for name in versions},
        "verdicts": [[v.gate, v.passed, list(v.reasons)] for v in judged.report.verdicts],
        "rows": {night.isoformat(): rows for night, rows in scored.rows.items()},
        "listed": sum(out.rows for out in listed.values()),
        "matured": sorted({m.night.isoformat() for m in matured}),
        "columns": len(drifted),
    }
    if settings.on_s3:
        scores.score(session, settings, use_case, NIGHTS)
        build.build(session, settings, use_case, NIGHTS)
        told["versions after a rerun"] = {name: log.version(settings, table_of(use_case, name)) for name in versions}
    answer.write_text(json.dumps(told, default=str))
    session.stop()


def content(session: SparkSession, table: tables.Table) -> tuple[int, ...]:
    """What both lakes must agree about: all but clocks, seals over them, and pseudonyms, whose key is each home's own."""
    moments = ("at", "expires_at", "before", "seal")
    seen = writes.fingerprint(session.table(str(table)), [name for name in table.content if name not in moments])
    return seen[:1] if table is tables.PSEUDONYMS else seen


def table_of(use_case: UseCase, name: str) -> tables.Table:
    return next(table for table in (*tables.of(use_case), *tables.SHARED) if str(table) == name)


def test_every_stage_leaves_on_s3_what_it_leaves_on_disk(
    lake_on_s3: Settings, on_disk: dict[str, Any], homes: Path, use_case: UseCase
) -> None:
    on_s3 = apart(walk, lake_on_s3, homes / "s3.json")
    assert on_s3.pop("versions after a rerun") == on_s3["versions"]
    contents = [name for name, seen in on_s3["content"].items() if seen != on_disk["content"][name]]
    assert contents == []
    assert on_s3 == on_disk
    # And it is a walk worth comparing.
    assert len(on_s3["created"]) == len(on_s3["versions"]) == len(tables.of(use_case)) + len(tables.SHARED)
    assert len(on_s3["rows"]) == 4
    assert on_s3["listed"] == 4 * use_case.list_size
    assert len(on_s3["matured"]) == 2
    assert on_s3["columns"] > 10
    filled = {name for name, (rows, *_) in on_s3["content"].items() if rows}
    assert filled >= {str(table) for table in (*tables.of(use_case), tables.NIGHTS, tables.BATCHES, tables.PERFORMANCE)}
    assert filled >= {str(table) for table in (tables.DRIFT_METRICS, tables.GATE_REPORTS, tables.CHAMPION_HISTORY)}
    # Nothing of the tables lies in the home.
    assert not (lake_on_s3.home / "lakehouse").exists()
    for table in (*tables.of(use_case), *tables.SHARED):
        assert [file for file in Folder(lake_on_s3, table).files() if file.path.endswith(".json")], table


VISITS = tables.Table(
    schema="gold",
    name="visits",
    comment="One row per visit.",
    columns=(
        tables.TableColumn("day", "date", "The night."),
        tables.TableColumn("n", "int", "A number."),
        tables.TableColumn("who", "string", "Who wrote it."),
    ),
)
WRITERS = "abc"


def visit(settings: Settings, answer: Path, who: str) -> None:
    """A night of this writer's own, and one that all of them write, with the same rows; several times over."""
    session = lakehouse.connect(settings)
    own = FIRST + timedelta(days=1 + WRITERS.index(who))
    versions = []
    for number in range(1, 4):
        for night, name in ((own, who), (FIRST, "all")):
            frame = session.createDataFrame([(night, n, name) for n in range(10 * number)], "day date, n int, who string")
            versions.append(writes.replace(session, settings, VISITS, frame, {"day": [night]}, rows_expected=10 * number).version)
    session.stop()
    answer.write_text(json.dumps({"versions": versions}))


def test_processes_that_write_the_same_and_other_nights_through_the_one_driver_lose_nothing(lake_on_s3: Settings, homes: Path) -> None:
    session = lakehouse.connect(lake_on_s3)
    catalog.create(session, lake_on_s3)
    session.sql(VISITS.ddl())
    answers = {who: homes / f"visits-{who}.json" for who in WRITERS}
    together([(visit, lake_on_s3, answer, who) for who, answer in answers.items()])
    held = lakehouse.rows(session, f"select day, who, count(*) as n, count(distinct n) as different from {VISITS} group by day, who")
    wanted = {(FIRST, "all"), *((FIRST + timedelta(days=number), who) for number, who in enumerate(WRITERS, 1))}
    # Whoever wrote the common night last was at the last round.
    assert {(row["day"], row["who"]): (row["n"], row["different"]) for row in held} == dict.fromkeys(wanted, (30, 30))
    # One file in the log for each version, and each of the writers' own versions among them.
    logged = sorted(file.path for file in Folder(lake_on_s3, VISITS).files() if file.path.endswith(".json"))
    newest = log.version(lake_on_s3, VISITS)
    assert logged == [commit_path(number) for number in range(newest + 1)]
    seen = [version for answer in answers.values() for version in json.loads(answer.read_text())["versions"][::2]]
    assert len(set(seen)) == len(seen) == 9


@pytest.mark.parametrize("schema", ["gold", "ops"])
def test_maintain_and_purge_take_on_s3_what_no_version_needs(lake_on_s3: Settings, schema: str) -> None:
    session = lakehouse.connect(lake_on_s3)
    catalog.create(session, lake_on_s3)
    table = replace(VISITS, schema=schema, name="kept")
    session.sql(table.ddl())

    def put(word: str) -> int:
        rows = table.arrow([{"day": FIRST, "n": n, "who": word} for n in range(3)])
        if table.is_record:
            return records.replace(lake_on_s3, table, rows.to_pylist(), {"day": [FIRST]}).version
        frame = writes.in_memory(session, rows)
        return writes.replace(session, lake_on_s3, table, frame, {"day": [FIRST]}, rows_expected=3).version

    def by_both(version: int | None = None) -> list[set[str]]:
        then = "" if version is None else f" version as of {version}"
        delta_rs = log.opened(lake_on_s3, table, version).to_pyarrow_table().column("who").to_pylist()
        return [{row["who"] for row in lakehouse.rows(session, f"select who from {table}{then}")}, set(delta_rs)]

    pinned, unpinned, _ = put("pinned"), put("unpinned"), put("live")
    pins.pin(lake_on_s3, table, pinned, "test")
    done = maintenance.maintain_table(session, lake_on_s3, table, keep_days=0, in_flight=timedelta(0))
    assert (done.files_before, done.files_after) == (3, 2)
    assert by_both(pinned) == [{"pinned"}] * 2
    assert by_both() == [{"live"}] * 2
    with pytest.raises(Exception, match=r"(?i)not.exist|no such file|not.found"):
        log.opened(lake_on_s3, table, unpinned).to_pyarrow_table()

    [pin] = pins.held(lake_on_s3, table, date.today())
    assert purge.purge(session, lake_on_s3, table, give_up=[pin], in_flight=timedelta(0)).data_files == 1
    assert len(Folder(lake_on_s3, table).data()) == 1
    assert by_both() == [{"live"}] * 2
    assert not purge.purge(session, lake_on_s3, table, in_flight=timedelta(0)).changed
    put("after")
    assert by_both() == [{"after"}] * 2


def test_no_credential_stands_in_the_servers_command_line_or_log(lake_on_s3: Settings) -> None:
    import psutil  # type: ignore[import-untyped]

    servers = [process for process in psutil.process_iter(["cmdline"]) if str(lake_on_s3.home) in " ".join(process.info["cmdline"] or [])]
    assert servers
    told = [" ".join(process.info["cmdline"]) for process in servers]
    assert any("spark.hadoop.fs.s3a.endpoint" in line for line in told)
    said = (lake_on_s3.home / "server.log").read_text()
    assert not [text for text in (*told, said) if os.environ["AWS_SECRET_ACCESS_KEY"] in text]


def test_a_second_server_is_refused_and_a_new_home_finds_the_tables_when_the_first_is_given_up(
    lake_on_s3: Settings, homes: Path, served: Served, use_case: UseCase
) -> None:
    catalog.create(lakehouse.connect(lake_on_s3), lake_on_s3)
    day = [FIRST - timedelta(days=1)]
    entry = {"day": day[0], "use_case": "card_fraud", "stage": "kept", "rows_in": 7}
    records.replace(lake_on_s3, tables.NIGHTS, [entry], {"day": day, "stage": ["kept"]})
    other = replace(lake_on_s3, home=homes / "new", ports=Ports.free())
    other.home.mkdir()
    shutil.copytree(lake_on_s3.home / "jars", other.home / "jars", symlinks=True)
    line = [sys.executable, "-m", "include.nightshift.lakehouse.server"]
    refused = subprocess.run(line, cwd=ROOT, env=environment(other), capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert f"is served by the home {lake_on_s3.home}" in refused.stderr

    objects.remove([f"{lake_on_s3.lakehouse_location}/{storage.CLAIM}"])
    shutil.rmtree(other.home / "jars")
    with served(other):
        found = apart(take_over, other, homes / "new.json")
    assert len(found["created"]) == len(tables.of(use_case)) + len(tables.SHARED)
    assert found["kept"] == [{"rows_in": 7}]
    assert "rows_in" in found["sql"]


def take_over(settings: Settings, answer: Path) -> None:
    session = lakehouse.connect(settings)
    told = {"created": catalog.create(session, settings)}
    query = "select rows_in from ops.nights where stage = 'kept'"
    told |= {"kept": lakehouse.rows(session, query), "sql": sql.answer(settings, query, 5)}
    answer.write_text(json.dumps(told))
    session.stop()


def test_nothing_was_asked_outside_the_prefix(lake_on_s3: Settings, asked_of_s3: Path) -> None:
    """What `docs/deploy.md` lets the machine do is enough, whoever else keeps things in the bucket."""
    bucket, prefix = objects.parted(lake_on_s3.lakehouse_location)
    strange, seen = set(), 0
    for method, path, query in (line.rstrip("\n").split(" ", 2) for line in asked_of_s3.read_text().splitlines(keepends=True)):
        named = parse_qs(query, keep_blank_values=True)
        made = (method, path) == ("PUT", f"/{bucket}")
        several = method == "POST" and path.rstrip("/") == f"/{bucket}" and "delete" in named
        about = named.get("prefix", [""])[0] if path.rstrip("/") == f"/{bucket}" else path.removeprefix(f"/{bucket}/")
        seen += 1
        if not (made or several or about == prefix or about.startswith(f"{prefix}/")):
            strange.add((method, path, query))
    assert seen > 1000
    assert strange == set()
