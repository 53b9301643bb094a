"""The results of a dbt build as HTML: one file, no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from include.nightshift.lakehouse.records import Record
from include.nightshift.operate.sources_page import STYLE

_CHIPS = {"error": "failed", "fail": "failed", "runtime error": "failed", "warn": "warn"}
"""The colour of a status; others have none."""
_KINDS = ("model", "test")


def render(title: str, found: Sequence[Record], *, documentation: str | None = None) -> str:
    """The page of one build: its records in `ops.dbt_nodes`, and where dbt's documentation is, if anywhere."""
    first, last = found[0]["first_night"], found[0]["day"]
    failed = [record["node"] for record in found if record["status"] in _CHIPS and record["status"] != "warn"]
    notice = f'<p class="notice">The build failed at {escape(", ".join(sorted(failed)))}.</p>\n' if failed else ""
    link = f'<nav><a href="{escape(documentation)}">What each model is</a></nav>\n' if documentation else ""
    span = f"night {last}" if first == last else f"nights {first} … {last}"
    rows = "".join(map(_row, sorted(found, key=_order)))
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Node", "Kind", "Status", "Seconds", "Rows", "Message"))
    return _page(
        f"dbt results, {span}",
        f"""<header>
<h1>dbt results</h1>
<p class="soft">{escape(title)}, {span}, built {max(r["built_at"] for r in found):%Y-%m-%d %H:%M:%S} UTC</p>
{link}</header>
<main>
{notice}<article>
<div class="scroll"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}</tbody>
</table></div>
</article>
</main>
<footer>From <code>ops.dbt_nodes</code>, which keeps the last build of a night and counts one that changes nothing as the same.
Every run's own build is in its task's log.</footer>
""",
    )


def words(text: str) -> str:
    """A page that says one thing."""
    return _page("Nightshift", f'<header><h1>Nightshift</h1></header>\n<main><p class="notice">{escape(text)}</p></main>\n')


def _order(record: Record) -> tuple[int, str]:
    kind = record["kind"]
    return (_KINDS.index(kind) if kind in _KINDS else len(_KINDS), record["node"])


def _row(record: Record) -> str:
    cells = (
        ("plain", f"<code>{escape(record['node'])}</code>"),
        ("plain", escape(record["kind"])),
        ("plain", f'<span class="chip {_CHIPS.get(record["status"], "")}">{escape(record["status"])}</span>'),
        ("number", f"{record['seconds']:.2f}"),
        ("number", "" if record["rows"] is None else f"{record['rows']:,}"),
        ("words", escape(record["message"])),
    )
    return "<tr>" + "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in cells) + "</tr>\n"


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
{body}</body>
</html>
"""
