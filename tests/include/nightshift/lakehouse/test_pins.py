"""Pins: held until their last day, for each reason apart, and only on versions that can still be read."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from include.nightshift.errors import LakehouseError
from include.nightshift.lakehouse import log, pins, records
from include.nightshift.lakehouse.pins import Pin
from include.nightshift.lakehouse.tables import NIGHTS, TABLE_PINS
from include.nightshift.settings import Settings

NIGHT = date(2020, 3, 1)
DAY = date(2026, 5, 1)


@pytest.fixture
def versions(records_home: Settings) -> Settings:
    """An installation whose `ops.nights` has versions 0 to 3, each with files of its own."""
    for number in range(3):
        entry = {"day": NIGHT, "use_case": "u", "stage": "features", "rows_in": number}
        records.replace(records_home, NIGHTS, [entry], {"day": [NIGHT], "stage": ["features"]})
    return records_home


def files_of(settings: Settings, version: int) -> list[Path]:
    return [Path(uri) for uri in log.opened(settings, NIGHTS, version).file_uris()]


def test_a_pin_holds_to_its_last_day_and_without_one_until_it_is_released(versions: Settings) -> None:
    pins.pin(versions, NIGHTS, 1, "run-1", until=DAY)
    pins.pin(versions, NIGHTS, 2, "an audit")
    assert [pin.version for pin in pins.held(versions, NIGHTS, DAY)] == [1, 2]
    assert [pin.version for pin in pins.held(versions, NIGHTS, date(2026, 5, 2))] == [2]
    assert pins.held(versions, TABLE_PINS, DAY) == []


def test_pinning_again_commits_nothing_and_another_last_day_replaces_the_first(versions: Settings) -> None:
    pins.pin(versions, NIGHTS, 1, "run-1", until=DAY)
    before = log.version(versions, TABLE_PINS)
    pins.pin(versions, NIGHTS, 1, "run-1", until=DAY)
    assert log.version(versions, TABLE_PINS) == before
    pins.pin(versions, NIGHTS, 1, "run-1", until=None)
    assert pins.held(versions, NIGHTS, DAY) == [Pin("ops.nights", 1, "run-1", None)]


def test_each_reason_is_released_by_itself(versions: Settings) -> None:
    for why in ("run-1", "it's 'quoted'"):
        pins.pin(versions, NIGHTS, 1, why)
    pins.release(versions, [Pin("ops.nights", 1, "it's 'quoted'", None), Pin("ops.nights", 2, "nobody's", None)])
    assert [pin.why for pin in pins.held(versions, NIGHTS, DAY)] == ["run-1"]


def test_pins_that_are_over_are_released_together_and_named(versions: Settings) -> None:
    pins.pin(versions, NIGHTS, 1, "run-1", until=DAY)
    pins.pin(versions, NIGHTS, 1, "run-2", until=date(2026, 5, 2))
    assert pins.expire(versions, DAY) == []
    assert [pin.why for pin in pins.expire(versions, date(2026, 5, 2))] == ["run-1"]
    assert [row["why"] for row in records.read(versions, TABLE_PINS)] == ["run-2"]


def test_a_version_that_never_was_is_refused(versions: Settings) -> None:
    with pytest.raises(LakehouseError, match=r"ops\.nights version 4 cannot be read"):
        pins.pin(versions, NIGHTS, 4, "run-1")
    assert records.read(versions, TABLE_PINS) == []


def test_a_version_whose_files_are_gone_is_refused_with_advice(versions: Settings) -> None:
    [gone] = files_of(versions, 1)
    gone.unlink()
    with pytest.raises(LakehouseError, match=r"ops\.nights version 1 cannot be pinned: 1 of its files are gone .*pin a newer one"):
        pins.pin(versions, NIGHTS, 1, "run-1")
    pins.pin(versions, NIGHTS, 2, "run-1")


def test_a_version_taken_while_it_is_pinned_leaves_no_pin_behind(versions: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    replace: Callable[..., object] = records.replace

    def taken_meanwhile(*arguments: object) -> object:
        for file in files_of(versions, 1):
            file.unlink()
        return replace(*arguments)

    monkeypatch.setattr(pins.records, "replace", taken_meanwhile)
    with pytest.raises(LakehouseError, match="are gone"):
        pins.pin(versions, NIGHTS, 1, "run-1")
    assert records.read(versions, TABLE_PINS) == []
