"""The source catalogue: what contracts and records say stands on the page, whatever is in them, and before anything landed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.ingest import checks
from include.nightshift.lakehouse import records, stale, tables
from include.nightshift.operate import sources, sources_page
from include.nightshift.operate.sources import Chapter, Failure, Landing, Night, Source
from include.nightshift.rules import Reference, RowRule, Verdict
from include.nightshift.settings import Settings
from include.nightshift.usecase import Column, Feed, Pull, UseCase

FIRST = date(2026, 3, 1)
LAST = FIRST + timedelta(days=33)
VOID = {"meta", "br"}
HOSTILE = "'\"></style><script>alert('1')</script><img src=x onerror=y> & é"


class Page(HTMLParser):
    """A page taken apart: every tag closed, its text, tables as rows of cells, facts by name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.facts: list[tuple[str, str]] = []
        self._cell: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th", "dt", "dd"):
            self._cell = []
        elif tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        said = "".join(self._cell).strip()
        if tag in ("td", "th"):
            self.tables[-1][-1].append(said)
        elif tag == "dt":
            self.facts.append((said, ""))
        elif tag == "dd":
            self.facts[-1] = (self.facts[-1][0], said)

    def handle_data(self, data: str) -> None:
        self._cell.append(data)
        if "style" not in self.open:
            self.text.append(data)

    def tables_of(self, *names: str) -> list[list[list[str]]]:
        return [table[1:] for table in self.tables if table[0] == list(names)]

    def values(self, tag: str, attribute: str) -> list[str]:
        return [str(found[attribute]) for name, found in self.tags if name == tag and attribute in found]


def page(chapters: Sequence[Chapter]) -> Page:
    html = sources_page.render(chapters, datetime(2026, 4, 4, 6, 30, tzinfo=UTC))
    taken = Page(html)
    # Nothing is fetched and nothing runs.
    assert not {name for name, _ in taken.tags} & {"script", "img", "link", "iframe", "form", "base"}
    assert not any(name.startswith("on") or name in ("src", "style") for _, found in taken.tags for name in found)
    assert all(address.startswith("#") for address in taken.values("a", "href"))
    assert "url(" not in html
    assert "@import" not in html
    assert {address[1:] for address in taken.values("a", "href")} <= set(taken.values("h3", "id"))
    return taken


def written(settings: Settings) -> Page:
    path = sources.write(settings)
    assert path == settings.home / "reports" / "sources.html"
    assert [entry.name for entry in path.parent.iterdir()] == ["sources.html"]
    return Page(path.read_text(encoding="utf-8"))


def land(settings: Settings, feed: Feed, nights: Sequence[date], **more: Any) -> None:
    """Records of nights that were ingested from files that came an hour after midnight."""
    batch = {"feed": feed.name, "batch": "b", "contract_version": "1.0.0", "reordered": False, "inputs": "i"} | more
    rows = [
        {
            "day": night,
            "source": f"{feed.name}/{night}.csv.gz",
            "rows": 1000,
            "accepted": 1000,
            "rejected": 0,
            "landed_at": datetime.combine(night, datetime.min.time(), UTC) + timedelta(hours=25),
            "ingested_at": datetime.now(UTC),
        }
        | batch
        for night in nights
    ]
    records.replace(settings, tables.BATCHES, rows, {"feed": [feed.name], "day": list(nights)})


def judge(settings: Settings, feed: Feed, night: date, rule: str, severity: Any, outcome: Any, **more: Any) -> None:
    verdict = Verdict(feed=feed.name, night=night, rule=rule, kind="temporal", severity=severity, outcome=outcome, **more)
    held = records.read(settings, tables.CONTRACT_RESULTS, day=night, feed=feed.name)
    known = [
        Verdict(
            feed=feed.name,
            night=night,
            **{n: r[n] for n in ("rule", "kind", "severity", "rows", "failed_rows", "reason")},
            outcome=r["verdict"],
        )
        for r in held
    ]
    checks.store(settings, feed, [night], [*known, verdict], ("temporal",))


def test_before_anything_landed_the_page_says_what_the_contracts_say(tmp_path: Path, use_case: UseCase) -> None:
    settings = Settings(home=tmp_path)
    shown = written(settings)
    assert shown.values("h3", "id") == ["card_fraud-transactions", "card_fraud-fraud_labels"]
    facts = dict(shown.facts[: len(shown.facts) // 2])
    assert facts == {
        "Owner": "payment-switch",
        "Grain": "One row per transaction.",
        "Key": "transaction_id",
        "When it happened": "tx_datetime",
        "Comes": "a file a day in transactions/",
        "Nights": "every one",
        "Promise": "there 6 h after the day ends (UTC) nothing to judge by yet",
        "Last landing": "nothing has landed yet",
    }
    columns, labels = shown.tables_of("Column", "Type", "Meaning", "Value", "")
    assert columns[2] == ["customer_id", "bigint", "The card's holder; stands for the card.", "required", "personal"]
    assert [row[0] for row in columns] == [column.name for column in use_case.events.columns]
    assert columns[0][-1] == labels[0][-1] == "key"
    rules = shown.tables_of("Rule", "Kind", "Severity", "Meaning", "Limits")
    for feed, told in zip(use_case.feeds, rules, strict=True):
        assert [row[0] for row in told] == [*(rule.name for rule in (*feed.rules, *feed.batch_rules, *feed.feed_rules)), "duplicate"]
    assert ["amount_in_range", "range", "reject", "tx_amount lies outside 0..1000000", "tx_amount < 0 or tx_amount > 1000000"] in rules[0]
    assert ["usual_volume", "temporal", "stop"] in [row[:3] for row in rules[1]]
    assert "No night is known yet." in shown.text


def test_tables_without_a_record_are_no_hindrance(records_home: Settings) -> None:
    assert "No night is known yet." in written(records_home).text


def test_landings_promises_broken_rules_and_stale_nights_stand_on_the_page(records_home: Settings, use_case: UseCase) -> None:
    feed = use_case.events
    night = [FIRST + timedelta(days=number) for number in range(34)]
    missing, stopped, warned, waived, odd = night[10], night[12], night[14], night[16], night[33]
    land(records_home, feed, [n for n in night if n not in (missing, stopped)])
    land(records_home, feed, [odd], rows=1203, accepted=1200, rejected=3)
    for kept in (night[20], night[21]):
        judge(records_home, feed, kept, "fresh", "warn", "passed")
    judge(records_home, feed, night[22], "fresh", "warn", "unknown")
    judge(records_home, feed, warned, "fresh", "warn", "failed", reason="it came 9.2 hours after the day ended")
    judge(records_home, feed, stopped, "usual_volume", "stop", "failed", reason="12 rows, expected 500 to 2000", rows=12)
    judge(records_home, feed, waived, "usual_volume", "stop", "accepted", reason="13 rows")
    judge(records_home, feed, odd, "not_in_the_future", "reject", "failed", rows=1203, failed_rows=3, reason="too late")
    judge(records_home, feed, night[0], "usual_volume", "warn", "failed", reason="long ago")
    stale.mark(records_home, tables.silver(feed), [night[1]], "an earlier night came")
    stale.mark(records_home, tables.features(use_case), [night[3], night[4], night[6]], "silver changed")
    stale.mark(records_home, tables.scores(use_case), [night[3]], "silver changed")
    stale.rebuilt(records_home, tables.scores(use_case), [night[3]])

    [chapter] = sources.read(records_home)
    source = chapter.sources[0]
    assert source.last == Landing(LAST, "transactions/2026-04-03.csv.gz", datetime(2026, 4, 4, 1, tzinfo=UTC), 1203, 3)
    states = {n.night: n.state for n in source.nights}
    assert list(states) == night[4:]
    told = {missing: "missing", stopped: "stopped", warned: "warned", waived: "warned", odd: "rejected"}
    assert states == dict.fromkeys(night[4:], "fine") | told
    assert (source.in_time, source.late) == (2, 1)
    assert [(f.night, f.rule, f.verdict) for f in source.failures] == [
        (odd, "not_in_the_future", "failed"),
        (waived, "usual_volume", "accepted"),
        (warned, "fresh", "failed"),
        (stopped, "usual_volume", "failed"),
    ]
    assert source.stale == (night[1],)
    assert chapter.stale == {"gold.card_fraud_features": (night[3], night[4], night[6])}
    assert chapter.sources[1] == Source(use_case.labels)

    shown = written(records_home)
    facts = dict(shown.facts[: len(shown.facts) // 2])
    assert facts["Promise"] == "there 6 h after the day ends (UTC) kept 2 of 3 times"
    assert facts["Last landing"] == ("night 2026-04-03: 1,203 rows, 3 to quarantine came 2026-04-04 01:00 transactions/2026-04-03.csv.gz")
    [broken] = shown.tables_of("Night", "Rule", "Severity", "Rows", "What was seen")
    assert broken[0] == ["2026-04-03", "not_in_the_future", "reject", "3 of 1,203", "too late"]
    assert [cell.split() for cell in broken[1][2:4]] == [["stop", "accepted"], []]
    marks = [found["title"] for name, found in shown.tags if name == "li" and found.get("title")]
    assert len(marks) == 30
    assert marks[-1] == "2026-04-03: with rejected rows, 1,203 rows, 3 rejected"
    words = " ".join("".join(shown.text).split())
    assert "3 nights of gold.card_fraud_features to rebuild: 2026-03-04 … 2026-03-05, 2026-03-07" in words.replace(
        " gold.card_fraud_features ", " gold.card_fraud_features "
    )
    assert "To ingest again: 2026-03-02" in words


def test_a_feed_that_ended_still_shows_its_last_landing(records_home: Settings, use_case: UseCase) -> None:
    feed = use_case.labels
    land(records_home, feed, [FIRST])
    land(records_home, feed, [LAST], source=None, rows=0, accepted=0, landed_at=None)
    source = sources.read(records_home)[0].sources[1]
    assert source.last is not None
    assert source.last.night == FIRST
    assert source.nights[-1] == Night(LAST, "none")


def test_no_text_of_a_contract_or_a_record_becomes_markup(use_case: UseCase) -> None:
    rule = RowRule(name="odd", severity="warn", kind="range", reason=HOSTILE, breach=f"guest like '{HOSTILE}'")
    feed = Feed(
        name="visits",
        description=HOSTILE,
        columns=(Column("visit_id", "bigint", HOSTILE), Column("came_at", "timestamp", "When.", since="1.1.0")),
        key="visit_id",
        event_time="came_at",
        rules=(rule,),
        feed_rules=(Reference(name="known", severity="warn", reason=HOSTILE, feed=HOSTILE, within_days=1),),
        owner=HOSTILE,
        grain=HOSTILE,
        version="1.1.0",
        versions=("1.0.0", "1.0.1", "1.1.0"),
        first_drop=FIRST,
        pull=Pull(connection="door", relation="public.visits", watermark="written_at"),
    )
    failure = Failure(FIRST, HOSTILE, HOSTILE, HOSTILE, 2, 1, HOSTILE)
    source = Source(feed, Landing(FIRST, HOSTILE, None, 2, 1), (Night(FIRST, "warned", 2, 1),), (failure,) * 101)
    plain = Source(replace(feed, description="", owner="", grain="", rules=(), feed_rules=()))
    chapter = Chapter(replace(use_case, title=HOSTILE, owner=HOSTILE), (source,), {HOSTILE: (FIRST,)})

    shown, without = page([chapter]), page([Chapter(use_case, (plain,), {})])

    seen = "".join(shown.text)
    assert seen.count("<script>alert('1')</script>") >= 8 + 3 * 100
    assert {name for name, _ in shown.tags} - {name for name, _ in without.tags} <= {"ol", "ul", "li", "i", "br"}
    facts = dict(shown.facts)
    assert facts["Owner"] == facts["Grain"] == HOSTILE
    assert facts["Comes"] == "pulled from public.visits over connection door"
    assert facts["Nights"] == f"{FIRST} … on"
    assert "and 1 more, in " in seen
    [versions] = shown.tables_of("Version", "What it brought")
    assert versions == [["1.1.0", "came_at"], ["1.0.1", "no column: rules or words changed"], ["1.0.0", "visit_id"]]
    assert dict(without.facts)["Owner"] == "nobody named"


def test_nights_that_end_at_once_leave_one_whole_page(records_home: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sources.write(records_home), range(12)))
    assert written(records_home).values("h3", "id")


def test_the_program_says_where_the_page_is_or_in_one_line_why_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path))
    assert sources.main() == 0
    assert capsys.readouterr().out == f"{tmp_path}/reports/sources.html\n"
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "reports" / "sources.html"))
    assert sources.main() == 1
    told = capsys.readouterr().err
    assert told.startswith("nightshift: ")
    assert told.count("\n") == 1
