"""Nights: the one unit of the platform, written `YYYY-MM-DD` and held as `datetime.date`.

Night D runs when day D is over, and everything that D's drop brought was known at the midnight UTC that ends D.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from include.nightshift.errors import NightError

_PATTERN = re.compile(r"\d{4}-\d{2}-\d{2}")


def parse(text: str | None, *, what: str = "partition key") -> date:
    """Read a night from text that may come from anybody (a REST call names any text as its partition key).

    Raises:
        NightError: the text is not a date in the form YYYY-MM-DD.
    """
    if text is None or not _PATTERN.fullmatch(text):
        raise NightError(f"{what} {text!r} is no night: give a date such as 2026-11-20 (YYYY-MM-DD, UTC)")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise NightError(f"{what} {text!r} is no night: {error}. Give a date that exists") from error


def parse_range(text: str, *, what: str = "range") -> tuple[date, date]:
    """Read `FIRST..LAST`, both included, or a single night.

    Raises:
        NightError: an end is no night, or the range runs backwards.
    """
    first_text, _, last_text = text.partition("..")
    first = parse(first_text.strip(), what=what)
    last = parse(last_text.strip(), what=what) if last_text else first
    if last < first:
        raise NightError(f"{what} {text!r} runs backwards: write the earlier night first")
    return first, last


def known_at(night: date) -> datetime:
    """The midnight UTC that ends the night's day: when all its drop brought was known."""
    return datetime.combine(night + timedelta(days=1), datetime.min.time(), tzinfo=UTC)


def between(first: date, last: date) -> Iterator[date]:
    """All nights from first to last, both included; none when last is before first."""
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)
