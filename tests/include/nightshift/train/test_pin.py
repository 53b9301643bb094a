"""Pin: the versions that a run reads are kept before it reads them."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake

from include.nightshift.errors import LakehouseError, NotMaturedError
from include.nightshift.features import training_set
from include.nightshift.lakehouse import log, pins, records, storage, tables
from include.nightshift.settings import Settings
from include.nightshift.train import pin
from include.nightshift.train.run import RUN, TrainingRun
from include.nightshift.train.space import Search
from include.usecases.card_fraud.usecase import USE_CASE

FIRST, AS_OF = date(2006, 1, 1), date(2006, 3, 1)
READ = training_set.tables_read(USE_CASE)
RECIPE = USE_CASE.recipes[0]


@pytest.fixture
def history(records_home: Settings) -> Settings:
    """An installation that has features of two months, and the last drop of verdicts; one row a night."""
    nights = [FIRST + timedelta(days=number) for number in range((AS_OF - FIRST).days + 1)]
    for table in READ:
        DeltaTable.create(storage.location(records_home, table), table.arrow([]).schema, partition_by=list(table.partition))
        write_deltalake(storage.location(records_home, table), table.arrow([{"day": night} for night in nights]), mode="append")
    return records_home


def test_what_a_run_reads_is_pinned_for_a_year_before_the_first_row_is_read(history: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    today = datetime.now(UTC).date()
    seen: list[Any] = []

    def write(session: Any, settings: Any, use_case: Any, split: Any, versions: dict[str, int], folder: Path) -> Any:
        seen.append({pin.table: pin for table in READ for pin in pins.held(history, table, today)})
        return SimpleNamespace(digest="digest")

    monkeypatch.setattr(training_set, "write", write)
    folder = pin.pin(None, history, USE_CASE, RECIPE, AS_OF)  # type: ignore[arg-type]
    run = TrainingRun.load(folder)
    [held] = seen
    assert {name: one.version for name, one in held.items()} == run.versions == {str(table): 1 for table in READ}
    assert {one.why for one in held.values()} == {run.run_id}
    assert {one.until for one in held.values()} == {today + timedelta(days=pin.PINNED_DAYS)}

    # The folder is whole: asked again, nothing is read or pinned.
    before = log.version(history, tables.TABLE_PINS)
    assert pin.pin(None, history, USE_CASE, RECIPE, AS_OF) == folder  # type: ignore[arg-type]
    assert (len(seen), log.version(history, tables.TABLE_PINS)) == (1, before)


def test_a_recipe_that_reads_some_features_of_some_last_nights_gets_those(history: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_set, "write", lambda *_: SimpleNamespace(digest="digest"))
    few = replace(RECIPE, features=tuple(USE_CASE.feature_names[2:0:-1]), train_nights=7)
    whole, part = (TrainingRun.load(pin.pin(None, history, USE_CASE, recipe, AS_OF)) for recipe in (RECIPE, few))  # type: ignore[arg-type]
    assert whole.features == tuple(USE_CASE.feature_names)
    assert part.features == few.features
    assert part.run_id != whole.run_id
    assert part.train_first == part.train_last - timedelta(days=6)
    assert (part.train_last, part.holdout_first, part.holdout_last) == (whole.train_last, whole.holdout_first, whole.holdout_last)
    # More nights than there are: all of them.
    assert training_set.split(USE_CASE, FIRST, AS_OF, train_nights=1000) == training_set.split(USE_CASE, FIRST, AS_OF)


def test_a_version_that_is_gone_stops_the_run_before_it_has_a_folder(history: Settings) -> None:
    for uri in log.opened(history, READ[1]).file_uris()[:1]:
        Path(uri).unlink()
    with pytest.raises(LakehouseError, match=rf"{READ[1]} version 1 cannot be pinned"):
        pin.pin(None, history, USE_CASE, RECIPE, AS_OF)  # type: ignore[arg-type]
    assert not list(history.home.rglob(RUN))
    assert {row["table_name"] for row in records.read(history, tables.TABLE_PINS)} == {str(READ[0])}


def test_too_few_nights_for_a_search_stop_the_run_before_it_has_a_folder(history: Settings) -> None:
    recipe = replace(RECIPE, search=Search(validation_nights=40))
    with pytest.raises(NotMaturedError, match="the training nights 2006-01-01 to 2006-02-08 are too few for a search: 40 judge its trials"):
        pin.pin(None, history, USE_CASE, recipe, AS_OF)  # type: ignore[arg-type]
    assert not list(history.home.rglob(RUN))
    assert not records.read(history, tables.TABLE_PINS)
