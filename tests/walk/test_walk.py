"""The whole loop through a real scheduler: what a night promises, and what it promises when things go wrong."""

from __future__ import annotations

import gzip
import os
import signal
import threading

import pytest

from include.nightshift.operate import supervision
from include.nightshift.operate.rest import AirflowError

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


def test_history_without_a_champion_has_features_and_no_list(walk):
    built = walk.rows("select count(distinct day) as nights, count(*) as n from gold.card_fraud_features where day <= date'2026-03-01'")
    landed = walk.rows("select count(*) as n from silver.transactions where day <= date'2026-03-01'")
    assert built[0]["nights"] == 60
    assert built[0]["n"] == landed[0]["n"] > 60 * 1000
    assert walk.rows("select count(*) as n from gold.card_fraud_alerts where day <= date'2026-03-01'") == [{"n": 0}]


def test_training_loses_two_machines_and_uses_one_try(walk):
    attempts = walk.rows("select outcome, lost_seconds from ops.training_attempts order by attempt")
    assert [attempt["outcome"] for attempt in attempts] == ["preempted", "preempted", "finished"]
    run = walk.airflow.runs("card_fraud_train")[0]
    assert walk.airflow.tasks("card_fraud_train", run["dag_run_id"])["train"]["try_number"] == 1


def test_the_first_champion_was_judged_on_nights_it_had_not_seen_and_approved_by_the_operator(walk):
    report = walk.rows("select * from ops.gate_reports")[0]
    assert report["passed"] is True
    assert report["champion_version"] is None
    assert str(report["holdout_first"]) == "2026-02-16"
    assert str(report["holdout_last"]) == "2026-02-22"
    assert walk.rows("select answer, by, report_digest from ops.approvals") == [
        {"answer": "Approve", "by": "operator", "report_digest": report["report_digest"]}
    ]
    reign = walk.rows("select * from ops.champion_history")
    assert [(str(r["from_night"]), r["until_night"], r["report_digest"]) for r in reign] == [("2026-03-02", None, report["report_digest"])]


def test_a_night_publishes_a_hundred_cards_by_the_champion_and_a_second_run_commits_nothing(walk):
    night = walk.live(1)
    walk.finish(walk.night(night))
    listed = walk.rows(f"select * from gold.card_fraud_alerts where day = date'{night}' order by rank")
    assert [row["rank"] for row in listed] == list(range(1, 101))
    assert len({row["customer_id"] for row in listed}) == 100
    assert {row["model_version"] for row in listed} == {"1"}
    assert all(row["reason_1"] for row in listed[:10])
    before = walk.versions()
    walk.finish(walk.night(night))
    assert walk.versions() == before


def test_two_runs_of_one_night_at_once_publish_it_once(walk):
    night = walk.live(2)
    runs = [walk.airflow.trigger("card_fraud_ingest", partition_key=night.isoformat()) for _ in range(2)]
    for run_id in runs:
        walk.airflow.wait("card_fraud_ingest", run_id)
    for stem in ("features", "score", "monitor"):
        begun = walk.airflow.wait_for_run(walk.dag(stem), not_among=set(), partition_key=night.isoformat())
        walk.airflow.wait(walk.dag(stem), begun)
    assert_published_once(walk, night)


def test_a_night_whose_lakehouse_is_killed_half_way_is_whole_after_it_ran_again(walk):
    night = walk.live(3)
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


def test_a_truncated_drop_publishes_nothing_and_the_next_night_goes_on(walk):
    broken, following = walk.live(4), walk.live(5)
    drop = walk.settings.landing_folder / "transactions" / f"{broken}.csv.gz"
    whole = drop.read_bytes()
    drop.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AirflowError, match="is no whole gzip file"):
        walk.airflow.run("card_fraud_ingest", partition_key=broken.isoformat())
    assert drop.stat().st_size == len(whole) // 2
    for table in ("bronze.transactions", "silver.transactions", "gold.card_fraud_features", "gold.card_fraud_alerts"):
        assert walk.rows(f"select count(*) as n from {table} where day = date'{broken}'") == [{"n": 0}], table
    walk.finish(walk.night(following))
    assert walk.rows(f"select count(*) as n from gold.card_fraud_alerts where day = date'{following}'") == [{"n": 100}]


def test_a_partition_key_that_is_no_night_fails_with_advice(walk):
    before = walk.versions()
    run_id = walk.airflow.trigger("card_fraud_features", partition_key="x' or 1=1")
    with pytest.raises(AirflowError, match="is no night: give a date such as"):
        walk.airflow.wait("card_fraud_features", run_id)
    assert walk.versions() == before


def test_a_matured_week_is_measured_against_the_promise(walk):
    # The scored nights are too few for a week to mature: what is measured says so by standing empty, not by a figure.
    assert walk.rows("select count(*) as n from ops.performance where cohort = 'week'") == [{"n": 0}]
    drift = walk.rows("select distinct verdict from ops.drift_metrics where column_name = 'tx_amount'")
    assert drift == [{"verdict": "stable"}]


def test_an_event_without_an_open_request_wakes_train_and_is_let_go(walk):
    before = walk.trainings()
    [asset] = [a for a in walk.airflow.call("GET", "/assets?limit=50")["assets"] if a["name"] == "ops.retrain_requests.card_fraud"]
    walk.airflow.call("POST", "/assets/events", json={"asset_id": asset["id"], "extra": {}, "partition_key": walk.live(1).isoformat()})
    run_id = walk.airflow.wait_for_run("card_fraud_train", not_among=before)
    assert walk.airflow.settled("card_fraud_train", run_id, "claim") == "skipped"
