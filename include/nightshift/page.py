"""Page: what all our HTML pages have in common: one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType

_STYLE = Path(__file__).with_name("page.css")


def page(title: str, body: str) -> str:
    """The whole document; `body` is HTML already, `title` is text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
{body}</body>
</html>
"""


def table(names: Sequence[str], rows: Iterable[Sequence[str]], kinds: Mapping[str, str] = MappingProxyType({})) -> str:
    """A table of cells that are HTML already; `kinds` names the columns that are `number` or `words`."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td class="{kinds.get(name, "plain")}">{cell}</td>' for name, cell in zip(names, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'
