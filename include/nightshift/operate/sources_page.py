"""The source catalogue as HTML: one file, no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import date, datetime
from html import escape
from typing import TYPE_CHECKING

from include.nightshift.page import page, table
from include.nightshift.rules import RowRule, Rule

if TYPE_CHECKING:
    from include.nightshift.contract import AnyRule
    from include.nightshift.operate.sources import Chapter, Failure, Night, Source
    from include.nightshift.usecase import Column, Feed

_STATES = {
    "fine": ("", "as the contract says"),
    "rejected": ("·", "with rejected rows"),
    "warned": ("!", "with a warning, or a rule waived"),
    "stopped": ("×", "stopped by a rule"),
    "missing": ("?", "missing"),
    "none": ("", "without a drop, as agreed"),
}
"""A night's mark, beside its colour, and its words."""
_SEVERITIES = {
    "reject": "a row that breaks it goes to quarantine",
    "stop": "a batch that breaks it stays out",
    "warn": "a breach is told",
}
LISTED = 100
"""More broken rules than this are counted, not listed."""


def render(chapters: Sequence[Chapter], now: datetime) -> str:
    """The whole page."""
    sources = [(chapter, source) for chapter in chapters for source in chapter.sources]
    links = "".join(f'<a href="#{escape(_anchor(chapter, source))}">{escape(source.feed.name)}</a>' for chapter, source in sources)
    return page(
        "Sources",
        f"""<header>
<h1>Sources</h1>
<p class="soft">What each feed owes, by its contract, and how it has kept that.</p>
<nav aria-label="Feeds">{links}</nav>
</header>
<main>
{"".join(_chapter(chapter) for chapter in chapters)}</main>
<footer>Written {_moment(now)} from the contracts and the records in <code>ops</code>. All times are UTC.</footer>
""",
    )


def _chapter(chapter: Chapter) -> str:
    use_case = chapter.use_case
    stale = "".join(
        f'<p class="notice">{_count(len(nights), "night")} of <code>{escape(table)}</code> to rebuild: {_spans(nights)}</p>\n'
        for table, nights in chapter.stale.items()
    )
    return f"""<section aria-labelledby="{escape(use_case.name)}">
<h2 id="{escape(use_case.name)}">{escape(use_case.title)}</h2>
<p class="soft">Use case of {escape(use_case.owner) or "nobody named"}</p>
{stale}{"".join(_source(chapter, source) for source in chapter.sources)}</section>
"""


def _source(chapter: Chapter, source: Source) -> str:
    feed = source.feed
    anchor = escape(_anchor(chapter, source))
    stale = f'<p class="notice">To ingest again: {_spans(source.stale)}</p>\n' if source.stale else ""
    return f"""<article aria-labelledby="{anchor}">
<header><h3 id="{anchor}">{escape(feed.name)}</h3><span class="chip">contract {escape(feed.version)}</span>{_personal(feed)}</header>
<p>{escape(feed.description)}</p>
{stale}<dl>
{_facts(source)}</dl>
<h4>Nights</h4>
{_nights(source.nights)}{_failures(source.failures)}<h4>Columns</h4>
{_table(("Column", "Type", "Meaning", "Value", ""), (_column(feed, column) for column in feed.columns))}<h4>Rules</h4>
{_rules(feed)}<h4>Contract</h4>
{_table(("Version", "What it brought"), _versions(feed))}</article>
"""


def _personal(feed: Feed) -> str:
    return f'<span class="chip personal">{_count(len(feed.personal), "personal column")}</span>' if feed.personal else ""


def _facts(source: Source) -> str:
    feed, last = source.feed, source.last
    landed = "nothing has landed yet"
    if last:
        rejected = f", {last.rejected:,} to quarantine" if last.rejected else ", none rejected"
        came = f"<br>came {_moment(last.landed_at)}" if last.landed_at else ""
        landed = f"night {last.night}: {last.rows:,} rows{rejected}{came}<br><code>{escape(last.source)}</code>"
    promise = "none"
    if feed.landed_within_hours is not None:
        kept = (
            f"kept {source.in_time} of {source.in_time + source.late} times" if source.in_time + source.late else "nothing to judge by yet"
        )
        promise = f"there {feed.landed_within_hours:g} h after the day ends (UTC)<br>{kept}"
    begins, ends = feed.first_drop or "always", feed.last_drop or "on"
    facts = {
        "Owner": escape(feed.owner) or "nobody named",
        "Grain": escape(feed.grain) or "not said",
        "Key": f"<code>{escape(feed.key)}</code>",
        "When it happened": f"<code>{escape(feed.event_time)}</code>",
        "Comes": _way(feed) if feed.pull is None else _pulled(feed),
        "Nights": "every one" if feed.first_drop is None and feed.last_drop is None else f"{begins} … {ends}",
        "Promise": promise,
        "Last landing": landed,
    }
    return "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>\n" for name, text in facts.items())


def _way(feed: Feed) -> str:
    return f"a file a day in <code>{escape(feed.name)}/</code>"


def _pulled(feed: Feed) -> str:
    assert feed.pull is not None  # noqa: S101 - its caller has looked
    return f"pulled from <code>{escape(feed.pull.relation)}</code> over connection <code>{escape(feed.pull.connection)}</code>"


def _nights(nights: Sequence[Night]) -> str:
    if not nights:
        return '<p class="soft">No night is known yet.</p>\n'
    cells = "".join(
        f'<li class="{night.state}" title="{_words(night)}">{_STATES[night.state][0]}<span class="hidden">{_words(night)}</span></li>'
        for night in nights
    )
    states: list[str] = [night.state for night in nights]
    key = "".join(
        f'<li><i class="{state}"></i>{states.count(state)} {escape(words)}</li>' for state, (_, words) in _STATES.items() if state in states
    )
    return f'<ol class="nights">{cells}</ol>\n<ul class="legend">{key}<li>{nights[0].night} … {nights[-1].night}</li></ul>\n'


def _words(night: Night) -> str:
    rows = f", {night.rows:,} rows, {night.rejected:,} rejected" if night.rows else ""
    return escape(f"{night.night}: {_STATES[night.state][1]}{rows}")


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    rows = [
        (
            str(failure.night),
            f"<code>{escape(failure.rule)}</code>",
            _chip(failure.severity) + (_chip(failure.verdict) if failure.verdict != "failed" else ""),
            f"{failure.failed_rows:,} of {failure.rows:,}" if failure.failed_rows else "",
            escape(failure.reason),
        )
        for failure in failures[:LISTED]
    ]
    more = (
        f'<p class="soft">and {len(failures) - LISTED} more, in <code>ops.contract_results</code></p>\n' if len(failures) > LISTED else ""
    )
    return f"<h4>Rules broken</h4>\n{_table(('Night', 'Rule', 'Severity', 'Rows', 'What was seen'), rows)}{more}"


def _column(feed: Feed, column: Column) -> tuple[str, ...]:
    marks = [mark for mark, is_so in (("key", column.name == feed.key), ("personal", column.personal)) if is_so]
    return (
        f"<code>{escape(column.name)}</code>",
        f"<code>{escape(column.type)}</code>",
        escape(column.comment),
        "required" if column.required else "may be empty",
        "".join(_chip(mark) for mark in marks),
    )


def _rules(feed: Feed) -> str:
    rules: list[AnyRule] = [*feed.rules, *feed.batch_rules, *feed.feed_rules]
    rows = [(f"<code>{escape(r.name)}</code>", r.kind, _chip(r.severity), escape(r.reason), _limits(r)) for r in rules]
    key = escape(f"{feed.key} came before, in this file or in the {feed.dedup_days} nights before (and beyond, where key ranges tell)")
    rows.append(("<code>duplicate</code>", "duplicates", _chip("reject"), key, f"<code>dedup_days {feed.dedup_days}</code>"))
    words = "; ".join(f"{name}: {meaning}" for name, meaning in _SEVERITIES.items())
    return (
        _table(("Rule", "Kind", "Severity", "Meaning", "Limits"), rows)
        + f'<p class="soft">{escape(words)}. Rows that cannot be parted or read by their types are rejected in every feed.</p>\n'
    )


def _limits(rule: AnyRule) -> str:
    """What a rule is set to: its SQL, or its own fields with their values."""
    if isinstance(rule, RowRule):
        return f"<code>{escape(rule.breach)}</code>"
    common = {field.name for field in fields(Rule)}
    own = [f"{field.name} {getattr(rule, field.name)}" for field in fields(rule) if field.name not in common]
    return f"<code>{escape(', '.join(own))}</code>"


def _versions(feed: Feed) -> Iterable[tuple[str, str]]:
    versions = feed.versions or (feed.version,)
    for version in reversed(versions):
        added = [column.name for column in feed.columns if column.since == version]
        brought = ", ".join(f"<code>{escape(name)}</code>" for name in added) or "no column: rules or words changed"
        yield escape(version), brought


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return table(names, rows, _KINDS)


_KINDS = {"Rows": "number", "Meaning": "words", "What was seen": "words", "Limits": "words", "What it brought": "words"}


def _chip(word: str) -> str:
    return f'<span class="chip {escape(word)}">{escape(word)}</span> '


def _anchor(chapter: Chapter, source: Source) -> str:
    return f"{chapter.use_case.name}-{source.feed.name}"


def _moment(moment: datetime) -> str:
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment:%Y-%m-%d %H:%M}</time>'


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _spans(nights: Sequence[date]) -> str:
    """Nights as ranges: 2026-01-03 … 2026-01-09, 2026-02-01."""
    spans: list[list[date]] = []
    for night in nights:
        if spans and (night - spans[-1][-1]).days == 1:
            spans[-1][1:] = [night]
        else:
            spans.append([night])
    return ", ".join(" … ".join(map(str, span)) for span in spans)
