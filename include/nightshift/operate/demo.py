"""The demo: a bank's nights in fast forward, through the real scheduler, on generated data or on your own.

`make demo` tells the whole story; `make demo LANDING=<folder> HISTORY=<day>..<day> NIGHTS=<n>` tells it on files of yours.
Nothing is staged: what is trained on, judged on and published follows the same code and the same clocks as any night.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import nights, usecase
from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError, NightshiftError
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.lakehouse import tables
from include.nightshift.operate import processes
from include.nightshift.operate.rest import Airflow
from include.nightshift.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.usecase import UseCase

FIRST = date(2026, 1, 1)
HISTORY_NIGHTS, LIVE_NIGHTS = 88, 8
CHANGED_NIGHTS = 30
"""So many nights before the history ends the world changes: enough of them mature to train on and, apart from those, to judge on."""
PREEMPTIONS = 2
"""Machines taken away while the challenger trains."""


@dataclass(frozen=True)
class Story:
    """What is told: which nights are loaded at once, which run live, and when the world changes, if it does."""

    history_first: date
    history_last: date
    live: int
    changes_on: date | None

    @property
    def trained_as_of(self) -> date:
        """The first champion knows the history up to the day before the change."""
        return self.changes_on - timedelta(days=1) if self.changes_on else self.history_last


class Teller:
    """Prints lines with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:6.0f} s  {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--landing", type=Path, help="a folder of your own files: <feed>/<night>.csv.gz")
    parser.add_argument("--history", help="nights to load at once, FIRST..LAST")
    parser.add_argument("--nights", type=int, help=f"live nights to run after the history (default {LIVE_NIGHTS})")
    chosen = parser.parse_args(arguments)
    tell = Teller()
    try:
        settings, story = _prepare(chosen, tell)
        _tell(settings, story, tell)
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)
        return 1
    return 0


def _prepare(chosen: argparse.Namespace, tell: Teller) -> tuple[Settings, Story]:
    """Settle where the files are and what their nights are; generate them where none were given."""
    settings = dataclasses.replace(settings_module.load(), clock=False)
    live = LIVE_NIGHTS if chosen.nights is None else chosen.nights
    if live < 1:
        raise ConfigurationError(f"NIGHTS={live}: run at least one live night")
    if chosen.landing is None:
        if chosen.history:
            raise ConfigurationError("HISTORY names nights of your own files: give LANDING too")
        last = FIRST + timedelta(days=HISTORY_NIGHTS - 1)
        changes_on = last - timedelta(days=CHANGED_NIGHTS - 1)
        story = Story(FIRST, last, live, changes_on)
        from include.usecases.card_fraud import simulator

        world = simulator.World.of_size(10_000, seed=7, change="harmful", change_on=changes_on)
        made = simulator.simulate(settings.landing_folder, first=FIRST, nights=HISTORY_NIGHTS + live, world=world)
        tell(f"generated {made.transactions:,} transactions of {HISTORY_NIGHTS + live} days; the world changes on {changes_on}")
    else:
        if not chosen.history:
            raise ConfigurationError("LANDING needs HISTORY=FIRST..LAST, the nights to load at once")
        first, last = nights.parse_range(chosen.history, what="HISTORY")
        settings = dataclasses.replace(settings, landing=chosen.landing.expanduser().resolve())
        story = Story(first, last, live, None)
    spans = {feed.name: (_first_file(settings, feed.name), None) for feed in usecase.registered(settings)[0].feeds}
    settings = dataclasses.replace(settings, feed_spans=spans, local_preemptions=PREEMPTIONS)
    os.environ.update(processes.environment(settings))
    return settings, story


def _first_file(settings: Settings, feed: str) -> date:
    names = sorted(path.name.removesuffix(".csv.gz") for path in (settings.landing_folder / feed).glob("*.csv.gz"))
    if not names:
        raise ConfigurationError(f"{settings.landing_folder / feed} holds no <night>.csv.gz: give LANDING the folder above your feeds")
    return nights.parse(names[0], what=f"the first file of {feed}")


def _tell(settings: Settings, story: Story, tell: Teller) -> None:
    use_case = usecase.registered(settings)[0]
    processes.up(settings)
    airflow = Airflow(settings, settings.approver)
    dags = {stem: f"{use_case.name}_{stem}" for stem in ("ingest", "features", "score", "monitor", "train", "backfill")}
    airflow.wait_for_dags(list(dags.values()))
    tell("everything answers")
    session = lakehouse.connect(settings)

    _backfill(airflow, dags["backfill"], story.history_first, story.history_last, "ingest")
    loaded = lakehouse.rows(session, f"select count(*) as n, count(distinct day) as nights from {tables.features(use_case)}")[0]
    tell(f"history loaded: {loaded['n']:,} rows of {loaded['nights']} nights have features; no champion yet, so no list")

    _train(airflow, dags["train"], session, tell, as_of=story.trained_as_of, preemptions=0)
    if story.trained_as_of < story.history_last:
        _backfill(airflow, dags["backfill"], story.trained_as_of + timedelta(days=1), story.history_last, "scores")
        tell(f"nights {story.trained_as_of + timedelta(days=1)}..{story.history_last} scored and watched with it, no request filed")

    for night in nights.between(story.history_last + timedelta(days=1), story.history_last + timedelta(days=story.live)):
        _night(airflow, dags, session, use_case, night, tell)
    _summary(settings, session, use_case, story, tell)


def _backfill(airflow: Airflow, dag_id: str, first: date, last: date, start_at: str) -> None:
    conf = {"first_night": first.isoformat(), "last_night": last.isoformat(), "start_at": start_at}
    airflow.run(dag_id, conf=conf)


def _train(airflow: Airflow, dag_id: str, session: SparkSession, tell: Teller, *, as_of: date, preemptions: int) -> None:
    run_id = airflow.trigger(dag_id, conf={"as_of": as_of.isoformat(), "preemptions": preemptions})
    _approve(airflow, dag_id, run_id, tell)


def _approve(airflow: Airflow, dag_id: str, run_id: str, tell: Teller) -> None:
    """Follow a training run: what the gate said, and, where it asks, the operator's yes."""
    airflow.settled(dag_id, run_id, "gate")
    trained, report = airflow.xcom(dag_id, run_id, "train"), airflow.xcom(dag_id, run_id, "gate", key="report")
    if not report:
        airflow.wait(dag_id, run_id)
        tell("training: an earlier run has answered the request already")
        return
    tell(f"trained version {trained['model_version']} in {trained['attempts']} attempts ({trained['preemptions']} machines taken away)")
    for reason in report["reasons"]:
        tell(f"  gate {'passed' if report['passed'] else 'refused'}: {reason}")
    if report["passed"]:
        airflow.answer(dag_id, run_id, "approve", "Approve")
    airflow.wait(dag_id, run_id)
    promoted = airflow.xcom(dag_id, run_id, "promote")
    if promoted:
        tell(f"approved by the operator: version {promoted['model_version']} reigns from night {promoted['from_night']} on")


def _night(airflow: Airflow, dags: dict[str, str], session: SparkSession, use_case: UseCase, night: date, tell: Teller) -> None:
    """One night, from the trigger to the watch; and the training that its verdict may start."""
    key, started = night.isoformat(), time.monotonic()
    before = {run["dag_run_id"] for run in airflow.runs(dags["train"])}
    airflow.run(dags["ingest"], partition_key=key)
    for stem in ("features", "score"):
        airflow.wait_for_night(dags[stem], key)
    listed = time.monotonic() - started
    watch = airflow.wait_for_night(dags["monitor"], key, task_id="watch")
    verdict = airflow.xcom(dags["monitor"], watch["dag_run_id"], "watch")
    seconds = f"list after {listed:.0f} s, watched after {time.monotonic() - started:.0f} s"
    tell(f"night {night}: {_line(session, use_case, night, verdict)}; {seconds}")
    if verdict["request_id"]:
        tell(f"  the watch asks for a new model: {'; '.join(verdict['reasons'])}")
        asked = airflow.wait_for_run(dags["train"], not_among=before)
        _approve(airflow, dags["train"], asked, tell)


def _line(session: SparkSession, use_case: UseCase, night: date, verdict: dict[str, Any]) -> str:
    ledger = {row["stage"]: row for row in lakehouse.rows(session, f"select * from {tables.NIGHTS} where day = :night", night=night)}
    silver = ledger[f"silver.{use_case.events.name}"]
    listed = lakehouse.rows(
        session, f"select count(*) as n, max(model_version) as model from {tables.alerts(use_case)} where day = :night", night=night
    )[0]
    measured = {
        (row["cohort"], row["metric"]): row["value"]
        for row in lakehouse.rows(session, f"select * from {tables.PERFORMANCE} where judged_on = :night", night=night)
    }
    matured = "nothing matured"
    if ("week", "average_precision") in measured:
        figures = [measured["week", metric] for metric in ("average_precision", "card_precision")]
        matured = "matured week: AP {} card precision {}".format(*("–" if value is None else f"{value:.3f}" for value in figures))
    drifted = ", ".join(verdict["drifted"]) or "none"
    published = f"{listed['n']} listed by version {listed['model']}"
    return f"{silver['rows_in']:,} landed, {silver['rejected']} quarantined, {published}; {matured}; drift: {drifted}"


def _summary(settings: Settings, session: SparkSession, use_case: UseCase, story: Story, tell: Teller) -> None:
    weeks = lakehouse.rows(
        session,
        f"select metric, day, value from {tables.PERFORMANCE} where cohort = 'week' and metric in ('average_precision', 'card_precision') "
        f"and day > :last and datediff(day, :last) % 7 = 0 order by metric, day",
        last=story.history_last,
    )
    tell("summary")
    for metric in ("average_precision", "card_precision"):
        values = [week["value"] for week in weeks if week["metric"] == metric and week["value"] is not None]
        if values:
            tell(f"  {metric} of {len(values)} whole live weeks that have matured: mean {sum(values) / len(values):.4f}")
    for reign in lakehouse.rows(session, f"select * from {tables.CHAMPION_HISTORY} order by from_night"):
        tell(f"  version {reign['model_version']} reigns {reign['from_night']}..{reign['until_night'] or ''}, approved by {reign['by']}")
    passwords = json.loads(settings.passwords_file.read_text())
    tell(f"  Airflow  {settings.airflow_url}  user {settings.approver}, password {passwords[settings.approver]}")
    tell(f"  MLflow   {settings.mlflow_url}")
    tell(f'  make sql Q="select * from {tables.alerts(use_case)} order by day desc, rank limit 10"')
    tell("  make down  stops it all; deleting the state folder is a clean start")


if __name__ == "__main__":
    raise SystemExit(main())
