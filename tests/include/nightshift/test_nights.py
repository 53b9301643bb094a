from datetime import UTC, date, datetime

import pytest

from include.nightshift import nights
from include.nightshift.errors import NightError


@pytest.mark.parametrize(
    "text", [None, "", "yesterday", "2026-11-31", "2026-1-2", "20261120", "2026-11-20T00:00:00", "2026-11-20\n", "../../etc"]
)
def test_text_that_is_no_night_is_refused_with_the_form_to_write(text: str | None) -> None:
    with pytest.raises(NightError, match=r"partition key .* is no night: "):
        nights.parse(text)


def test_a_range_has_both_its_ends_and_one_night_is_a_range() -> None:
    assert nights.parse_range("2026-11-20..2026-11-22") == (date(2026, 11, 20), date(2026, 11, 22))
    assert nights.parse_range("2026-11-20") == (date(2026, 11, 20), date(2026, 11, 20))
    assert list(nights.between(date(2026, 2, 28), date(2026, 3, 1))) == [date(2026, 2, 28), date(2026, 3, 1)]
    assert list(nights.between(date(2026, 3, 1), date(2026, 2, 28))) == []


@pytest.mark.parametrize(("text", "message"), [("2026-11-22..2026-11-20", "backwards"), ("2026-11-20..soon", "is no night")])
def test_a_range_that_runs_backwards_or_ends_nowhere_is_refused(text: str, message: str) -> None:
    with pytest.raises(NightError, match=message):
        nights.parse_range(text)


def test_what_a_drop_brings_is_known_at_the_midnight_utc_that_ends_its_day() -> None:
    assert nights.known_at(date(2026, 12, 31)) == datetime(2027, 1, 1, tzinfo=UTC)
