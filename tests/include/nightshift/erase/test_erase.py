"""Two persons whose ids, events and amounts nobody can mistake are planted wherever the platform keeps rows. One is erased."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.nightshift import erase, keys
from include.nightshift.erase import receipt, request
from include.nightshift.erase.search import Wanted, in_content, search
from include.nightshift.errors import ErasureError, LakehouseError
from include.nightshift.ingest import ingest
from include.nightshift.lakehouse import log, maintenance, pins, records, tables, writes
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Settings
from include.nightshift.train.run import RUN
from include.usecases.card_fraud.usecase import USE_CASE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.lakehouse.tables import Table

TRANSACTIONS, LABELS = USE_CASE.feeds
NIGHTS = [date(2004, 3, 1) + timedelta(days=number) for number in range(3)]
VERDICTS = NIGHTS[0] + timedelta(days=7)
FINISHED, UNFINISHED, PRUNED = "card_fraud-2004-03-08-trees-finished", "card_fraud-2004-03-08-trees-unfinished", "card_fraud-2004-pruned"


@dataclass(frozen=True)
class Subject:
    """A person nobody can mistake for a number."""

    card: int
    event: int
    """Their first event; others follow."""
    amount: Decimal

    @property
    def wanted(self) -> Wanted:
        events = frozenset(range(self.event, self.event + 9))
        return Wanted({"customer_id": frozenset({self.card}), "transaction_id": events}, frozenset(self.amounts))

    @property
    def amounts(self) -> list[Decimal]:
        return [self.amount + n * Decimal("0.01") for n in range(9)]


ORDINARY = 2_004_200
"""Forty others, numbered from here on."""
GONE = Subject(6_203_917_458_812_093_751, 5_918_273_645_546_372_810, Decimal("713642.17"))
STAYS = Subject(6_203_917_458_812_093_752, 5_918_273_645_546_372_910, Decimal("713643.17"))


def transactions(night: date, begin: int) -> list[str]:
    """A night of forty others, and of both persons: rows that pass, that break a rule, that are malformed, late or come twice."""
    lines = [f"{begin + n},{night} {n % 24:02}:30:00,{ORDINARY + n},9,{n}.5" for n in range(40)]
    for who in (GONE, STAYS):
        first, cents = who.event, who.amounts
        lines += {
            NIGHTS[0]: [
                f"{first},{night} 10:00:00,{who.card},9,{cents[0]}",
                f"{first + 1},{night} 11:00:00,{who.card},9,-{cents[1]}",
                f"{first + 2},{night} 12:00:00,{who.card}",
                f'{first + 3},"{night} 13:00:00", +00{who.card} ,9,{cents[3]}',
            ],
            NIGHTS[1]: [
                f"{first + 4},{NIGHTS[0]} 14:00:00,{who.card},9,{cents[4]}",
                f"{first},{NIGHTS[0]} 10:00:00,{who.card},9,{cents[0]}",
                f"{first + 5},{night} 15:00:00,card {who.card},9,{cents[5]}",
            ],
            NIGHTS[2]: [f"{first + 6},{night} 16:00:00,{who.card},9,{cents[6]}"],
        }[night]
    return lines


def verdicts(night: date) -> list[str]:
    lines = [f"{2004_0000 + n},0,{night} 09:00:00" for n in range(40)]
    for who in (GONE, STAYS):
        lines += [f"{who.event},1,{night} 09:00:00", f" {who.event + 3},0,{night} 09:00:00", f"{who.event + 4},7,{night} 09:00:00"]
        lines += [f"{who.event + 6};1;{night}"]
    return lines


def drop(settings: Settings, feed: Any, night: date, lines: list[str]) -> Path:
    path = settings.landing_folder / feed.name / f"{night}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ",".join(column.name for column in feed.columns)
    path.write_bytes(gzip.compress("\r\n".join([header, *lines, ""]).encode(), mtime=0))
    return path


def put(session: SparkSession, settings: Settings, table: Table, rows: list[dict[str, Any]], **slice_: Any) -> None:
    frame = writes.in_memory(session, table.arrow(rows))
    writes.replace(session, settings, table, frame, {"day": [NIGHTS[0]], **slice_}, rows_expected=len(rows))


def plant_gold(session: SparkSession, settings: Settings, score: float) -> None:
    """Features, scores and alerts of the first night, as the stages would write them."""
    features, scores, alerts = tables.features(USE_CASE), tables.scores(USE_CASE), tables.alerts(USE_CASE)
    known = {"day": NIGHTS[0], "tx_datetime": datetime(2004, 3, 1, 10, tzinfo=UTC), "known_at": datetime(2004, 3, 2, tzinfo=UTC)}
    whose = [(GONE.event, GONE.card, GONE.amount), (STAYS.event, STAYS.card, STAYS.amount), (2004_0001, ORDINARY + 1, Decimal("1.5"))]
    rows = [known | {"transaction_id": event, "customer_id": card, "tx_amount": float(amount)} for event, card, amount in whose]
    put(session, settings, features, rows)
    judged = [row | {"role": "champion", "score": score, "model_version": "7"} for row in rows]
    put(session, settings, scores, judged, role=["champion"])
    put(session, settings, alerts, [row | {"rank": place} for place, row in enumerate(judged, 1)])


def plant_run(settings: Settings, name: str, *, finished: bool) -> None:
    """A training run's folder, with both persons among its rows."""
    folder = settings.home / "runs" / name
    rows = {"transaction_id": [GONE.event, STAYS.event, 2004_0001], "customer_id": [GONE.card, STAYS.card, ORDINARY + 1]}
    for part in ("train", "holdout"):
        (folder / "data" / part).mkdir(parents=True)
        amounts = [float(GONE.amount), float(STAYS.amount), 1.5]
        pq.write_table(pa.table(rows | {"tx_amount": amounts}), folder / "data" / part / "part-00000.snappy.parquet")
        (folder / "data" / part / ".part-00000.snappy.parquet.crc").write_bytes(b"crc")
    (folder / "data" / "frauds").mkdir()
    pq.write_table(
        pa.table({"day": [NIGHTS[0]] * 2, "customer_id": [GONE.card, ORDINARY + 1]}), folder / "data" / "frauds" / "part.parquet"
    )
    (folder / RUN).write_text(json.dumps({"run_id": name, "use_case": "card_fraud"}))
    if finished:
        (folder / "model").mkdir()
        (folder / "model" / "model.ubj").write_bytes(b"trees")
        (folder / "result.json").write_text(json.dumps({"model_sha256": hashlib.sha256(b"trees").hexdigest()}))


def gate_report(run_id: str, version: str) -> dict[str, Any]:
    return {"report_digest": run_id, "use_case": "card_fraud", "run_id": run_id, "model_version": version, "as_of": VERDICTS,
            "holdout_first": NIGHTS[1], "holdout_last": NIGHTS[2], "passed": True}  # fmt: skip


REIGN = {"use_case": "card_fraud", "model_version": "7", "from_night": NIGHTS[0], "until_night": None, "report_digest": FINISHED}


@dataclass(frozen=True)
class Planted:
    """An installation in which both persons are everywhere, and what it held."""

    session: SparkSession
    settings: Settings
    old: Path
    """Copies of the landed files as they came, outside the home."""
    held: dict[str, dict[date, Any]]
    """Fingerprints by table and night of everybody's rows but those of who will be gone."""

    def everybody_else(self) -> dict[str, dict[date, Any]]:
        return everybody_else(self.session, self.settings)

    def tells(self, who: Subject) -> list[str]:
        return search(self.settings.home, who.wanted).hits


def others(table: Table) -> str:
    """All rows but those of who is to be gone, by whatever tells them."""
    mine = [f"{name} like '%{number}%'" for number in (GONE.card, *range(GONE.event, GONE.event + 9))
            for name in ("customer_id", "transaction_id", "raw", "_text") if name in table.names]  # fmt: skip
    return f"not coalesce({' or '.join(mine)}, false)"


def everybody_else(session: SparkSession, settings: Settings) -> dict[str, dict[date, Any]]:
    held = {}
    for table in (*tables.of(USE_CASE), tables.QUARANTINE):
        plain = [f"coalesce(cast({name} as string), '') as {name}" for name in table.names if name != "day"]
        frame = session.table(str(table)).where("year(day) = 2004").selectExpr("day", *plain).where(others(table))
        hashed = frame.selectExpr("day", f"cast(xxhash64({', '.join(table.content)}) as decimal(38, 0)) as h")
        held[str(table)] = {row["day"]: row for row in hashed.groupBy("day").agg({"h": "sum", "*": "count"}).toArrow().to_pylist()}
    return held


@pytest.fixture(scope="module")
def planted(installation: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    session, old = lakehouse.connect(installation), tmp_path_factory.mktemp("old")
    for number, night in enumerate(NIGHTS):
        drop(installation, TRANSACTIONS, night, transactions(night, 2004_0000 + 100 * number))
    drop(installation, LABELS, VERDICTS, verdicts(VERDICTS))
    for path in [*installation.landing_folder.glob("transactions/2004*"), *installation.landing_folder.glob("fraud_labels/2004*")]:
        shutil.copy(path, old / f"{path.parent.name}-{path.name}")
    ingest(session, installation, TRANSACTIONS, NIGHTS)
    ingest(session, installation, LABELS, [VERDICTS], accept=["own_day", "usual_volume"])
    plant_gold(session, installation, 0.5)
    pins.pin(installation, tables.features(USE_CASE), log.version(installation, tables.features(USE_CASE)), FINISHED, date(2999, 1, 1))
    plant_gold(session, installation, 0.75)  # older versions hold them too
    plant_run(installation, FINISHED, finished=True)
    plant_run(installation, UNFINISHED, finished=False)
    reports = [gate_report(FINISHED, "7"), gate_report(PRUNED, "6")]
    records.amend(installation, tables.GATE_REPORTS, lambda held: [*held, *reports])
    before = records.read(installation, tables.CHAMPION_HISTORY)
    records.amend(installation, tables.CHAMPION_HISTORY, lambda held: [REIGN])
    litter = installation.home / "staging" / "killed"
    litter.mkdir(parents=True, exist_ok=True)
    (litter / "landed.parquet").write_bytes(f"PAR1 {GONE.card} PAR1".encode())
    (installation.home / "logs").mkdir(exist_ok=True)
    (installation.home / "logs" / "some.log").write_text(f"somebody wrote {GONE.card} here\n")
    yield Planted(session, installation, old, everybody_else(session, installation))
    # The other modules of the run go on as if nobody had been erased.
    records.amend(installation, tables.CHAMPION_HISTORY, lambda held: before)
    records.amend(installation, tables.GATE_REPORTS, lambda held: [row for row in held if row["run_id"] not in (FINISHED, PRUNED)])
    records.amend(installation, tables.ERASED_KEYS, lambda held: [])
    (installation.home / "keys" / "erasure.key").unlink(missing_ok=True)
    shutil.rmtree(installation.home / "runs" / FINISHED)


KILLED = """
import os, signal, sys
from datetime import timedelta
from include.nightshift import erase, settings, usecase
from include.nightshift.erase import files, request, training
from include.nightshift.erase.person import Finder
from include.nightshift.lakehouse.session import connect

target = {"Finder": Finder, "erase": erase, "files": files, "request": request, "training": training}[sys.argv[2]]
act, left = getattr(target, sys.argv[3]), int(sys.argv[4])

def deadly(*arguments, **named):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return act(*arguments, **named)

setattr(target, sys.argv[3], deadly)
installed = settings.load()
use_case = usecase.load("card_fraud", installed)
erase.erase(connect(installed), installed, use_case, sys.argv[1], in_flight=timedelta(0))
"""
"""Erases, and kills itself by SIGKILL at a given call of a given function."""

DEATHS = [
    ("files", "keys", "0"),  # the person is registered, their events are not
    ("Finder", "remove", "4"),  # bronze and silver are without them, the rest is not
    ("files", "rewrite", "0"),  # new hashes are registered, the files are the old ones
    ("training", "remove", "1"),
    ("request", "destroy", "0"),  # the receipt is written
]


@pytest.fixture(scope="module")
def erased(planted: Planted) -> dict[str, Any]:
    """The receipt of an erasure that was killed again and again."""
    settings = planted.settings
    token = request.make(settings, USE_CASE, f" {GONE.card}\n")
    told = environment(settings)
    for death in DEATHS:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, token, *death], cwd=ROOT, env=told, capture_output=True, text=True, timeout=300, check=False
        )
        assert killed.returncode == -signal.SIGKILL, (death, killed.stderr[-3000:])
        assert str(GONE.card) not in killed.stdout + killed.stderr
        assert request.paths(settings, token)[0].exists()
    return erase.erase(planted.session, settings, USE_CASE, token, in_flight=timedelta(0))


@pytest.mark.parametrize("told_by", ["itself", "its cause", "nobody"])
def test_no_error_of_a_run_tells_of_the_person_by_its_words_or_by_what_it_came_from(
    records_home: Settings, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    def fail(erasure: Any) -> None:
        try:
            raise ValueError(f"cannot cast 00{GONE.card}x" if told_by != "nobody" else "cannot cast")
        except ValueError as error:
            raise LakehouseError(str(error) if told_by == "itself" else "night 2004-03-01 failed") from error

    monkeypatch.setattr("include.nightshift.erase._Erasure.register", fail)
    token = request.make(records_home, USE_CASE, str(GONE.card))
    with pytest.raises(LakehouseError) as refusal:
        erase.erase(None, records_home, USE_CASE, token)  # type: ignore[arg-type]
    shown = "".join(traceback.format_exception(refusal.value))
    assert str(GONE.card) not in shown
    assert ("cannot cast" in shown) == (told_by != "its cause")
    assert request.paths(records_home, token)[0].exists()


@pytest.mark.lakehouse
def test_planting_puts_the_person_everywhere_and_the_search_sees_it(planted: Planted) -> None:
    places = planted.tells(GONE)
    for where in (
        *(f"lakehouse/{table.schema}/{table.name}/" for table in (*tables.of(USE_CASE), tables.QUARANTINE, tables.PSEUDONYMS)),
        f"landing/transactions/{NIGHTS[0]}",
        f"landing/fraud_labels/{VERDICTS}",
        f"runs/{FINISHED}/data/train",
        f"runs/{UNFINISHED}/data/frauds",
        "staging/killed",
        "logs/some.log",
    ):
        assert any(place.startswith(where) for place in places), where
    rejected = lakehouse.rows(planted.session, "select rule from silver.quarantine where year(day) = 2004")
    assert {row["rule"] for row in rejected} == {
        "malformed", "amount_in_range", "duplicate", "unreadable_customer_id", "verdict_is_0_or_1"
    }  # fmt: skip


@pytest.mark.lakehouse
def test_after_an_erasure_that_was_killed_again_and_again_nothing_tells_of_the_person(planted: Planted, erased: dict[str, Any]) -> None:
    assert planted.tells(GONE) == []
    assert not any((planted.settings.home / "erasures").iterdir())
    assert not (planted.settings.home / "runs" / UNFINISHED).exists()


@pytest.mark.lakehouse
def test_everybody_elses_rows_are_what_they_were(planted: Planted, erased: dict[str, Any]) -> None:
    assert planted.everybody_else() == planted.held
    for night in NIGHTS:
        path = planted.settings.landing_folder / "transactions" / f"{night}.csv.gz"
        came = gzip.decompress((planted.old / f"transactions-{path.name}").read_bytes()).splitlines(keepends=True)
        kept = [line for line in came if not in_content("", line, GONE.wanted)]
        assert gzip.decompress(path.read_bytes()) == b"".join(kept)
    for part in ("train", "holdout"):
        left = pq.read_table(planted.settings.home / "runs" / FINISHED / "data" / part)
        assert left["customer_id"].to_pylist() == [STAYS.card, ORDINARY + 1]
    assert any(place.startswith("lakehouse/gold/card_fraud_alerts") for place in planted.tells(STAYS))


@pytest.mark.lakehouse
def test_the_receipt_lists_tables_files_pins_and_models_and_a_retrain_is_proposed(planted: Planted, erased: dict[str, Any]) -> None:
    assert json.loads(erased["rows"]) == {
        "bronze.transactions": 8,
        "bronze.fraud_labels": 4,
        "silver.transactions": 4,
        "silver.fraud_labels": 2,
        "silver.quarantine": 6,
        "silver.pseudonyms": 1,
        "gold.card_fraud_features": 1,
        "gold.card_fraud_scores": 1,
        "gold.card_fraud_alerts": 1,
    }
    assert json.loads(erased["purged"]) == sorted([*json.loads(erased["rows"]), "ops.contract_results"])
    assert json.loads(erased["files"]) == {
        f"landing/transactions/{NIGHTS[0]}.csv.gz": 4,
        f"landing/transactions/{NIGHTS[1]}.csv.gz": 3,
        f"landing/transactions/{NIGHTS[2]}.csv.gz": 1,
        f"landing/fraud_labels/{VERDICTS}.csv.gz": 4,
        f"runs/{FINISHED}": 3,
        f"runs/{UNFINISHED}": 3,
        "logs/some.log": 1,
    }
    [pin] = json.loads(erased["pins"])
    assert (pin["table"], pin["why"], pin["until"]) == ("gold.card_fraud_features", FINISHED, "2999-01-01")
    assert records.read(planted.settings, tables.TABLE_PINS, why=FINISHED) == []
    assert json.loads(erased["models"]) == {
        "card_fraud": {
            "7": f"run {FINISHED}: 3 rows in its extract",
            "6": f"run {PRUNED}: possibly, its extract is gone and its nights reach to {NIGHTS[2]}",
        }
    }
    [filed] = records.read(planted.settings, tables.RETRAIN_REQUESTS, cause="erasure")
    assert (filed["request_id"], filed["state"]) == (erased["retrain"], "open")
    assert json.loads(filed["evidence"]) == {"erasure": erased["request_id"], "champion": "7", "models": ["6", "7"]}
    key = keys.held(planted.settings, keys.ERASURE)
    assert erased["subject"] == key.digest("customer_id", str(GONE.card))
    assert erased["digest"] == receipt.digest(erased)
    [held] = lakehouse.rows(planted.session, "select * from ops.erasures where request_id = :token", token=erased["request_id"])
    assert {name: held[name] for name in tables.ERASURES.content} == {name: erased[name] for name in tables.ERASURES.content}


@pytest.mark.lakehouse
def test_rows_in_are_silver_plus_quarantine_and_every_night_is_as_whole_as_before(planted: Planted, erased: dict[str, Any]) -> None:
    found = records.read(planted.settings, tables.BATCHES, feed="transactions", day=NIGHTS)
    counts = {r["day"]: (r["rows"], r["accepted"], r["rejected"], r["erased"]) for r in found}
    assert counts == {NIGHTS[0]: (44, 42, 2, None), NIGHTS[1]: (43, 41, 2, None), NIGHTS[2]: (41, 41, 0, None)}
    versions = {str(table): log.version(planted.settings, table) for table in tables.of(USE_CASE)}
    done = ingest(planted.session, planted.settings, TRANSACTIONS, NIGHTS)
    assert done.unchanged == NIGHTS
    assert ingest(planted.session, planted.settings, LABELS, [VERDICTS]).unchanged == [VERDICTS]
    assert {str(table): log.version(planted.settings, table) for table in tables.of(USE_CASE)} == versions


@pytest.mark.lakehouse
def test_old_files_landed_again_and_maintain_bring_nothing_back(planted: Planted, erased: dict[str, Any]) -> None:
    settings = planted.settings
    for copy in planted.old.iterdir():
        feed, _, name = copy.name.partition("-")
        shutil.copy(copy, settings.landing_folder / feed / name)
    assert planted.tells(GONE)
    assert ingest(planted.session, settings, TRANSACTIONS, NIGHTS).unchanged == NIGHTS
    assert ingest(planted.session, settings, LABELS, [VERDICTS]).unchanged == [VERDICTS]
    for table in (*tables.of(USE_CASE), tables.QUARANTINE):
        maintenance.maintain_table(planted.session, settings, table)
    assert planted.tells(GONE) == []
    assert planted.everybody_else() == planted.held


@pytest.mark.lakehouse
def test_from_a_landing_that_is_not_ours_nothing_comes_back_and_the_rows_are_counted(
    planted: Planted, erased: dict[str, Any], tmp_path: Path
) -> None:
    elsewhere, night = replace(planted.settings, landing=f"{tmp_path}/landing"), NIGHTS[2] + timedelta(days=60)
    lines = [line.replace(str(NIGHTS[2]), str(night)).replace("200402", "200409") for line in transactions(NIGHTS[2], 2004_0200)]
    lines[-1] = lines[-1].replace(str(STAYS.event + 6), str(STAYS.event + 7))
    drop(elsewhere, TRANSACTIONS, night, lines)
    before = search(tmp_path, GONE.wanted).hits
    done = ingest(planted.session, elsewhere, TRANSACTIONS, [night])
    assert (done.landed, done.accepted, done.erased) == ({night: 41}, {night: 41}, {night: 1})
    [record] = records.read(elsewhere, tables.BATCHES, feed="transactions", day=night)
    assert (record["rows"], record["accepted"], record["rejected"], record["erased"]) == (42, 41, 0, 1)
    again = ingest(planted.session, elsewhere, TRANSACTIONS, [night])
    assert (again.unchanged, again.erased) == ([night], {night: 1})
    assert planted.tells(GONE) == []
    assert search(tmp_path, GONE.wanted).hits == before != []


@pytest.mark.lakehouse
def test_a_second_request_for_the_same_person_finds_only_what_is_not_ours_and_gets_a_receipt(
    planted: Planted, erased: dict[str, Any], tmp_path: Path
) -> None:
    versions = {str(table): log.version(planted.settings, table) for table in tables.of(USE_CASE)}
    token, elsewhere = request.make(planted.settings, USE_CASE, str(GONE.card)), replace(planted.settings, landing=str(tmp_path))
    path = drop(elsewhere, TRANSACTIONS, NIGHTS[0], transactions(NIGHTS[0], 2004_0000))
    before = path.read_bytes()
    second = erase.erase(planted.session, elsewhere, USE_CASE, token, in_flight=timedelta(0))
    assert json.loads(second["reported"]) == {str(path): "not ours to change: 4 rows"}
    assert path.read_bytes() == before
    assert (second["rows"], second["files"], second["purged"], second["pins"]) == ("{}", "{}", "[]", "[]")
    # What the models were trained on has not changed.
    assert (second["subject"], second["models"]) == (erased["subject"], erased["models"])
    assert second["request_id"] != erased["request_id"]
    assert {str(table): log.version(planted.settings, table) for table in tables.of(USE_CASE)} == versions
    # With its token, a request that was carried out answers with its receipt.
    assert erase.erase(planted.session, planted.settings, USE_CASE, token)["digest"] == second["digest"]


@pytest.mark.lakehouse
def test_what_is_nobodys_to_remove_fails_the_run_which_names_the_place_and_keeps_the_request(
    planted: Planted, erased: dict[str, Any]
) -> None:
    stray = planted.settings.home / "notes.txt.gz"
    stray.write_bytes(gzip.compress(f"call {GONE.card} back".encode()))
    token = request.make(planted.settings, USE_CASE, str(GONE.card))
    with pytest.raises(ErasureError, match=r"1 places still tell .*: notes\.txt\.gz!gzip\. Clear this task") as refusal:
        erase.erase(planted.session, planted.settings, USE_CASE, token, in_flight=timedelta(0))
    assert str(GONE.card) not in str(refusal.value)
    assert records.read(planted.settings, tables.ERASURES, request_id=token) == []
    stray.unlink()
    assert erase.erase(planted.session, planted.settings, USE_CASE, token, in_flight=timedelta(0))["rows"] == "{}"


@pytest.mark.lakehouse
def test_a_short_id_is_erased_where_its_columns_say_it_and_equal_numbers_elsewhere_stay(planted: Planted, erased: dict[str, Any]) -> None:
    settings, card, event = planted.settings, ORDINARY + 1, 2004_0001
    before = {str(table): planted.session.table(str(table)).where("year(day) = 2004").count() for table in tables.of(USE_CASE)}
    token = request.make(settings, USE_CASE, str(card))
    done = erase.erase(planted.session, settings, USE_CASE, token, in_flight=timedelta(0))
    # A night of theirs came from elsewhere, too; one verdict, and one row of each gold table.
    gone = json.loads(done["rows"])
    assert gone == {"bronze.transactions": 4, "silver.transactions": 4, "bronze.fraud_labels": 1, "silver.fraud_labels": 1,
                    "silver.pseudonyms": 1,
                    "gold.card_fraud_features": 1, "gold.card_fraud_scores": 1, "gold.card_fraud_alerts": 1}  # fmt: skip
    assert json.loads(done["searched"]) == {"numbers": 5, "in_every_byte": 0, "in_columns_only": 5}
    after = {str(table): planted.session.table(str(table)).where("year(day) = 2004").count() for table in tables.of(USE_CASE)}
    assert after == {table: rows - gone[table] for table, rows in before.items()}
    for table in tables.of(USE_CASE):
        mine = [f"{name} = '{value}'" for name, value in (("customer_id", card), ("transaction_id", event)) if name in table.names]
        assert planted.session.table(str(table)).where(" or ".join(mine)).count() == 0, table
    for night in NIGHTS:
        lines = gzip.decompress((settings.landing_folder / "transactions" / f"{night}.csv.gz").read_bytes()).decode()
        assert f",{card}," not in lines
        assert f",{card + 1}," in lines
    [count] = {record["erased"] for record in records.read(settings, tables.BATCHES, feed="transactions", day=NIGHTS)}
    assert count is None
    assert ingest(planted.session, settings, TRANSACTIONS, NIGHTS).unchanged == NIGHTS
