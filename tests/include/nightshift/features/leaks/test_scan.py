"""The leak scan against a zoo of leaky models, each beside an honest one of the same shape, and against the features that we ship.

The zoo is plain SQL (`tests/data/leaks`), which DuckDB computes in milliseconds: all of it is scanned at once, without a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from include.nightshift.errors import ConfigurationError, ContractError
from include.nightshift.features import project
from include.nightshift.features.leaks import __main__ as program
from include.nightshift.features.leaks import scan as scanning
from include.nightshift.features.leaks.changes import Step
from include.nightshift.features.leaks.scan import Compute, Scan, Trial, scan_models
from include.nightshift.features.leaks.world import cuts, made_up
from include.nightshift.features.project import Compiled
from include.nightshift.settings import Settings
from include.nightshift.usecase import Feature, UseCase
from include.usecases.card_fraud.usecase import USE_CASE

ZOO = Path(__file__).parents[4] / "data" / "leaks"
CAUGHT_BY = {
    "rounded_up_window": {"later events", "the target itself"},
    "off_by_one_day": {"later events"},
    "verdict_without_delay": {"unreported verdicts", "late-arriving verdicts"},
    "centred_window": {"later events"},
    "target_encoding_on_all_rows": {"unreported verdicts", "late-arriving verdicts", "the target itself"},
    "global_normalisation": {"later events", "unrelated entities"},
    "event_time_only": {"late-arriving events"},
    "latest_dimension": {"later events"},
}
"""The zoo, and what each of its models moves with at least."""

PLAIN = """
select e.transaction_id, coalesce(sum(h.tx_amount), 0) as amount, coalesce(sum(v.tx_fraud), 0) as frauds
from silver.transactions as e
left join silver.transactions as h
    on e.terminal_id = h.terminal_id and h.tx_datetime <= e.tx_datetime and h.day <= e.day
left join silver.fraud_labels as v
    on h.transaction_id = v.transaction_id and v.reported_at <= e.tx_datetime and v.day <= e.day
group by e.transaction_id
"""
"""Every clock of the definition, once."""
HAPPENED, CAME = "h.tx_datetime <= e.tx_datetime", "h.day <= e.day"
REPORTED, TOLD = "v.reported_at <= e.tx_datetime", "v.day <= e.day"
OFF_BY_LITTLE = {
    "a_microsecond_too_much": (HAPPENED, f"{HAPPENED} + interval 1 microsecond", "later events"),
    "its_whole_hour": (HAPPENED, "date_trunc('hour', h.tx_datetime) <= e.tx_datetime", "later events"),
    "its_whole_night": (HAPPENED, "h.tx_datetime < e.known_at", "later events"),
    "a_night_too_many": (CAME, f"{CAME} + 1", "late-arriving events"),
    "a_verdict_a_microsecond_too_early": (REPORTED, f"{REPORTED} + interval 1 microsecond", "unreported verdicts"),
    "verdicts_of_the_whole_night": (REPORTED, "v.reported_at < e.known_at", "unreported verdicts"),
    "a_night_of_verdicts_too_many": (TOLD, f"{TOLD} + 1", "late-arriving verdicts"),
    "verdicts_whenever_they_came": (TOLD, "true", "late-arriving verdicts"),
}


def asked(models: dict[str, str], use_case: UseCase = USE_CASE) -> Compute:
    """The features of several queries, computed by DuckDB; each column is named `<model>.<column>`."""
    key = use_case.events.key

    def compute(events: pa.Table, verdicts: pa.Table, nights: Sequence[date]) -> pa.Table:
        with duckdb.connect(config={"threads": 1}) as memory:
            memory.execute("set timezone = 'UTC'; create schema silver")
            for feed, table in zip(use_case.feeds, (events, verdicts), strict=True):
                memory.register(f"given_{feed.name}", table)
                memory.execute(f"create table silver.{feed.name} as from given_{feed.name}")
            columns = [f"model_{name}.* exclude ({key}) rename ({renamed(memory, name, query)})" for name, query in models.items()]
            joined = " ".join(f"left join ({query}) as model_{name} using ({key})" for name, query in models.items())
            some = ", ".join(f"date '{night}'" for night in nights)
            query = f"select events.{key}, {', '.join(columns)} from silver.{use_case.events.name} as events {joined} where day in ({some})"
            return memory.sql(query).to_arrow_table()

    def renamed(memory: duckdb.DuckDBPyConnection, name: str, query: str) -> str:
        return ", ".join(f'{column} as "{name}.{column}"' for column in memory.sql(query).columns if column != key)

    return compute


def zoo(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.sql"))}


def moved(scan: Scan) -> dict[str, set[str]]:
    """What moved each model."""
    found: dict[str, set[str]] = {}
    for leak in scan.leaks:
        found.setdefault(leak.feature.split(".")[0], set()).add(leak.perturbation)
    return found


@pytest.fixture(scope="module")
def caught() -> Scan:
    return scanning.scan(USE_CASE, asked(zoo(ZOO)))


@pytest.mark.parametrize("model", CAUGHT_BY)
def test_each_model_of_the_zoo_is_caught_by_what_it_does_wrong(caught: Scan, model: str) -> None:
    assert CAUGHT_BY[model] <= moved(caught)[model]
    assert not caught.passed
    assert any(reason.startswith(f"{model}.") for reason in caught.reasons)


def test_every_column_of_the_zoo_leaks_and_nothing_is_missing(caught: Scan) -> None:
    assert set(zoo(ZOO)) == set(zoo(ZOO / "honest")) == set(CAUGHT_BY)
    assert {leak.feature for leak in caught.leaks} == set(caught.features)


def test_models_that_need_no_verdict_are_not_moved_by_verdicts(caught: Scan) -> None:
    blamed = moved(caught)
    for model in ("off_by_one_day", "centred_window", "event_time_only", "latest_dimension", "global_normalisation"):
        assert not {"unreported verdicts", "late-arriving verdicts", "the target itself", "order of rows"} & blamed[model]


def test_honest_models_of_the_same_shapes_pass() -> None:
    scan = scanning.scan(USE_CASE, asked(zoo(ZOO / "honest")), seeds=(1, 2))
    assert scan.passed, scan.reasons
    assert scan.reasons == (f"{len(scan.features)} features of {scan.probed} events stood still in {scan.worlds} changed worlds",)


def test_a_clock_that_is_off_by_little_is_caught_and_the_right_one_passes() -> None:
    models = {name: PLAIN.replace(right, wrong) for name, (right, wrong, _) in OFF_BY_LITTLE.items()}
    blamed = moved(scanning.scan(USE_CASE, asked({"right": PLAIN, **models})))
    assert "right" not in blamed
    for name, (_, _, perturbation) in OFF_BY_LITTLE.items():
        assert perturbation in blamed[name], name


def test_what_depends_on_the_batch_is_caught_as_other_nights_and_what_on_the_order_as_order_of_rows() -> None:
    honest = asked({"right": PLAIN})

    def compute(events: pa.Table, verdicts: pa.Table, nights: Sequence[date]) -> pa.Table:
        table = honest(events, verdicts, nights)
        rows = range(table.num_rows)
        # The first event of its instant, as the rows happen to lie.
        seen: set[datetime] = set()
        first = {row["transaction_id"]: not (row["tx_datetime"] in seen or seen.add(row["tx_datetime"])) for row in events.to_pylist()}
        table = table.append_column("batch", pa.array([table.num_rows for _ in rows]))
        return table.append_column("is_first", pa.array([int(first[key]) for key in table["transaction_id"].to_pylist()]))

    scan = scanning.scan(USE_CASE, compute)
    assert {"batch", "is_first"} == set(moved(scan))
    assert "other nights" in moved(scan)["batch"]
    assert "order of rows" in moved(scan)["is_first"]


def test_a_feature_that_nothing_moves_is_dead_and_an_event_that_vanishes_is_a_leak() -> None:
    models = {"right": PLAIN, "dead": "select transaction_id, 7 as always from silver.transactions"}
    # An inner join with what is told later: the event has a row only once it was judged.
    lost = "select transaction_id, 1 as judged from silver.fraud_labels where tx_fraud = 1"
    scan = scanning.scan(USE_CASE, asked({**models, "lost": lost}))
    assert scan.dead == ("dead.always",)
    assert "dead.always is dead: nothing that must matter moved it" in scan.reasons
    assert moved(scan).keys() == {"lost"}


def test_a_scan_that_known_verdicts_do_not_move_is_blind_unless_the_models_read_none() -> None:
    models = {"amounts": PLAIN.replace("coalesce(sum(v.tx_fraud), 0)", "count(*)")}
    blind = scanning.scan(USE_CASE, asked(models))
    assert (blind.passed, blind.blind, blind.leaks) == (False, ("verdicts that were known",), ())
    assert scanning.scan(USE_CASE, asked(models), verdicts_matter=False).passed


def test_a_change_that_changes_nothing_is_refused() -> None:
    trial = Trial(USE_CASE, asked({"right": PLAIN}), 1)
    cut = cuts(USE_CASE, trial.world, 1, 1)[0]
    with pytest.raises(ConfigurationError, match="idleness changed nothing"):
        trial.moved("idleness", lambda hand, rows, cut: Step(rows, {1}), cut)
    with pytest.raises(ConfigurationError, match="at least one seed"):
        scanning.scan(USE_CASE, asked({"right": PLAIN}), seeds=())


def test_models_that_lose_or_double_events_are_refused() -> None:
    def lossy(events: pa.Table, verdicts: pa.Table, nights: Sequence[date]) -> pa.Table:
        return events.select(["transaction_id", "tx_amount"]).slice(1)

    def doubling(events: pa.Table, verdicts: pa.Table, nights: Sequence[date]) -> pa.Table:
        return pa.concat_tables([lossy(events, verdicts, nights)] * 2)

    with pytest.raises(ContractError, match=r"1 of \d+ events have no row of features, such as 14000001"):
        scanning.scan(USE_CASE, lossy)
    with pytest.raises(ContractError, match=r"look for a join that doubles rows"):
        scanning.scan(USE_CASE, doubling)


def test_any_use_case_can_be_scanned_from_its_columns_alone(other: UseCase) -> None:
    world = made_up(other, 1).events.to_pylist()
    assert {row["channel"] for row in world} == {"web", "phone"}
    assert min(row["share"] for row in world) >= 0 <= max(row["share"] for row in world) <= 1
    assert any(row["lost_on"] is None for row in world)
    assert any(row["lost_on"] for row in world)
    plain = """
        select e.claim, count(distinct h.claim) as claims, coalesce(sum(v.is_false), 0) as falses, any_value(e.channel = 'web') as is_web
        from silver.claims as e
        join silver.claims as h on h.policy_id = e.policy_id and h.filed_at <= e.filed_at and h.day <= e.day
        left join silver.findings as v on v.claim = h.claim and v.found_at <= e.filed_at and v.day <= e.day
        group by e.claim
    """
    models = {"right": plain, "wrong": plain.replace("v.found_at <= e.filed_at", "true")}
    scan = scanning.scan(other, asked(models, other))
    assert {leak.feature for leak in scan.leaks} == {"wrong.falses"}
    assert "unreported verdicts" in moved(scan)["wrong"]
    assert scan.dead == ()


def test_the_report_names_every_feature_and_the_program_ends_with_1(
    caught: Scan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = str(caught)
    assert told.startswith("card_fraud: FAILED")
    assert all(f"  {feature} " in told for feature in caught.features)

    passed = replace(caught, leaks=())
    for scans, code in (([passed], 0), ([passed, caught], 1)):
        monkeypatch.setattr(program, "_scans", lambda *_, scans=scans: scans)
        assert program.main([]) == code
    assert program.main(["--use-case", "nobody"]) == 1
    assert "nightshift: use case 'nobody' is not registered" in capsys.readouterr().err


@pytest.mark.lakehouse
def test_the_features_that_we_ship_do_not_leak_and_none_is_dead(session: SparkSession, installation: Settings, use_case: UseCase) -> None:
    scan = scan_models(session, installation, use_case)
    assert scan.passed, scan.reasons
    assert set(scan.features) == set(use_case.feature_names)
    assert scan.probed > 1000


@pytest.mark.lakehouse
def test_leaks_planted_in_a_model_are_caught_on_spark_and_so_is_a_feature_of_the_partition(
    session: SparkSession, installation: Settings, use_case: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = """
        select e.transaction_id, first(e.tx_amount) as amount, count(v.transaction_id) as frauds, first(e.piece) as piece
        from (select *, spark_partition_id() as piece from silver.transactions) as e
        left join silver.transactions as h on e.terminal_id = h.terminal_id and h.tx_datetime < e.tx_datetime and h.day <= e.day
        left join silver.fraud_labels as v on h.transaction_id = v.transaction_id and v.tx_fraud = 1
        where e.day between date'{first_night}' and date'{last_night}'
        group by e.transaction_id
    """
    monkeypatch.setattr(project, "compiled", lambda *_: Compiled((("planted", planted),)))
    features = tuple(Feature(name, "F.") for name in ("amount", "frauds", "piece"))
    blamed = moved(scan_models(session, installation, replace(use_case, features=features, recipes=use_case.trained), cuts_each=1))
    assert blamed.keys() == {"frauds", "piece"}
    assert "unreported verdicts" in blamed["frauds"]
    assert "order of rows" in blamed["piece"]
    assert not [view for view in session.catalog.listTables() if view.name.startswith("leaks_")]
