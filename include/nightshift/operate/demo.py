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
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import nights, usecase
from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError, LakehouseError, NightshiftError
from include.nightshift.ingest import landing
from include.nightshift.lakehouse import log, records, tables
from include.nightshift.monitor import requests
from include.nightshift.operate import processes
from include.nightshift.operate.walk import Walk
from include.nightshift.promote import history
from include.nightshift.promote import report as reports
from include.nightshift.promote.question import IMPROVE
from include.nightshift.settings import Settings

if TYPE_CHECKING:
    from include.nightshift.usecase import UseCase

FIRST = date(2026, 1, 1)
HISTORY_NIGHTS, LIVE_NIGHTS = 84, 8
TRANSACTIONS = 5_000
"""A day; enough for stable figures, few enough that the story is told in minutes."""
CHANGED_NIGHTS = 30
"""So many nights before the history ends the world changes: enough of them mature to train on and, apart from those, to judge on."""
PREEMPTIONS = 2
"""Machines taken away while the challenger trains."""
PUBLISHED = "published"
"""The recipe that the first champion is made by, where a use case has one of this name and your files hold as many nights as ours do."""


@dataclass(frozen=True)
class Story:
    """What is told: which nights are loaded at once, which run live, and what the first champion knows."""

    history_first: date
    history_last: date
    live: int
    trained_as_of: date
    """The first champion knows the history up to here."""
    published: str | None = None
    """The recipe of the first champion, where it is one that others have published: then it is beaten before the first live night."""


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
    _refuse_a_used_home(settings)
    if chosen.landing is None:
        if chosen.history:
            raise ConfigurationError("HISTORY names nights of your own files: give LANDING too")
        last = FIRST + timedelta(days=HISTORY_NIGHTS - 1)
        changes_on = last - timedelta(days=CHANGED_NIGHTS - 1)
        story = Story(FIRST, last, live, trained_as_of=changes_on - timedelta(days=1))
        from include.usecases.card_fraud.simulator import simulate
        from include.usecases.card_fraud.world import World

        world = World.of_size(TRANSACTIONS, seed=7, change="harmful", change_on=changes_on)
        # Into its own home, wherever else drops come to otherwise.
        settings = dataclasses.replace(settings, landing=None)
        made = simulate(settings.landing_folder, first=FIRST, nights=HISTORY_NIGHTS + live, world=world)
        tell(f"generated {made.transactions:,} transactions of {HISTORY_NIGHTS + live} days; the world changes on {changes_on}")
    else:
        if not chosen.history:
            raise ConfigurationError("LANDING needs HISTORY=FIRST..LAST, the nights to load at once")
        first, last = nights.parse_range(chosen.history, what="HISTORY")
        settings = dataclasses.replace(settings, landing=str(chosen.landing.expanduser().resolve()))
        story = Story(first, last, live, trained_as_of=last)
        use_case = usecase.registered(settings)[0]
        if PUBLISHED in {recipe.name for recipe in use_case.recipes} and (last - first).days + 1 >= HISTORY_NIGHTS:
            # Neither knows anything of the nights on which the one is judged against the other.
            proving = IMPROVE.nights(use_case.gate) + use_case.label_delay_days + 1
            story = Story(first, last, live, trained_as_of=last - timedelta(days=proving), published=PUBLISHED)
    spans = landing.spans(settings, usecase.registered(settings)[0].feeds)
    settings = dataclasses.replace(settings, feed_spans=spans, local_preemptions=PREEMPTIONS)
    os.environ.update(processes.environment(settings))
    return settings, story


def _refuse_a_used_home(settings: Settings) -> None:
    """A story begins at its beginning: with nights, lists and champions of another one in the home it would be neither."""
    events = tables.silver(usecase.registered(settings)[0].events)
    with suppress(LakehouseError):
        if held := log.extent(settings, events):
            raise ConfigurationError(
                f"{settings.home} holds nights {held[0]}..{held[1]} already, and the demo begins with an empty home: `make clean` deletes "
                "this one, NIGHTSHIFT_HOME=<folder> names another, `make up` goes on with what is there"
            )


def _tell(settings: Settings, story: Story, tell: Teller) -> None:
    use_case = usecase.registered(settings)[0]
    processes.up(settings)
    walk = Walk(settings, use_case)
    tell("everything answers")

    walk.backfill(story.history_first, story.history_last)
    loaded = log.rows_by_night(settings, tables.features(use_case))
    tell(f"history loaded: {sum(loaded.values()):,} rows of {len(loaded)} nights have features; no champion yet, so no list")

    first = {"recipes": [story.published]} if story.published else {}
    _approve(walk, walk.train(story.trained_as_of, preemptions=0, **first), tell)
    if story.trained_as_of < story.history_last:
        walk.backfill(story.trained_as_of + timedelta(days=1), story.history_last, "scores")
        filed = sum(request["state"] == "open" for request in requests.of(settings, use_case)) or "no"
        tell(f"nights {story.trained_as_of + timedelta(days=1)}..{story.history_last} scored and watched with it, {filed} request filed")
    if story.published:
        tell(f"the recipe of our own against the one that is {story.published}, on nights that neither has seen:")
        _approve(walk, walk.train(story.history_last, preemptions=PREEMPTIONS), tell)

    for night in nights.between(story.history_last + timedelta(days=1), story.history_last + timedelta(days=story.live)):
        _night(walk, settings, night, tell)
    _summary(settings, use_case, story, tell)


def _approve(walk: Walk, training: str, tell: Teller) -> None:
    """Follow a training run: what the gate said, and, where it asks, the operator's yes."""
    airflow, dag_id = walk.airflow, walk.dag("train")
    airflow.settled(dag_id, training, "gate")
    trained, report = airflow.xcom(dag_id, training, "choose"), airflow.xcom(dag_id, training, "gate", key="report")
    if not report:
        airflow.wait(dag_id, training)
        tell("training: an earlier run has answered the request already")
        return
    tell(f"trained version {trained['model_version']} in {trained['attempts']} attempts ({trained['preemptions']} machines taken away)")
    for reason in report["reasons"]:
        tell(f"  gate {'passed' if report['passed'] else 'refused'}: {reason}")
    tell(f"  report  {reports.place(walk.settings, report['digest'])}")
    if not report["passed"]:
        airflow.wait(dag_id, training)
        return
    walk.approve(training)
    promoted = airflow.xcom(dag_id, training, "promote")
    tell(f"approved by the operator: version {promoted['model_version']} reigns from night {promoted['from_night']} on")


def _night(walk: Walk, settings: Settings, night: date, tell: Teller) -> None:
    """One night, from the trigger to the watch; and the training that its verdict may start."""
    before = walk.trainings()
    ran = walk.night(night)
    verdict = walk.airflow.xcom(walk.dag("monitor"), ran.runs["monitor"], "watch")
    seconds = f"list after {ran.listed:.0f} s, watched after {ran.watched:.0f} s"
    tell(f"night {night}: {_line(settings, walk.use_case, night, verdict)}; {seconds}")
    if verdict["request_id"]:
        tell(f"  the watch asks for a new model: {'; '.join(verdict['reasons'])}")
        _approve(walk, walk.airflow.wait_for_run(walk.dag("train"), not_among=before), tell)


def _line(settings: Settings, use_case: UseCase, night: date, verdict: dict[str, Any]) -> str:
    ledger = {row["stage"]: row for row in records.read(settings, tables.NIGHTS, day=night, use_case=use_case.name)}
    silver = ledger[f"silver.{use_case.events.name}"]
    listed = log.rows_by_night(settings, tables.alerts(use_case), {"day": [night]}).get(night, 0)
    model = history.champions(settings, use_case, [night]).get(night)
    matured = night - timedelta(days=use_case.label_delay_days)
    week = {
        row["metric"]: row["value"]
        for row in records.read(settings, tables.PERFORMANCE, day=matured, use_case=use_case.name, cohort="week")
    }
    told = "nothing matured"
    if week:
        figures = [week["average_precision"], week["card_precision"]]
        told = "matured week: AP {} card precision {}".format(*("–" if value is None else f"{value:.3f}" for value in figures))
    drifted = ", ".join(verdict["drifted"]) or "none"
    published = f"{listed} listed by version {model}" if model else "nobody reigns, no list"
    return f"{silver['rows_in']:,} landed, {silver['rejected']} quarantined, {published}; {told}; drift: {drifted}"


def _summary(settings: Settings, use_case: UseCase, story: Story, tell: Teller) -> None:
    tell("summary")
    # Whole weeks that do not overlap: the last night of each.
    ends = [story.history_last + timedelta(days=days) for days in range(7, story.live + 1, 7)]
    weeks = records.read(settings, tables.PERFORMANCE, day=ends, use_case=use_case.name, cohort="week") if ends else []
    for metric in ("average_precision", "card_precision"):
        values = [week["value"] for week in weeks if week["metric"] == metric and week["value"] is not None]
        if values:
            tell(f"  {metric} of {len(values)} whole live weeks that have matured: mean {sum(values) / len(values):.4f}")
    for reign in sorted(records.read(settings, tables.CHAMPION_HISTORY, use_case=use_case.name), key=lambda reign: reign["from_night"]):
        tell(f"  version {reign['model_version']} reigns {reign['from_night']}..{reign['until_night'] or ''}, approved by {reign['by']}")
    passwords = json.loads(settings.passwords_file.read_text())
    tell(f"  Airflow  {settings.airflow_url}  user {settings.approver}, password {passwords[settings.approver]}")
    tell(f"  MLflow   {settings.mlflow_url}")
    tell(f'  make sql Q="select * from {tables.alerts(use_case)} order by day desc, rank limit 10"')
    tell("  make down  stops it all; deleting the state folder is a clean start")


if __name__ == "__main__":
    raise SystemExit(main())
