"""The results of a dbt build as HTML: one file, no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from include.nightshift.lakehouse.records import Record
from include.nightshift.page import page, table

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
    names = ("Node", "Kind", "Status", "Seconds", "Rows", "Message")
    rows = table(names, map(_row, sorted(found, key=_order)), {"Seconds": "number", "Rows": "number", "Message": "words"})
    return page(
        f"dbt results, {span}",
        f"""<header>
<h1>dbt results</h1>
<p class="soft">{escape(title)}, {span}, built {max(r["built_at"] for r in found):%Y-%m-%d %H:%M:%S} UTC</p>
{link}</header>
<main>
{notice}<article>
{rows}</article>
</main>
<footer>From <code>ops.dbt_nodes</code>, which keeps the last build of a night and counts one that changes nothing as the same.
Every run's own build is in its task's log.</footer>
""",
    )


def words(text: str) -> str:
    """A page that says one thing."""
    return page("Nightshift", f'<header><h1>Nightshift</h1></header>\n<main><p class="notice">{escape(text)}</p></main>\n')


def _order(record: Record) -> tuple[int, str]:
    kind = record["kind"]
    return (_KINDS.index(kind) if kind in _KINDS else len(_KINDS), record["node"])


def _row(record: Record) -> tuple[str, ...]:
    return (
        f"<code>{escape(record['node'])}</code>",
        escape(record["kind"]),
        f'<span class="chip {_CHIPS.get(record["status"], "")}">{escape(record["status"])}</span>',
        f"{record['seconds']:.2f}",
        "" if record["rows"] is None else f"{record['rows']:,}",
        escape(record["message"]),
    )
