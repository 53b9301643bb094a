"""Erased: a person's rows are recognised however their id is spelled, everybody else's stay, and a lost key is not passed over."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import time
from dataclasses import replace
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from include.nightshift import keys
from include.nightshift.errors import ConfigurationError
from include.nightshift.ingest import erased, landing
from include.nightshift.lakehouse import records, tables
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import FRAUD_LABELS, TRANSACTIONS

NIGHT = date(2026, 11, 20)
CARD, OTHER = 7_412_906_358_174_205_693, 7_412_906_358_174_205_694
EVENT = 8_100_000_000_000_000_017
PERSON = {("customer_id", erased.ENTITY): [str(CARD)], ("transaction_id", erased.KEY): [str(EVENT)]}
SPELLINGS = ["{}", " {} ", "\t{}\r", "+{}", "000{}", " +00{}\x7f", "\x00{}"]
NO_NUMBERS = ["{}.0", "x{}", "{} EUR", "'{}'"]


def table(*rows: tuple[str | None, str | None], texts: list[str | None] | None = None) -> pa.Table:
    return pa.table(
        {
            "transaction_id": pa.array([row[0] for row in rows], pa.string()),
            "customer_id": pa.array([row[1] for row in rows], pa.string()),
            "_text": pa.array(texts or [None] * len(rows), pa.string()),
        }
    )


@pytest.fixture(params=["listed", "digests"])
def person(request: pytest.FixtureRequest, records_home: Settings) -> erased.Erased:
    """Recognised by the ids themselves, as erasure does, and by their digests, as ingest does."""
    if request.param == "listed":
        return erased.of(PERSON)
    erased.register(records_home, "r1", PERSON)
    return erased.known(records_home)


def test_an_id_is_recognised_in_every_spelling_that_silver_reads_and_in_those_that_it_rejects(person: erased.Erased) -> None:
    spelled = [spelling.format(CARD) for spelling in (*SPELLINGS, *NO_NUMBERS)]
    assert person.theirs(table(*(("1", text) for text in spelled))).all()
    others = [spelling.format(OTHER) for spelling in (*SPELLINGS, *NO_NUMBERS)]
    longer = [f"{CARD}0", f"1{CARD}", f"-{CARD}", "", None, f"{CARD // 10}"]
    assert not person.theirs(table(*(("1", text) for text in (*others, *longer)))).any()


def test_an_event_decides_only_where_no_entity_can_be_read(person: erased.Erased) -> None:
    rows = table((str(EVENT), str(OTHER)), (f" +0{EVENT}", ""), (str(EVENT), None), (str(EVENT), "somebody"), (None, None))
    assert person.theirs(rows).tolist() == [False, True, True, True, False]
    verdicts = pa.table({"transaction_id": [str(EVENT), f"0{EVENT}", "5", None], "tx_fraud": ["1", "0", "1", "1"]})
    assert person.theirs(verdicts).tolist() == [True, True, False, False]


def test_a_line_that_cannot_be_parted_is_theirs_when_it_holds_a_number_of_theirs_as_a_whole(person: erased.Erased) -> None:
    texts = [f"9,x,{CARD}", f'{{"customer_id": {EVENT}', f"9,{CARD}0", f"{OTHER}", None]
    assert person.theirs(table(*[(None, None)] * 5, texts=texts)).tolist() == [True, True, False, False, False]


def test_numbers_in_columns_of_other_kinds_and_tables_without_rows_are_nobodys(person: erased.Erased) -> None:
    assert not person.theirs(pa.table({"terminal_id": [str(CARD)], "_text": pa.array([None], pa.string())})).any()
    assert person.theirs(table()).tolist() == []


NUMBERS = st.integers(-(10**6), 10**6)
BLANKS = st.text(st.sampled_from(" \t\r\x00"), max_size=2)
SPELLED = st.builds(lambda before, zeros, n, after: f"{before}{'-' if n < 0 else ''}{'0' * zeros}{abs(n)}{after}",
                    BLANKS, st.integers(0, 3), NUMBERS, BLANKS)  # fmt: skip


@given(st.lists(st.tuples(SPELLED, st.one_of(SPELLED, st.none(), st.text(max_size=5))), max_size=20), st.sets(NUMBERS), st.sets(NUMBERS))
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_filter_agrees_with_its_definition_row_by_row(rows: list[tuple[str, str | None]], people: set[int], events: set[int]) -> None:
    whom = erased.of({("customer_id", erased.ENTITY): set(map(str, people)), ("transaction_id", erased.KEY): set(map(str, events))})

    def number(text: str | None) -> int | None:
        stripped = (text or "").strip("".join(map(chr, range(33))) + "\x7f")
        return int(stripped) if stripped.removeprefix("-").removeprefix("+").isascii() and stripped.lstrip("+-").isdigit() else None

    def is_theirs(row: tuple[str, str | None]) -> bool:
        if (said := number(row[1])) is not None:
            return said in people
        return number(row[0]) in events or bool(erased.tokens(row[1] or "") & set(map(str, people)))

    known_shapes = [row for row in rows if row[1] is None or not row[1].strip().startswith(("+-", "-+", "++", "--"))]
    assert whom.theirs(table(*known_shapes)).tolist() == [is_theirs(row) for row in known_shapes]


def test_digests_are_registered_once_hold_no_id_and_come_with_the_name_of_their_key(records_home: Settings) -> None:
    assert erased.register(records_home, "r1", PERSON) == 2
    assert erased.register(records_home, "r2", PERSON) == 0
    held = records.read(records_home, tables.ERASED_KEYS)
    key = keys.held(records_home, keys.ERASURE)
    assert {(r["request_id"], r["kind"], r["column_name"], r["digest"], r["key_check"]) for r in held} == {
        ("r1", "entity", "customer_id", key.digest("customer_id", str(CARD)), key.check),
        ("r1", "key", "transaction_id", key.digest("transaction_id", str(EVENT)), key.check),
    }
    assert str(CARD) not in str(held)


@pytest.mark.parametrize("lost", ["missing", "another"])
def test_without_the_key_of_the_digests_nothing_is_ingested_and_none_is_registered(records_home: Settings, lost: str) -> None:
    erased.register(records_home, "r1", PERSON)
    path = records_home.home / "keys" / "erasure.key"
    path.unlink()
    if lost == "another":
        keys.made(records_home, keys.ERASURE)
    for act in (lambda: erased.known(records_home), lambda: erased.register(records_home, "r2", PERSON)):
        with pytest.raises(ConfigurationError, match=r"could come back, so nothing is ingested\. Restore the key"):
            act()
    assert path.exists() == (lost == "another")


def test_where_nobody_was_erased_no_key_is_made_and_no_row_looked_at(records_home: Settings) -> None:
    whom = erased.known(records_home)
    assert not whom
    assert not (records_home.home / "keys").exists()


def landed(settings: Settings, rows: list[str], name: str = "transactions", header: str | None = None) -> landing.Drop:
    feed = TRANSACTIONS if name == "transactions" else FRAUD_LABELS
    path = settings.landing_folder / name / f"{NIGHT}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join([header or ",".join(column.name for column in feed.columns), *rows, ""]).encode()))
    drop = landing.read(settings, feed, NIGHT)
    assert drop is not None
    return drop


ROWS = [f"1,{NIGHT} 08:00:00,11,21,9.50", f"{EVENT},{NIGHT} 08:00:00, +{CARD},21,9.50", f"9,{CARD}", f"3,{NIGHT} 08:00:00,12,21,1"]


def test_a_file_of_ours_is_rewritten_before_it_is_ingested_and_the_old_one_again_gives_the_same(records_home: Settings) -> None:
    erased.register(records_home, "r1", {("customer_id", erased.ENTITY): [str(CARD)]})
    whom = erased.known(records_home)
    drop = landed(records_home, ROWS)
    path = records_home.landing_folder / drop.source
    old = path.read_bytes()
    os.utime(path, (1_700_000_000, 1_700_000_000))
    path.chmod(0o640)
    taken = erased.left_out(records_home, TRANSACTIONS, drop, whom)
    assert gzip.decompress(path.read_bytes()).decode().splitlines()[1:] == [ROWS[0], ROWS[3]]
    assert (taken.rows, taken.erased, taken.batch) == (2, 0, hashlib.sha256(path.read_bytes()).hexdigest())
    assert (path.stat().st_mtime, stat.S_IMODE(path.stat().st_mode)) == (1_700_000_000, 0o640)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    path.write_bytes(old)
    again = landing.read(records_home, TRANSACTIONS, NIGHT)
    assert again is not None
    assert erased.left_out(records_home, TRANSACTIONS, again, whom).batch == taken.batch


def test_a_landing_that_is_not_ours_is_left_as_it_is_and_its_rows_are_counted(records_home: Settings) -> None:
    elsewhere = replace(records_home, landing=f"{records_home.home}-elsewhere")
    erased.register(elsewhere, "r1", PERSON)
    drop = landed(elsewhere, ROWS)
    before = (elsewhere.landing_folder / drop.source).read_bytes()
    taken = erased.left_out(elsewhere, TRANSACTIONS, drop, erased.known(elsewhere))
    assert (taken.rows, taken.erased, taken.batch) == (2, 2, drop.batch)
    assert (elsewhere.landing_folder / drop.source).read_bytes() == before


def test_events_of_theirs_that_land_later_are_remembered_so_that_their_verdicts_stay_out_too(records_home: Settings) -> None:
    erased.register(records_home, "r1", {("customer_id", erased.ENTITY): [str(CARD)]})
    whom = erased.known(records_home)
    shared = f"4,{NIGHT} 08:00:00,{CARD},21,1", f"4,{NIGHT} 08:00:00,12,21,1"
    erased.left_out(records_home, TRANSACTIONS, landed(records_home, [*ROWS, *shared]), whom)
    verdicts = landed(records_home, [f"{EVENT},1,{NIGHT} 09:00:00", f"4,1,{NIGHT} 09:00:00"], "fraud_labels")
    taken = erased.left_out(records_home, FRAUD_LABELS, verdicts, erased.known(records_home))
    # Somebody else's row bears 4 too: its verdict may be theirs.
    assert taken.table["transaction_id"].to_pylist() == ["4"]


def test_a_million_rows_cost_seconds_only_where_somebody_was_erased(records_home: Settings) -> None:
    numbers = pa.array(range(10**18, 10**18 + 1_000_000), pa.int64())
    rows = pa.table({"transaction_id": numbers.cast(pa.string()), "tx_fraud": pa.repeat("0", 1_000_000)})
    drop = landing.Drop("fraud_labels", NIGHT, "", "", "1.0.0", False, datetime.now(UTC), rows)
    started = time.perf_counter()
    assert erased.left_out(records_home, FRAUD_LABELS, drop, erased.known(records_home)) is drop
    nothing = time.perf_counter() - started
    erased.register(records_home, "r1", PERSON)
    whom, started = erased.known(records_home), time.perf_counter()
    assert not whom.theirs(rows).any()
    verdicts = time.perf_counter() - started
    cards = pa.array((f"{10**17 + number % 5000}" for number in range(1_000_000)), pa.string())
    started = time.perf_counter()
    assert not whom.theirs(rows.append_column("customer_id", cards)).any()
    transactions = time.perf_counter() - started
    print(f"a million rows: nobody erased {nothing:.3f} s, transactions {transactions:.2f} s, verdicts {verdicts:.2f} s")
    assert nothing < 0.5
    assert verdicts < 20
    assert transactions < 2
