"""Nights made again from bronze, on the real lakehouse: equal to what was published, also when bronze was landed again and vacuumed since;
and each thing that somebody altered is found, with its table, rows and columns."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from pyspark.sql import SparkSession

from bench.courts import Court
from include.nightshift.errors import ReplayError
from include.nightshift.features import build
from include.nightshift.ingest import ingest
from include.nightshift.lakehouse import log, maintenance, pins, records, tables
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.promote import registry
from include.nightshift.promote.trust import Reigning
from include.nightshift.replay import replay
from include.nightshift.score import publications, scores
from include.nightshift.score.publications import Decision
from include.nightshift.settings import Settings
from include.nightshift.train import models
from include.nightshift.usecase import Feed, UseCase

pytestmark = [pytest.mark.lakehouse, pytest.mark.timeout(900)]

FIRST = date(1999, 5, 1)
"""Before the nights of all other tests: bronze of every night before is rebuilt too."""
NIGHTS = [FIRST + timedelta(days=n) for n in range(10)]
SCORED = NIGHTS[2:]
HELD = SCORED[2]
A_NIGHT = 30
VERSION, LATER = "51", "52"
"""The champion of the scored nights, and that of the last."""


def land(settings: Settings, feed: Feed, night: date, rows: Sequence[Sequence[object]]) -> None:
    path = settings.landing_folder / feed.name / f"{night}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ",".join(column.name for column in feed.columns)
    path.write_bytes(gzip.compress("\n".join([header, *(",".join(map(str, row)) for row in rows), ""]).encode(), mtime=0))


def events(night: date) -> list[tuple[object, ...]]:
    """Thirty of ten cards at four terminals; one that came before, and one without an amount."""
    dice, first = np.random.default_rng(night.toordinal()), 9_600_000 + (night - FIRST).days * A_NIGHT
    rows: list[tuple[object, ...]] = [
        (first + n, f"{night} {n % 24:02}:30:00", 9600 + n % 10, 9680 + int(dice.integers(0, 4)), f"{dice.lognormal(3, 1):.2f}")
        for n in range(A_NIGHT)
    ]
    return [
        *rows,
        (max(first - 1, 9_600_000), f"{night} 23:00:00", 9600, 9680, "7.00"),
        (first + 900_000, f"{night} 23:00:00", 9600, 9680, ""),
    ]


def verdicts(night: date) -> list[tuple[object, ...]]:
    of = night - timedelta(days=7)
    return [(row[0], int(place % 10 < 2), f"{night} 09:00:00") for place, row in enumerate(events(of)[:A_NIGHT])]


@dataclass(frozen=True)
class Lake:
    """Eight published nights, of which one was held and shows the list before it."""

    session: SparkSession
    settings: Settings
    use_case: UseCase
    court: Court

    def publish(self, nights: Sequence[date]) -> None:
        """As the tasks do, in one go, as a backfill does."""
        build.build(self.session, self.settings, self.use_case, nights)
        models = scores.score(self.session, self.settings, self.use_case, nights).reigning
        decisions = [self.decided(night, model) for night, model in models.items()]
        publications.publish(self.session, self.settings, self.use_case, decisions)

    def decided(self, night: date, model: Reigning) -> Decision:
        whose = {"night": night, "model_version": model.version, "model_sha256": model.model_sha256}
        if night == HELD:
            return Decision(state="held", mark="stale", reasons=("too few rows",), **whose)  # type: ignore[arg-type]
        return Decision(state="published", **whose)  # type: ignore[arg-type]

    def alter(self, table: tables.Table, night: date, change: str) -> None:
        self.session.sql(f"update {table} set {change} and day = date'{night}'")


@pytest.fixture(scope="module")
def lake(installation: Settings, use_case: UseCase) -> Iterator[Lake]:
    court = Court(installation.home)
    lake = Lake(lakehouse.connect(installation), installation, use_case, court)
    for night in NIGHTS:
        land(installation, use_case.events, night, events(night))
        if night >= NIGHTS[7]:
            land(installation, use_case.labels, night, verdicts(night))
    ingest(lake.session, installation, use_case.events, NIGHTS)
    ingest(lake.session, installation, use_case.labels, NIGHTS[7:])
    for version, night in ((VERSION, SCORED[0]), (LATER, SCORED[-1])):
        court.booster(version)
        court.enthroned(version, night)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "client", lambda settings: court.alias)
        lake.publish(SCORED)
        yield lake
    court.dissolved()


def test_nights_are_what_was_published_but_for_what_was_altered_since(lake: Lake) -> None:
    use_case, settings = lake.use_case, lake.settings
    features, scored, alerts = (table(use_case) for table in (tables.features, tables.scores, tables.alerts))
    again, other, rank, digest, gone = SCORED[0], SCORED[1], SCORED[3], SCORED[4], SCORED[-1]
    # The file of a night before them all comes anew, with another amount; then all that nobody pinned is taken.
    anew = NIGHTS[1]
    changed = [(*row[:4], "999.00") if place == 3 else row for place, row in enumerate(events(anew))]
    land(settings, use_case.events, anew, changed)
    ingest(lake.session, settings, use_case.events, [anew])
    bronze = tables.bronze(use_case.events)
    assert any(pin.why == f"{anew} landed again" for pin in pins.held(settings, bronze, datetime.now(UTC).date()))
    maintenance.maintain_table(lake.session, settings, bronze, keep_days=0, in_flight=timedelta(0))

    name = use_case.feature_names[0]
    lake.alter(features, other, f"{name} = {name} + 2.5 where transaction_id = {events(other)[4][0]}")
    lake.alter(scored, again, f"score = 0.5 where transaction_id = {events(again)[0][0]}")
    lake.alter(alerts, rank, "customer_id = 4711 where rank = 3")
    [known] = records.read(settings, tables.PUBLICATIONS, day=digest)
    records.replace(settings, tables.PUBLICATIONS, [known | {"scores_digest": "0" * 64}], {"day": [digest]})
    last = settings.home / "models" / use_case.name / LATER
    for folder in [folder for folder in settings.home.glob("champions/*/*") if models.sha256(folder) == models.sha256(last)] + [last]:
        (folder / "model.ubj").write_bytes(b"another")

    before = {table: log.version(settings, table) for table in tables.of(use_case)}
    found = {each.night: each for each in replay(settings, use_case, NIGHTS, cores=1)}
    assert {table: log.version(settings, table) for table in tables.of(use_case)} == before
    assert not list((settings.home / "staging").glob("replay-*"))

    altered = dict.fromkeys((again, other, rank, digest), "differs") | {gone: "lost"}
    said = {night: "; ".join(each.reasons) for night, each in found.items()}
    assert {night: each.outcome for night, each in found.items()} == dict.fromkeys(SCORED, "equal") | altered, said
    assert not any(said[night] for night in set(SCORED) - set(altered))
    assert (
        f"{features}, of {A_NIGHT} rows rebuilt: {name} is another in 1 (by 2.5 at most); other: transactions/{other}.csv.gz:5;"
        in said[other]
    )
    assert "the tables were changed since" in said[other]
    assert f"(UPDATE) changed night {other} last" in said[other]
    assert f"{scored}, of {A_NIGHT} rows rebuilt: score is another in 1" in said[again]
    assert f"other: transactions/{again}.csv.gz:1" in said[again]
    assert "customer_id is another in 1; other: rank 3" in said[rank]
    assert "scores: published as 000000000000, rebuilt as" in said[digest]
    assert "the record of the publication, or they and bronze alike, were changed since" in said[digest]
    assert "its model cannot be had: model card_fraud version 52" in said[gone]

    kept = {record["day"]: record for record in records.read(settings, tables.REPLAYS, day=list(NIGHTS))}
    assert {night: record["outcome"] for night, record in kept.items()} == {night: each.outcome for night, each in found.items()}
    published = {record["day"]: record for record in records.read(settings, tables.PUBLICATIONS, day=list(SCORED))}
    for night in set(SCORED) - {digest, gone}:
        assert all(kept[night][column] == published[night][column] for column in publications.DIGESTS), night
    assert {record["cores"] for record in kept.values()} == {1}


def test_nights_without_a_list_cannot_be_replayed(lake: Lake) -> None:
    with pytest.raises(ReplayError, match=rf"nights {NIGHTS[0]}\.\.{NIGHTS[1]}: ops.publications has no list of any of them"):
        replay(lake.settings, lake.use_case, NIGHTS[:2])
