"""The drops of a simulated world: same seed, same bytes; all of a file or none; and reports that know no future."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from include.nightshift.errors import ConfigurationError, ContractError
from include.nightshift.nights import between
from include.usecases.card_fraud.reporting import AllAfter, Listed, Verdicts
from include.usecases.card_fraud.simulator import main, simulate
from include.usecases.card_fraud.usecase import USE_CASE
from include.usecases.card_fraud.world import Change, Day, Kind, Simulator, World

FIRST = date(2026, 1, 1)
CHANGE = date(2026, 3, 1)
SMALL = World.of_size(400)


def read(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def bytes_under(landing: Path) -> dict[str, bytes]:
    return {str(file.relative_to(landing)): file.read_bytes() for file in landing.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landing")
    simulate(folder, first=FIRST, nights=12, world=SMALL)
    return folder


def test_same_seed_gives_same_bytes_and_another_seed_does_not(landing: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", first=FIRST, nights=12, world=SMALL)
    simulate(tmp_path / "other", first=FIRST, nights=12, world=replace(SMALL, seed=8))
    assert bytes_under(tmp_path / "again") == bytes_under(landing)
    assert not set(bytes_under(tmp_path / "other").values()) & set(bytes_under(landing).values())


def test_a_night_alone_has_the_bytes_it_has_in_a_range(landing: Path, tmp_path: Path) -> None:
    night = FIRST + timedelta(days=9)
    simulate(tmp_path, first=night, nights=1, world=SMALL, since=FIRST)
    alone = bytes_under(tmp_path)
    assert sorted(alone) == [f"fraud_labels/{night}.csv.gz", f"transactions/{night}.csv.gz"]
    assert alone.items() <= bytes_under(landing).items()


def test_files_hold_no_name_and_no_time_of_their_own_and_nothing_unfinished_stays(landing: Path) -> None:
    for name, content in bytes_under(landing).items():
        assert content[3] == 0, "the header's flags: no file name, no comment"
        assert content[4:8] == bytes(4), "the header's modification time"
        assert name.endswith(".csv.gz")
        assert not Path(name).name.startswith(".")


def test_a_write_that_fails_leaves_the_earlier_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(tmp_path, first=FIRST, nights=1, world=SMALL)
    before = bytes_under(tmp_path)

    def full(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        simulate(tmp_path, first=FIRST, nights=1, world=replace(SMALL, seed=8))
    assert bytes_under(tmp_path) == before


def test_columns_are_those_the_use_case_reads(landing: Path) -> None:
    for feed in USE_CASE.feeds:
        rows = read(landing / feed.name / "2026-01-10.csv.gz")
        assert list(rows[0]) == [column.name for column in feed.columns]


def test_transactions_stand_in_order_on_their_day_with_two_decimals(landing: Path) -> None:
    seen: list[int] = []
    for night in between(FIRST, FIRST + timedelta(days=11)):
        rows = read(landing / "transactions" / f"{night}.csv.gz")
        times = [datetime.strptime(row["tx_datetime"], "%Y-%m-%d %H:%M:%S") for row in rows]
        assert {time.date() for time in times} == {night}
        assert times == sorted(times)
        seen += [int(row["transaction_id"]) for row in rows]
        assert all(len(row["tx_amount"].partition(".")[2]) == 2 and float(row["tx_amount"]) > 0 for row in rows)
    assert seen == sorted(set(seen))


def test_every_verdict_comes_seven_days_later_to_the_second_and_is_true(landing: Path) -> None:
    simulator = Simulator(SMALL)
    assert sorted(file.name for file in (landing / "fraud_labels").iterdir())[0] == "2026-01-08.csv.gz"
    for night in between(FIRST + timedelta(days=7), FIRST + timedelta(days=11)):
        judged = night - timedelta(days=7)
        paid = read(landing / "transactions" / f"{judged}.csv.gz")
        heard = read(landing / "fraud_labels" / f"{night}.csv.gz")
        assert [row["transaction_id"] for row in heard] == [row["transaction_id"] for row in paid]
        assert [row["reported_at"] for row in heard] == [row["tx_datetime"].replace(str(judged), str(night)) for row in paid]
        assert [int(row["tx_fraud"]) for row in heard] == (simulator.day(judged).fraud != Kind.GENUINE).astype(int).tolist()


def test_the_summary_counts_what_lies_in_landing(landing: Path, tmp_path: Path) -> None:
    summary = simulate(tmp_path, first=FIRST, nights=9, world=SMALL)
    assert summary.files == len(bytes_under(tmp_path)) == 9 + 2
    assert summary.transactions == sum(len(read(file)) for file in (tmp_path / "transactions").iterdir())
    assert summary.verdicts == sum(len(read(file)) for file in (tmp_path / "fraud_labels").iterdir())
    simulator = Simulator(SMALL)
    assert summary.frauds == sum(int((simulator.day(day).fraud > 0).sum()) for day in between(FIRST, FIRST + timedelta(days=8)))
    assert (summary.first, summary.last) == (FIRST, date(2026, 1, 9))


@pytest.mark.parametrize("change", ["harmful", "benign"])
def test_nothing_differs_before_the_day_of_the_change(change: Change, tmp_path: Path) -> None:
    before = CHANGE - timedelta(days=2)
    simulate(tmp_path / "plain", first=before, nights=3, world=SMALL)
    simulate(tmp_path / change, first=before, nights=3, world=replace(SMALL, change=change, change_on=CHANGE))
    plain, changed = bytes_under(tmp_path / "plain"), bytes_under(tmp_path / change)
    assert {name for name in plain if plain[name] != changed[name]} == {f"transactions/{CHANGE}.csv.gz"}


@dataclass(frozen=True)
class ListedCardsNextDay:
    """Stands for the ways to come: only cards on the list are looked at, the morning after."""

    first_after_days: int = 1

    def reported_on(self, night: date, truth: Callable[[date], Day], listed: Listed) -> Verdicts:
        before = truth(night - timedelta(days=1))
        looked_at = np.isin(before.customer_id, list(listed(night - timedelta(days=1))))
        at = np.full(looked_at.sum(), np.datetime64(night, "s") + np.timedelta64(9, "h"))
        return Verdicts(before.transaction_id[looked_at], before.fraud[looked_at] > 0, at)


def test_a_reporting_may_depend_on_what_was_listed(tmp_path: Path) -> None:
    simulate(tmp_path, first=FIRST, nights=3, world=SMALL, reporting=ListedCardsNextDay(), listed=lambda night: [1, 2, 3])
    assert sorted(file.name for file in (tmp_path / "fraud_labels").iterdir()) == ["2026-01-02.csv.gz", "2026-01-03.csv.gz"]
    for night in between(FIRST + timedelta(days=1), FIRST + timedelta(days=2)):
        heard = [row["transaction_id"] for row in read(tmp_path / "fraud_labels" / f"{night}.csv.gz")]
        paid = read(tmp_path / "transactions" / f"{night - timedelta(days=1)}.csv.gz")
        assert heard == [row["transaction_id"] for row in paid if row["customer_id"] in {"1", "2", "3"}]
        assert heard


def test_a_reporting_with_verdicts_of_another_night_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class ADayEarly(AllAfter):
        def reported_on(self, night: date, truth: Callable[[date], Day], listed: Listed) -> Verdicts:
            return super().reported_on(night + timedelta(days=1), truth, listed)

    with pytest.raises(ContractError, match="reported on another day"):
        simulate(tmp_path, first=FIRST, nights=8, world=SMALL, reporting=ADayEarly())
    assert not (tmp_path / "fraud_labels").exists()


def test_a_reporting_that_looks_into_the_future_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Clairvoyant(AllAfter):
        def reported_on(self, night: date, truth: Callable[[date], Day], listed: Listed) -> Verdicts:
            truth(night + timedelta(days=1))
            return super().reported_on(night, truth, listed)

    with pytest.raises(ContractError, match="ask for days up to the night"):
        simulate(tmp_path, first=FIRST, nights=8, world=SMALL, reporting=Clairvoyant())


def test_days_before_the_first_drop_are_never_judged(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class TwoDaysAtOnce(AllAfter):
        def reported_on(self, night: date, truth: Callable[[date], Day], listed: Listed) -> Verdicts:
            judged = np.concatenate([truth(night - timedelta(days=age)).transaction_id for age in (1, 2)])
            return Verdicts(judged, np.zeros(len(judged), bool), np.full(len(judged), np.datetime64(night, "s")))

    simulate(tmp_path, first=FIRST, nights=2, world=SMALL, reporting=TwoDaysAtOnce(days=1))
    heard = read(tmp_path / "fraud_labels" / "2026-01-02.csv.gz")
    dropped = read(tmp_path / "transactions" / "2026-01-01.csv.gz")
    assert [row["transaction_id"] for row in heard] == [row["transaction_id"] for row in dropped]
    assert not (tmp_path / "fraud_labels" / "2026-01-01.csv.gz").exists()


def test_impossible_spans_are_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least one night"):
        simulate(tmp_path, first=FIRST, nights=0, world=SMALL)
    with pytest.raises(ConfigurationError, match="since not after first"):
        simulate(tmp_path, first=FIRST, nights=1, world=SMALL, since=FIRST + timedelta(days=1))
    with pytest.raises(ConfigurationError, match="simulate later days"):
        simulate(tmp_path, first=date(2000, 1, 5), nights=1, world=SMALL)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_the_function_writes(landing: Path, tmp_path: Path) -> None:
    asked = ["--landing", str(tmp_path), "--first", "2026-01-01", "--nights", "12", "--transactions-per-day", "400"]
    assert main(asked) == 0
    assert bytes_under(tmp_path) == bytes_under(landing)


def test_the_command_says_what_is_wrong_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--landing", str(tmp_path), "--first", "2026-01-01", "--nights", "2"]
    for wrong, advice in (
        (["--change", "harmful"], "set both change and change_on"),
        (["--change", "harmful", "--change-on", "soon"], "--change-on 'soon' is no night"),
    ):
        with pytest.raises(SystemExit) as end:
            main(asked + wrong)
        assert end.value.code == 2
        assert advice in capsys.readouterr().err
