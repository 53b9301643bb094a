"""Ask the running lakehouse a question: `python -m include.nightshift.operate.sql "select …"` prints the answer as a table."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError, NightshiftError

if TYPE_CHECKING:
    from include.nightshift.settings import Settings

_WIDEST = 60
"""Longer values are cut, so that a row stays a line."""


def answer(settings: Settings, query: str, limit: int) -> str:
    """Run one statement and lay out at most `limit` rows of what it returns.

    Raises:
        ConfigurationError: the lakehouse does not answer, or it refuses the statement (with its first line of why).
    """
    _reach(settings)
    # pyspark also logs each refusal, with the server's whole stack trace; its first line is the answer.
    logging.getLogger("SQLQueryContextLogger").disabled = True
    from pyspark.errors import PySparkException

    from include.nightshift.lakehouse import session

    try:
        table = session.connect(settings).sql(query).limit(limit + 1).toArrow()
    except PySparkException as error:
        raise ConfigurationError(f"the lakehouse refuses this: {_first_line(str(error))}") from error
    rows = table.to_pylist()
    shown = rows[:limit]
    count = f"{len(shown)} row" + ("" if len(shown) == 1 else "s")
    summary = f"(the first {count}; --rows N shows more)" if len(rows) > limit else f"({count})"
    return "\n".join([*lay_out(table.column_names, [list(row.values()) for row in shown]), summary])


def lay_out(names: list[str], rows: list[list[Any]]) -> list[str]:
    """Lines of a table with aligned columns, numbers to the right; null stands as `null`."""
    if not names:
        return []
    texts = [[_text(value) for value in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(names, *texts, strict=True)]
    numeric = [bool(rows) and all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(names))]

    def line(cells: list[str]) -> str:
        padded = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(cells, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return [line(names), "  ".join("-" * width for width in widths), *map(line, texts)]


def _text(value: object) -> str:
    if value is None:
        return "null"
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _first_line(message: str) -> str:
    return next((line.strip() for line in message.splitlines() if line.strip()), "it does not say why")


def _reach(settings: Settings) -> None:
    """Spark's own client tries for minutes; a listening port answers at once."""
    url = urlsplit(settings.spark_url)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(3)
        if probe.connect_ex((url.hostname or "127.0.0.1", url.port or 15002)) != 0:
            raise ConfigurationError(f"no lakehouse answers at {settings.spark_url}: start it with `make up`, or see `make status`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer; 1 with one line when there is none."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.operate.sql", description=__doc__)
    parser.add_argument("query", help="one SQL statement")
    parser.add_argument("--rows", type=int, default=100, metavar="N", help="show at most so many rows (default: 100)")
    options = parser.parse_args(arguments)
    try:
        if not options.query.strip():
            raise ConfigurationError('there is no question: write make sql Q="select * from gold.card_fraud_alerts"')
        print(answer(settings_module.load(), options.query.strip().rstrip(";"), max(options.rows, 1)))
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
