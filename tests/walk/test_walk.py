"""The whole loop through a real scheduler: what a night promises, and what it promises when things go wrong."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import date, timedelta

import pytest
import requests

from include.nightshift import nights
from include.nightshift.erase.search import Wanted, search
from include.nightshift.lakehouse import tables
from include.nightshift.monitor import requests as retraining
from include.nightshift.operate import chain, supervision
from include.nightshift.operate.environment import environment
from include.nightshift.operate.rest import Airflow, AirflowError
from include.nightshift.promote.question import Kind, Question

pytestmark = [pytest.mark.walk, pytest.mark.timeout(1800)]


def assert_published_once(walk, night):
    """Every landed row is in every table once, and the list is whole."""
    drop = (walk.settings.landing_folder / "transactions" / f"{night}.csv.gz").read_bytes()
    landed = gzip.decompress(drop).count(b"\n") - 1
    for table in ("bronze.transactions", "silver.transactions", "gold.card_fraud_features", "gold.card_fraud_scores"):
        assert walk.rows(f"select count(*) as n, count(distinct transaction_id) as keys from {table} where day = date'{night}'") == [
            {"n": landed, "keys": landed}
        ], table
    assert walk.rows(f"select count(*) as n from gold.card_fraud_alerts where day = date'{night}'") == [{"n": 100}]


def test_the_history_has_features_and_no_list_before_somebody_reigned(walk):
    built = walk.rows(f"select count(distinct day) as nights, count(*) as n from gold.card_fraud_features where day <= date'{walk.last}'")
    landed = walk.rows(f"select count(*) as n from silver.transactions where day <= date'{walk.last}'")
    assert built[0]["nights"] == 68
    assert built[0]["n"] == landed[0]["n"] > 68 * 3000
    assert walk.rows(f"select count(*) as n from gold.card_fraud_alerts where day <= date'{walk.as_of}'") == [{"n": 0}]


def test_the_first_champion_was_judged_on_nights_it_had_not_seen_and_approved_by_the_operator(walk):
    report = walk.rows("select * from ops.gate_reports")[0]
    assert report["passed"] is True
    assert report["champion_version"] is None
    assert str(report["holdout_first"]) == "2026-01-27"
    assert str(report["holdout_last"]) == "2026-02-02"
    assert walk.rows("select answer, by, report_digest from ops.approvals") == [
        {"answer": "Approve", "by": "operator", "report_digest": report["report_digest"]}
    ]
    reign = walk.rows("select * from ops.champion_history")
    assert [(r["from_night"], r["until_night"], r["report_digest"]) for r in reign] == [(walk.changes_on, None, report["report_digest"])]


def test_backfilled_nights_are_listed_and_watched_and_ask_for_nothing(walk):
    listed = walk.rows(f"select day, count(*) as n from gold.card_fraud_alerts where day <= date'{walk.last}' group by day order by day")
    assert [(row["day"], row["n"]) for row in listed] == [(night, 100) for night in nights.between(walk.changes_on, walk.last)]
    weeks = walk.rows("select day, value from ops.performance where cohort = 'week' and metric = 'average_precision' order by day")
    assert [week["day"] for week in weeks] == list(nights.between(walk.changes_on + timedelta(days=6), walk.last - timedelta(days=7)))
    promised = json.loads(walk.rows("select figures from ops.gate_reports")[0]["figures"])["candidate_average_precision"]
    assert max(week["value"] for week in weeks) < promised / 2, "the world that it was trained on is gone"
    [asked] = walk.rows("select cause, state, question, evidence from ops.retrain_requests")
    assert (asked["cause"], asked["state"]) == ("asked", "done"), "the first training, by hand, and nothing else"
    assert json.loads(asked["evidence"])["by"] == "admin"
    assert len(walk.trainings()) == 1


def test_the_evidence_of_a_night_starts_a_training_whose_model_is_judged_approved_and_lists_the_next_night(walk):
    night, before = walk.live(1), walk.trainings()
    ran = walk.night(night)
    [request] = walk.rows("select * from ops.retrain_requests where cause <> 'asked'")
    assert (request["night"], request["cause"]) == (night, "performance")
    question = json.loads(request["question"])
    assert question["kind"] == "recover"
    assert walk.changes_on <= date.fromisoformat(question["changed_on"]) <= walk.changes_on + timedelta(days=6)

    training = walk.airflow.wait_for_run("card_fraud_train", not_among=before)
    walk.approve(training)
    walk.finish(ran)
    report = walk.rows("select * from ops.gate_reports order by judged_at desc")[0]
    attempts = walk.rows("select outcome from ops.training_attempts where run_id = :run order by attempt", run=report["run_id"])
    assert [attempt["outcome"] for attempt in attempts] == ["preempted", "preempted", "finished"]
    assert walk.airflow.tasks("card_fraud_train", training)["train_trees"]["try_number"] == 1, "a machine lost is no try used"
    assert (report["passed"], report["champion_version"], report["model_version"]) == (True, "1", "2")
    assert (report["holdout_first"], report["holdout_last"]) == (night - timedelta(days=13), night - timedelta(days=7))
    assert (report["question"], report["outcome"]) == ("recover", "passed")
    assert walk.rows("select distinct state from ops.retrain_requests") == [{"state": "done"}]
    reigns = walk.rows("select model_version, from_night, until_night from ops.champion_history order by from_night")
    assert reigns == [
        {"model_version": "1", "from_night": walk.changes_on, "until_night": night},
        {"model_version": "2", "from_night": walk.live(2), "until_night": None},
    ]


def test_a_night_publishes_a_hundred_cards_by_its_champion(walk):
    night = walk.live(2)
    walk.finish(walk.night(night))
    listed = walk.rows(f"select * from gold.card_fraud_alerts where day = date'{night}' order by rank")
    assert [row["rank"] for row in listed] == list(range(1, 101))
    assert len({row["customer_id"] for row in listed}) == 100
    assert {row["model_version"] for row in listed} == {"2"}
    assert all(row["reason_1"] for row in listed[:10])
    assert_published_once(walk, night)


def test_the_analyst_reads_what_dbt_did_for_the_night_and_a_stranger_does_not(walk):
    night, dag_id = walk.live(2), walk.dag("features")
    [features] = walk.rows(f"select rows, status from ops.dbt_nodes where day = date'{night}' and node = 'card_fraud_features'")
    assert features == {
        "rows": walk.rows(f"select count(*) as n from silver.transactions where day = date'{night}'")[0]["n"],
        "status": "success",
    }
    run_id, analyst = walk.airflow.runs(dag_id, night.isoformat())[0]["dag_run_id"], Airflow(walk.settings, "analyst")
    url = analyst.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/features/links")["extra_links"]["dbt results"]
    page = analyst.http.get(url, timeout=60)
    assert page.status_code == 200
    for said in ("card_fraud_features", f"{features['rows']:,}", str(night)):
        assert said in page.text, said
    strangers = [requests.get(url, headers={"Accept": accept}, allow_redirects=False, timeout=60) for accept in ("text/html", "*/*")]
    assert [(answer.status_code, "card_fraud_features</code>" in answer.text) for answer in strangers] == [(307, False), (401, False)]


def test_a_night_replayed_after_a_promotion_keeps_its_champion_commits_nothing_and_asks_for_nothing_anew(walk):
    night, before, trainings = walk.live(1), walk.versions(), walk.trainings()
    walk.finish(walk.night(night))
    assert walk.versions() == before
    assert walk.rows(f"select distinct model_version as v from gold.card_fraud_scores where day = date'{night}'") == [{"v": "1"}]
    assert walk.trainings() == trainings


def test_a_truncated_drop_publishes_nothing_and_stays_where_it_was(walk):
    # The night after it is the next test's: it goes on.
    night = walk.live(3)
    drop = walk.settings.landing_folder / "transactions" / f"{night}.csv.gz"
    whole = drop.read_bytes()
    (walk.settings.home / "whole.csv.gz").write_bytes(whole)
    drop.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AirflowError, match="is no whole gz file"):
        walk.airflow.run("card_fraud_ingest", partition_key=night.isoformat())
    assert drop.stat().st_size == len(whole) // 2
    for table in ("bronze.transactions", "silver.transactions", "gold.card_fraud_features", "gold.card_fraud_alerts"):
        assert walk.rows(f"select count(*) as n from {table} where day = date'{night}'") == [{"n": 0}], table


def test_two_runs_of_one_night_at_once_publish_it_once(walk):
    night = walk.live(4)
    runs = [walk.airflow.trigger("card_fraud_ingest", partition_key=night.isoformat()) for _ in range(2)]
    for run_id in runs:
        walk.airflow.wait("card_fraud_ingest", run_id)
    for stem in ("features", "score", "monitor"):
        begun = walk.airflow.wait_for_run(walk.dag(stem), not_among=set(), partition_key=night.isoformat())
        walk.airflow.wait(walk.dag(stem), begun)
    assert_published_once(walk, night)


def test_what_was_decided_is_chained_and_the_audit_log_keeps_each_nights_heads(walk):
    kept = chain.audited(walk.settings)
    # The truncated night's too, whose run failed.
    assert {"ops.gate_reports", "ops.approvals", "ops.champion_history"} <= kept[-1].keys()
    assert len(kept) >= 4
    checked = subprocess.run(
        [sys.executable, "-m", "include.nightshift.operate.chain"],
        env=environment(walk.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout).keys() >= kept[-1].keys()
    assert f"compared with the heads of {len(kept)} times" in checked.stderr


def test_a_night_whose_lakehouse_is_killed_half_way_is_whole_after_it_ran_again(walk):
    night = walk.live(5)
    killed = threading.Event()

    def kill() -> None:
        [pid] = [process.pid for process in supervision.marked(walk.settings, "lakehouse")][:1]
        os.kill(pid, signal.SIGKILL)
        killed.set()

    timer = threading.Timer(4.0, kill)
    timer.start()
    try:
        walk.finish(walk.night(night))
    except AirflowError:
        walk.finish(walk.night(night))
    timer.join()
    assert killed.is_set()
    assert_published_once(walk, night)


def test_a_night_landed_after_later_ones_were_built_marks_them_and_a_backfill_rebuilds_them(walk):
    night, later = walk.live(3), [walk.live(4), walk.live(5)]
    (walk.settings.home / "whole.csv.gz").rename(walk.settings.landing_folder / "transactions" / f"{night}.csv.gz")
    walk.finish(walk.night(night))
    marked = "select table_name, sort_array(collect_list(day)) as nights from ops.stale_nights where rebuilt_at is null group by table_name"
    stale = {row["table_name"]: row["nights"] for row in walk.rows(marked)}
    assert stale == {f"gold.card_fraud_{table}": later for table in ("features", "scores", "alerts")}
    walk.backfill(night, later[-1], "features")
    assert walk.rows(marked) == []
    for built in (night, *later):
        assert_published_once(walk, built)


def test_rows_are_judged_again_on_request_and_those_that_pass_already_stay_as_they_are(walk):
    night, before = walk.live(2), walk.versions()
    walk.release(night, night)
    after = walk.versions()
    assert {name for name in after if after[name] != before[name]} <= {"ops.nights", "ops.acts"}, "who asked is kept"


def test_the_weekly_maintenance_keeps_every_row_and_what_a_training_read(walk):
    report = walk.rows("select run_id, versions from ops.gate_reports order by judged_at")[0]
    counts = {str(table): f"select count(*) as n from {table}" for table in tables.of(walk.use_case)}
    before = {name: walk.rows(query) for name, query in counts.items()}
    walk.airflow.run(walk.dag("maintain"), conf={"keep_days": 0})
    assert {name: walk.rows(query) for name, query in counts.items()} == before
    for name, version in json.loads(report["versions"]).items():
        assert walk.rows(f"select count(*) as n from {name} version as of {version}")[0]["n"] > 0


def test_a_partition_key_that_is_no_night_fails_with_advice(walk):
    before = walk.versions()
    run_id = walk.airflow.trigger("card_fraud_features", partition_key="x' or 1=1")
    with pytest.raises(AirflowError, match="is no night: give a date such as"):
        walk.airflow.wait("card_fraud_features", run_id)
    assert walk.versions() == before


def test_drift_is_measured_of_all_that_is_not_the_calendars(walk):
    judged = walk.rows("select column_name, collect_set(verdict) as verdicts from ops.drift_metrics group by column_name")
    verdicts = {row["column_name"]: row["verdicts"] for row in judged}
    assert verdicts.keys() == {*walk.use_case.feature_names, "score"} - {"is_weekend"}
    assert verdicts["tx_amount"] == ["stable"]


def test_an_event_without_an_open_request_wakes_train_and_is_let_go(walk):
    before = walk.trainings()
    [asset] = [a for a in walk.airflow.call("GET", "/assets?limit=50")["assets"] if a["name"] == "ops.retrain_requests.card_fraud"]
    walk.airflow.call("POST", "/assets/events", json={"asset_id": asset["id"], "extra": {}, "partition_key": walk.live(1).isoformat()})
    run_id = walk.airflow.wait_for_run("card_fraud_train", not_among=before)
    assert walk.airflow.settled("card_fraud_train", run_id, "claim") == "skipped"


def test_a_person_erased_by_request_is_nowhere_and_stays_out_when_their_file_lands_again(walk):
    night, person = walk.live(6), 7_412_906_358_174_999_901
    drop = walk.settings.landing_folder / "transactions" / f"{night}.csv.gz"
    simulated = gzip.decompress(drop.read_bytes()).decode()
    theirs = [f"{night:%Y%m%d}999{number},{night} 12:00:0{number},{person},1,1234.56" for number in range(3)]
    landed = gzip.compress("\n".join([simulated.rstrip("\n"), *theirs, ""]).encode())
    drop.write_bytes(landed)
    walk.finish(walk.night(night))
    held = f"select count(*) as n from gold.card_fraud_scores where day = date'{night}' and customer_id = {person}"
    assert walk.rows(held) == [{"n": 3}]
    # What the killed night left: by the time that anybody asks, no write can still be under way.
    for path in (walk.settings.home / "lakehouse").rglob("*"):
        if path.is_file() and "_delta_log" not in path.parts:
            os.utime(path, (time.time() - 7200,) * 2)

    line = [sys.executable, "-m", "include.nightshift.operate.erase"]
    done = subprocess.run(line, input=f"{person}\n", env=environment(walk.settings), capture_output=True, text=True, check=True, timeout=60)
    [token] = re.findall("request ([0-9a-f]{32})", done.stdout)
    [run_id] = re.findall(r"card_fraud_erase (\S+) has begun", done.stdout)
    walk.airflow.wait("card_fraud_erase", run_id)

    [receipt] = walk.rows("select * from ops.erasures where request_id = :token", token=token)
    assert json.loads(receipt["rows"])["gold.card_fraud_scores"] == 3
    assert not (walk.settings.home / "erasures" / token).exists()
    assert search(walk.settings.home, Wanted({"customer_id": frozenset({person})})).hits == []
    assert walk.rows(held) == [{"n": 0}]

    drop.write_bytes(landed)
    walk.finish(walk.night(night))
    assert_published_once(walk, night)
    assert gzip.decompress(drop.read_bytes()).decode() == simulated
    assert search(walk.settings.home, Wanted({"customer_id": frozenset({person})})).hits == []


def test_where_a_champion_may_not_stay_and_its_successor_is_refused_a_person_says_what_scores(walk):
    night = walk.live(6)
    must = Question(kind=Kind.REFRESH, mandatory=True)
    retraining.file(walk.settings, walk.use_case, night, "security", must, {"what": "a library of the champion's is unsafe"})
    training = walk.train(night, recipes=["linear"], preemptions=0)
    walk.airflow.answer("card_fraud_train", training, "refer", "Return to the baseline")
    walk.airflow.wait("card_fraud_train", training)
    ended = {task_id: task["state"] for task_id, task in walk.airflow.tasks("card_fraud_train", training).items()}
    assert (ended["pin_trees"], ended["train_trees"], ended["train_linear"]) == ("skipped", "skipped", "success")
    assert (ended["approve"], ended["promote"], ended["settle"]) == ("skipped", "skipped", "success")
    report = walk.rows("select * from ops.gate_reports order by judged_at desc")[0]
    assert (report["question"], report["outcome"]) == ("refresh", "refused")
    acts = walk.rows("select act, by, detail from ops.acts where act in ('refer', 'baseline') order by seq")
    assert [(act["act"], act["by"]) for act in acts] == [("refer", "operator"), ("baseline", "operator")]
    assert json.loads(acts[0]["detail"])["report_digest"] == report["report_digest"]


def test_a_rollback_publishes_this_mornings_list_again_by_the_champion_before(walk):
    night = walk.live(6)
    revisions = f"select revision, state, model_version from ops.publications where day = date'{night}' order by revision desc"
    before = walk.rows(revisions)[0]
    assert before["model_version"] == "2"
    conf = {"version": "previous", "why": "its list finds nothing", "republish": night.isoformat()}
    walk.airflow.run("card_fraud_rollback", conf=conf)
    now = walk.rows(revisions)[0]
    assert (now["revision"], now["model_version"]) == (before["revision"] + 1, "1")
    assert walk.rows(f"select distinct model_version from gold.card_fraud_alerts where day = date'{night}'") == [{"model_version": "1"}]
    assert walk.rows("select model_version from ops.champion_history where until_night is null") == [{"model_version": "1"}]
