"""From scores to the morning's list on the real lakehouse: what is sound is published, and each fault, planted where it would come from,
ends as its kind says; none is published as if nothing were wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake
from pyarrow import parquet
from pyspark.sql import SparkSession

from bench.courts import Court
from include.nightshift import nights as nights_module
from include.nightshift.errors import PublicationError
from include.nightshift.features import build, parity
from include.nightshift.lakehouse import chain, log, records, storage, tables, writes
from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.promote import registry, trust
from include.nightshift.score import decide, held, publications, scores
from include.nightshift.score.publications import Decision, Published
from include.nightshift.settings import Settings
from include.nightshift.train import models
from include.nightshift.usecase import UseCase

pytestmark = pytest.mark.lakehouse

FIRST = date(2003, 5, 1)
NIGHTS = [FIRST + timedelta(days=n) for n in range(10)]
YESTERDAY, TONIGHT = NIGHTS[-2:]
A_NIGHT = 40
"""Rows of a night."""
BEFORE, CHAMPION = "31", "32"
"""The champion of all nights but the last two, and theirs."""


def silver() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ten nights of twenty cards and four terminals; the verdicts say fraud of three cards, which no list has."""
    dice = np.random.default_rng(5)
    events, verdicts = [], []
    for n in range(len(NIGHTS) * A_NIGHT):
        night = NIGHTS[n // A_NIGHT]
        at = datetime.combine(night, datetime.min.time(), UTC) + timedelta(minutes=int(dice.integers(0, 1440)))
        key, amount = 9_300_000 + n, Decimal(str(round(float(dice.lognormal(3, 1)), 2)))
        ids = {"transaction_id": key, "customer_id": 9300 + n % 20, "terminal_id": 9380 + int(dice.integers(0, 4))}
        events.append({"day": night, "tx_datetime": at, "tx_amount": amount, "known_at": nights_module.known_at(night)} | ids)
        told = night + timedelta(days=7)
        if told in NIGHTS:
            verdict = {"day": told, "transaction_id": key, "tx_fraud": int(n % 20 < 3), "reported_at": at + timedelta(days=7)}
            verdicts.append(verdict | {"known_at": nights_module.known_at(told)})
    return events, verdicts


@dataclass(frozen=True)
class Lake:
    """The lake, and what tests do with it."""

    session: SparkSession
    settings: Settings
    use_case: UseCase
    court: Court

    def sql(self, statement: str, *of: tables.Table) -> None:
        self.session.sql(statement.format(*of))

    def restore(self, table: tables.Table, version: int) -> None:
        """Without the server, which takes five seconds for it."""
        now = log.opened(self.settings, table)
        if now.version() != version:
            now.restore(version)

    def score(self) -> None:
        """Score yesterday and tonight as the task does."""
        scores.score(self.session, self.settings, self.use_case, [YESTERDAY, TONIGHT])

    def decide(self, night: date = TONIGHT) -> Decision:
        """As the tasks `parity` and `guard` do."""
        parity.check(self.session, self.settings, self.use_case, [night])
        [decision] = decide.decide(self.session, self.settings, self.use_case, [night])
        return decision

    def publish(self, decision: Decision, by: str | None = None) -> Published:
        return publications.publish(self.session, self.settings, self.use_case, [decision], triggered_by=by)[decision.night]

    def listed(self, night: date = TONIGHT) -> list[dict[str, Any]]:
        """What is out for the night, in order."""
        rows = log.columns(self.settings, self.alerts, self.alerts.names, {"day": [night]}).to_pylist()
        return sorted(rows, key=lambda row: int(row["rank"]))

    def published(self, night: date = TONIGHT) -> list[dict[str, Any]]:
        """Its rows of `ops.publications`, in order."""
        found = records.read(self.settings, tables.PUBLICATIONS, day=night, use_case=self.use_case.name)
        return sorted(found, key=lambda record: int(record["revision"]))

    @property
    def features(self) -> tables.Table:
        return tables.features(self.use_case)

    @property
    def scores(self) -> tables.Table:
        return tables.scores(self.use_case)

    @property
    def alerts(self) -> tables.Table:
        return tables.alerts(self.use_case)


@pytest.fixture(scope="module")
def built(installation: Settings, use_case: UseCase) -> Iterator[Lake]:
    """The lake with both nights scored by their champion, and yesterday's list out."""
    session = lakehouse.connect(installation)
    for feed, made in zip(use_case.feeds, silver(), strict=True):
        frame = writes.in_memory(session, tables.silver(feed).arrow(made))
        writes.replace(session, installation, tables.silver(feed), frame, {"day": NIGHTS}, rows_expected=len(made))
    build.build(session, installation, use_case, NIGHTS)
    court = Court(installation.home)
    for version, night in ((BEFORE, FIRST), (CHAMPION, YESTERDAY)):
        court.booster(version)
        court.enthroned(version, night)
    lake = Lake(session, installation, use_case, court)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "client", lambda settings: court.alias)
        # So that its verified copy is there, as it is after the nights over which it reigned.
        scores.score(session, installation, use_case, [FIRST])
        lake.score()
        lake.publish(lake.decide(YESTERDAY))
        yield lake
    court.dissolved()


@pytest.fixture
def lake(built: Lake) -> Iterator[Lake]:
    """The lake, which a test may damage: tables go back to what they were."""
    tampered = (*map(tables.silver, built.use_case.feeds), built.features, built.scores, built.alerts)
    before = {table: log.version(built.settings, table) for table in tampered}
    yield built
    if (away := built.settings.home / "away").exists():
        away.rename(built.settings.home / "models" / built.use_case.name / CHAMPION)
    for table, version in before.items():
        built.restore(table, version)
    for table in (tables.PUBLICATIONS, tables.PARITY):
        records.replace(built.settings, table, [], {"day": [TONIGHT], "use_case": [built.use_case.name]})


NIGHT = f"day = date'{TONIGHT}'"


def missing_partition(lake: Lake) -> None:
    lake.sql(f"delete from {{}} where {NIGHT}", lake.features)
    lake.score()


def doubled_rows(lake: Lake) -> None:
    lake.sql(f"insert into {{0}} select * from {{0}} where {NIGHT}", lake.features)
    lake.score()


def shuffled_columns(lake: Lake) -> None:
    one, other = lake.use_case.feature_names[0], lake.use_case.feature_names[3]
    lake.sql(f"update {{}} set {one} = {other}, {other} = {one} where {NIGHT}", lake.features)
    lake.score()


def columns_shuffled_on_the_way_to_the_model(lake: Lake) -> None:
    before = log.version(lake.settings, lake.features)
    shuffled_columns(lake)
    lake.restore(lake.features, before)


def not_a_number(lake: Lake) -> None:
    lake.sql(f"update {{}} set score = double('NaN') where {NIGHT} and transaction_id % 5 = 0", lake.scores)


def constant(lake: Lake) -> None:
    lake.sql(f"update {{}} set score = 0.5 where {NIGHT}", lake.scores)


def stale_model(lake: Lake) -> None:
    scores.again(lake.session, lake.settings, lake.use_case, trust.verified(lake.settings, lake.use_case, BEFORE), [TONIGHT])


def wrong_scale(lake: Lake) -> None:
    lake.sql(f"update {{}} set score = score * 100 where {NIGHT}", lake.scores)


def half_the_rows(lake: Lake) -> None:
    for table in (tables.silver(lake.use_case.events), lake.features):
        lake.sql(f"delete from {{}} where {NIGHT} and transaction_id % 2 = 0", table)
    lake.score()


def wrong_night(lake: Lake) -> None:
    for table in (tables.silver(lake.use_case.events), lake.features):
        lake.sql(f"update {{}} set tx_datetime = tx_datetime - interval 1 day where {NIGHT}", table)


def registry_down(lake: Lake) -> None:
    # Nothing of the champion is here, and nobody answers who could send it.
    for folder in lake.settings.home.glob("champions/*/*"):
        if f'"version": "{CHAMPION}"' in (folder / "verified.json").read_text():
            shutil.rmtree(folder)
    (lake.settings.home / "models" / lake.use_case.name / CHAMPION).rename(lake.settings.home / "away")
    lake.score()


FAULTS: dict[Callable[[Lake], None], tuple[str, str, str]] = {
    missing_partition: ("held", "stale", "whole"),
    doubled_rows: ("held", "stale", "single"),
    shuffled_columns: ("held", "stale", "parity"),
    half_the_rows: ("held", "stale", "volume"),
    wrong_night: ("held", "stale", "own_night"),
    columns_shuffled_on_the_way_to_the_model: ("marked", "fallback", "anew"),
    not_a_number: ("marked", "fallback", "numbers"),
    constant: ("marked", "fallback", "apart"),
    stale_model: ("marked", "fallback", "version"),
    wrong_scale: ("marked", "fallback", "numbers"),
    registry_down: ("marked", "fallback", f"version {CHAMPION}"),
}
"""What becomes of the list, its mark, and the word that must be among the reasons."""


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_ends_as_its_kind_says_and_is_never_published_unmarked(lake: Lake, plant: Callable[[Lake], None]) -> None:
    state, mark, word = FAULTS[plant]
    yesterday = lake.listed(YESTERDAY)
    assert yesterday
    plant(lake)
    decision = lake.decide()
    assert (decision.state, decision.mark) == (state, mark), decision.reasons
    assert word in " ".join(decision.reasons)

    out = lake.publish(decision)
    listed = lake.listed()
    assert out.rows == len(listed) > 0
    assert {(row["mark"], row["revision"]) for row in listed} == {(mark, 1)}
    assert all(word in row["marked_because"] for row in listed)
    [record] = lake.published()
    assert (record["state"], record["mark"], record["revision"], record["rows"]) == (state, mark, 1, len(listed))
    if state == "held":
        people = lake.use_case.entity
        assert [(row["rank"], row[people], row["score"]) for row in listed] == [
            (row["rank"], row[people], row["score"]) for row in yesterday
        ]
        assert f"the list of night {YESTERDAY} stands" in listed[0]["marked_because"]
    else:
        assert all(0 < row["score"] < 1 for row in listed)
        assert len({row["score"] for row in listed}) > 1


def test_a_sound_night_is_published_unmarked_with_all_that_it_was_made_from_and_asked_for_again_commits_nothing(lake: Lake) -> None:
    decision = lake.decide()
    assert (decision.state, decision.mark, decision.reasons) == ("published", None, ())
    out = lake.publish(decision)
    assert {(row["mark"], row["marked_because"], row["revision"]) for row in lake.listed()} == {(None, None, 1)}
    [record] = lake.published()
    assert (record["state"], record["model_version"], record["rows"]) == ("published", CHAMPION, len(lake.listed()))
    assert record["model_sha256"] == decision.model_sha256
    scored = log.columns(lake.settings, lake.scores, ["features_version"], {"day": [TONIGHT], "role": ["champion"]})
    assert {record["features_version"]} == set(scored.column("features_version").to_pylist())
    assert all(len(record[f"{name}_digest"]) == 64 for name in ("features", "scores", "alerts"))
    versions = [log.version(lake.settings, table) for table in (lake.scores, lake.alerts, tables.PUBLICATIONS, tables.PARITY)]
    lake.score()
    assert lake.publish(lake.decide()) == out
    assert [log.version(lake.settings, table) for table in (lake.scores, lake.alerts, tables.PUBLICATIONS, tables.PARITY)] == versions


def test_without_a_list_before_it_a_held_night_has_none(lake: Lake) -> None:
    lake.sql("delete from {} where day < date'2003-06-01'", lake.alerts)
    doubled_rows(lake)
    out = lake.publish(lake.decide())
    assert (out.state, out.rows, lake.listed()) == ("held", 0, [])
    assert [(record["state"], record["rows"]) for record in lake.published()] == [("held", 0)]
    assert lake.publish(lake.decide()).revision == 1


def test_nights_that_are_held_one_after_another_keep_the_last_good_list(lake: Lake) -> None:
    doubled_rows(lake)
    decision = lake.decide()
    lake.publish(decision)
    records_of = {row["customer_id"] for row in lake.listed(YESTERDAY)}
    assert {row["customer_id"] for row in lake.listed()} == records_of
    assert lake.listed()[0]["day"] == YESTERDAY + timedelta(days=1)


def test_a_list_is_published_again_by_another_verified_model_as_the_next_revision(lake: Lake) -> None:
    lake.publish(lake.decide())
    before = [row["customer_id"] for row in lake.listed()]
    model = trust.verified(lake.settings, lake.use_case, BEFORE)
    decision = decide.rescored(lake.session, lake.settings, lake.use_case, TONIGHT, model)
    assert (decision.state, decision.model_version) == ("published", BEFORE)
    out = publications.republish(lake.session, lake.settings, lake.use_case, decision, "rolled back to 31")
    assert out.revision == 2
    assert {(row["model_version"], row["revision"], row["marked_because"]) for row in lake.listed()} == {(BEFORE, 2, "rolled back to 31")}
    assert [row["customer_id"] for row in lake.listed()] != before
    assert [record["model_version"] for record in lake.published()] == [CHAMPION, BEFORE]


def test_a_held_list_is_let_out_by_a_second_person_once_as_what_it_is(lake: Lake) -> None:
    half_the_rows(lake)
    lake.publish(lake.decide(), by="operator")

    def release(by: str, act_id: str = "run 1") -> Published:
        return held.release(lake.session, lake.settings, lake.use_case, TONIGHT, by=by, why="a holiday", act_id=act_id)

    with pytest.raises(PublicationError, match="a second person"):
        release("operator")
    out = release("admin")
    assert (out.revision, out.mark) == (2, publications.ANYWAY)
    assert {row["mark"] for row in lake.listed()} == {"anyway"}
    assert all("admin published it anyway: a holiday" in row["marked_because"] for row in lake.listed())
    assert release("admin") == out
    acts = records.read(lake.settings, tables.ACTS, act="publish_anyway", night=TONIGHT)
    assert [(act["by"], act["why"], act["use_case"]) for act in acts] == [("admin", "a holiday", lake.use_case.name)]
    # Judged again and held again, it stays out.
    assert lake.publish(lake.decide()) == out
    with pytest.raises(PublicationError, match="marked, not held"):
        release("admin", "run 2")


def test_scores_that_changed_since_they_were_held_are_not_let_out(lake: Lake) -> None:
    half_the_rows(lake)
    lake.publish(lake.decide())
    constant(lake)
    with pytest.raises(PublicationError, match="others than those that were held"):
        held.release(lake.session, lake.settings, lake.use_case, TONIGHT, by="admin", why="a holiday", act_id="run 3")
    assert {row["mark"] for row in lake.listed()} == {"stale"}


def test_where_no_champion_is_sound_the_baseline_lists_and_without_one_the_night_is_held(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant(lake)
    real = trust.instead

    def no_champion(*asked: Any) -> trust.Reigning | None:
        model = real(*asked)
        while model and model.mark != trust.BASELINE:
            settings, use_case, night, refused, because = asked
            asked = (settings, use_case, night, {*refused, model.version}, because)
            model = real(*asked)
        return model

    monkeypatch.setattr(trust, "instead", no_champion)
    decision = lake.decide()
    assert (decision.state, decision.mark, decision.model_version) == ("marked", "baseline", f"{CHAMPION}-baseline")
    lake.publish(decision)
    assert {row["model_version"] for row in lake.listed()} == {f"{CHAMPION}-baseline"}
    constant(lake)
    monkeypatch.setattr(trust, "instead", lambda *asked: None)
    decision = lake.decide()
    assert (decision.state, decision.reasons[-1]) == ("held", "no verified model is left that could score the night")


def places(lake: Lake, version: str) -> list[Path]:
    """Where a model lies, verified copies included."""
    kept = [path.parent for path in lake.settings.home.glob("champions/*/*/verified.json") if f'"version": "{version}"' in path.read_text()]
    return [lake.settings.home / "models" / lake.use_case.name / version, *kept]


def inserted(lake: Lake, table: tables.Table, like: str, **other: Any) -> None:
    """A row like that of a version's, with other values, put into a chained table past all that writes it."""
    [row] = [row for row in records.read(lake.settings, table, use_case=lake.use_case.name) if row["model_version"] in (like, None)][-1:]
    write_deltalake(storage.location(lake.settings, table), table.arrow([row | other]), mode="append")


def move_the_alias(lake: Lake) -> None:
    lake.court.alias.set_registered_model_alias(lake.use_case.name, registry.ALIAS, BEFORE)


def overwrite_the_registrys_bytes(lake: Lake) -> None:
    shutil.copy(places(lake, BEFORE)[0] / "model.ubj", places(lake, CHAMPION)[0] / "model.ubj")


def overwrite_every_copy(lake: Lake) -> None:
    for folder in places(lake, CHAMPION):
        shutil.copy(places(lake, BEFORE)[0] / "model.ubj", folder / "model.ubj")


def insert_an_approval(lake: Lake) -> None:
    # Of a model that nobody judged, with a report and a reign to go with it.
    sha256 = models.sha256(lake.court.booster("33"))
    for table in (tables.GATE_REPORTS, tables.APPROVALS, tables.CHAMPION_HISTORY):
        known = {"model_version": "33", "report_digest": "f" * 64}
        inserted(lake, table, CHAMPION, **known, **({"model_sha256": sha256} if "model_sha256" in table.names else {}))


def insert_a_sealed_approval(lake: Lake) -> None:
    # As above, but sealed as if it had come by the way of all rows, by somebody who read the code.
    digest = lake.court.judged("33")
    lake.court.answered(digest, by="nobody")


def edit_a_row_of_history(lake: Lake) -> None:
    lake.sql(f"update {{}} set model_version = '{BEFORE}' where model_version = '{CHAMPION}'", tables.CHAMPION_HISTORY)


def edit_history_so_that_all_fits(lake: Lake) -> None:
    [before] = [row for row in records.read(lake.settings, tables.CHAMPION_HISTORY) if row["model_version"] == BEFORE]
    same = ", ".join(f"{name} = '{before[name]}'" for name in ("model_version", "model_sha256", "report_digest"))
    lake.sql(f"update {{}} set {same} where model_version = '{CHAMPION}'", tables.CHAMPION_HISTORY)


def edit_a_feature(lake: Lake) -> None:
    name = lake.use_case.feature_names[0]
    lake.sql(f"update {{}} set {name} = {name} + 3 where {NIGHT} and transaction_id = {9_300_000 + 9 * A_NIGHT}", lake.features)


def edit_a_feature_file(lake: Lake) -> None:
    """In place: the log is as it was, and so is the size that it says."""
    version = log.version(lake.settings, lake.features)
    [uri] = [uri for uri in log.opened(lake.settings, lake.features, version).file_uris() if f"day={TONIGHT}" in uri]
    path = Path(uri)
    rows, size, name = parquet.ParquetFile(path).read(), path.stat().st_size, lake.use_case.feature_names[0]
    changed = pc.add(rows[name], pa.array([3.0] + [0.0] * (len(rows) - 1)))
    changed_rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), changed)
    # All that is not needed is left out, for the size is made up with nothing before the footer.
    small = {"compression": "zstd", "compression_level": 19, "write_statistics": False, "store_schema": False}
    small["use_deprecated_int96_timestamps"] = True  # as Spark writes them
    parquet.write_table(changed_rows.replace_schema_metadata(), path, **small)
    made = path.read_bytes()
    footer = int.from_bytes(made[-8:-4], "little") + 8
    assert len(made) <= size
    path.write_bytes(made[:-footer] + bytes(size - len(made)) + made[-footer:])
    path.with_name(f".{path.name}.crc").unlink()


ATTACKS: dict[tuple[Callable[[Lake], None], ...], str | None] = {
    (move_the_alias, overwrite_the_registrys_bytes, insert_a_sealed_approval): None,
    (insert_an_approval,): "ops.approvals",
    (overwrite_every_copy,): None,
    (edit_a_row_of_history,): "ops.champion_history",
    (edit_history_so_that_all_fits,): "ops.champion_history",
    (edit_a_feature,): None,
    (edit_a_feature_file,): None,
}
"""What is done at once, and the chained table of which a row must be named. The first ones neither change a list nor mark it, so they
may be done together."""


@pytest.fixture
def attacked(lake: Lake, tmp_path: Path) -> Iterator[Lake]:
    """The lake; what attacks change beside tables of the walk goes back to what it was, too."""
    chained = (tables.GATE_REPORTS, tables.APPROVALS, tables.CHAMPION_HISTORY)
    before = {table: records.read(lake.settings, table) for table in chained}
    files = {path: path.read_bytes() for path in Path(storage.location(lake.settings, lake.features)).glob(f"day={TONIGHT}/*.parquet")}
    for name in ("models", "champions"):
        shutil.copytree(lake.settings.home / name, tmp_path / name)
    yield lake
    for table, rows in before.items():
        records.amend(lake.settings, table, lambda held, rows=rows: rows)  # type: ignore[misc]
    for path, content in files.items():
        path.write_bytes(content)
    for name in ("models", "champions"):
        shutil.rmtree(lake.settings.home / name)
        shutil.move(tmp_path / name, lake.settings.home / name)
    lake.court.alias.set_registered_model_alias(lake.use_case.name, registry.ALIAS, CHAMPION)


def list_of_the_night(lake: Lake) -> list[tuple[Any, ...]]:
    """Scored, judged and published as a night is."""
    lake.score()
    lake.publish(lake.decide())
    return [tuple(row[name] for name in ("rank", "customer_id", "score", "model_version")) for row in lake.listed()]


@pytest.fixture(scope="module")
def untouched(built: Lake) -> list[tuple[Any, ...]]:
    """The night's list where nobody did anything."""
    listed = list_of_the_night(built)
    assert listed
    assert {row["mark"] for row in built.listed()} == {None}
    return listed


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[0].__name__)
def test_whatever_somebody_in_a_tasks_place_does_the_list_is_what_it_was_or_marked(
    untouched: list[tuple[Any, ...]], attacked: Lake, attack: tuple[Callable[[Lake], None], ...]
) -> None:
    for act in attack:
        act(attacked)
    listed, marks = list_of_the_night(attacked), {row["mark"] for row in attacked.listed()}
    if attack[0] is move_the_alias:
        assert marks == {None}
    assert listed == untouched if marks == {None} else None not in marks, marks
    named = {fault.table for fault in chain.verify(attacked.settings)}
    assert named >= {ATTACKS[attack]} - {None}
