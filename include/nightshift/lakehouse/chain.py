"""Chain: records of which none can be changed, taken away, put in or moved unseen. `make chain` tells whether they hold.

Each row of a chained table is sealed: SHA-256 over what it says, its number and the seal of the row before, so that a row vouches for
all before it. Whoever can write the tables can also seal everything anew: that is found only by who has kept a seal elsewhere, which
is why each night's newest ones (`heads`) go to Airflow's audit log.

A seal covers all that a row says when it is written, also the moments: rows are written once, so no rerun needs to look alike, and a
backdated answer would be as false as another answer. Not covered is what is filled in later: when a reign ends. It follows from the
rows after it, and is checked against them. Nulls are passed over, so that a column of a later version leaves old seals as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import ChainError
from include.nightshift.lakehouse import records, tables

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.lakehouse.writes import Written
    from include.nightshift.settings import Settings

EVENT = "nightshift.chain"
"""The event under which Airflow's audit log keeps the heads of a night."""
CHAINED = tuple(table for table in tables.SHARED if table.is_chained)


@dataclass(frozen=True)
class Fault:
    """A row that is not as it was written."""

    table: str
    seq: int | None
    """The row's place in the chain; of rows that are missing, the first one's; None where it has none."""
    what: str
    """What was seen, and what was expected."""
    advice: str

    def __str__(self) -> str:
        return f"{self.table} row {'without a number' if self.seq is None else self.seq}: {self.what}. {self.advice}"


def append(settings: Settings, table: Table, record: Mapping[str, Any], unless: Mapping[str, Any]) -> Written:
    """Add a record to the chain's end, in one commit; none where a record with the values of `unless` stands already.

    Raises:
        ValueError: a figure is not a number, or infinite.
        WriteConflictError: others won every attempt.
    """

    def added(chain: list[Record]) -> list[Record]:
        stands = unless and any(all(row[name] == value for name, value in unless.items()) for row in chain)
        return chain if stands else [*chain, dict(record)]

    return amend(settings, table, added)


def amend(settings: Settings, table: Table, change: Callable[[list[Record]], list[Record]]) -> Written:
    """Let `change` see the chain in its order, fill in what is filled in later, and add records; one commit, none without a change.

    Rows of an earlier version, without seals, are taken into the chain by the first change, in the order of their moment, then of what
    they say. Later on a row without a seal is none of the chain: `change` does not see it, and it stays where it is for `verify`.

    `change` is called again whenever another writer came first.

    Raises:
        ChainError: `change` took a row away, or changed what is sealed; nothing was written.
        ValueError: a figure is not a number, or infinite.
        WriteConflictError: others won every attempt.
    """

    def grown(held: list[Record]) -> list[Record]:
        chain, strangers = _parted(table, held)
        wanted = change([dict(row) for row in chain])
        return held if wanted == chain else [*strangers, *_grown(table, chain, wanted)]

    return records.amend(settings, table, grown)


def verify(settings: Settings, table: Table | None = None, heads: Iterable[Mapping[str, str]] = ()) -> list[Fault]:
    """What is wrong with the chain of the table, or with any; the first row that is wrong comes first.

    :param heads: what `heads` said at earlier times, to find also newest rows that are gone, and a chain that was sealed anew.
    """
    kept = list(heads)
    return [fault for each in ([table] if table else CHAINED) for fault in faults(each, records.read(settings, each), kept)]


def heads(settings: Settings) -> dict[str, str]:
    """Number and seal of the newest row, `12:9f86…`, by table; tables without a sealed row are left out."""
    chains = {str(table): _chain(records.read(settings, table)) for table in CHAINED}
    return {name: _head(chain[-1]) for name, chain in chains.items() if chain}


def faults(table: Table, rows: Sequence[Record], heads: Iterable[Mapping[str, str]] = ()) -> list[Fault]:
    """What is wrong with a table's rows, in the order of their numbers."""
    chain = _chain(rows)
    found = [*_links(table, chain), *_against(table, chain, heads)]
    if chain:
        found += [_fault(table, row["seq"], f"it has no seal, so it was put in: {_told(row)}") for row in rows if not row["seal"]]
    if table == tables.CHAMPION_HISTORY:
        found += _reigns(table, chain)
    return sorted(found, key=lambda fault: (fault.seq is None, fault.seq or 0))


def seal(table: Table, row: Mapping[str, Any]) -> str:
    """The seal that belongs to a row: SHA-256 over its sealed columns, as canonical JSON."""
    return hashlib.sha256(canonical({name: row[name] for name in table.sealed}).encode()).hexdigest()


def canonical(said: Mapping[str, Any]) -> str:
    """JSON of which there is one only: sorted names, no spaces, ASCII; nulls are left out, moments are in UTC to the microsecond.

    Raises:
        ValueError: a figure is not a number, or infinite.
    """
    plain = {name: _plain(value) for name, value in said.items() if value is not None}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value.isoformat() if isinstance(value, date) else value


def _chain(rows: Iterable[Record]) -> list[Record]:
    """The sealed rows, in their order."""
    return sorted((row for row in rows if row.get("seal")), key=lambda row: (row["seq"] or 0, row["seal"]))


def _parted(table: Table, held: list[Record]) -> tuple[list[Record], list[Record]]:
    """The chain, in its order, and the rows that are none of it. Where no row has a seal, all become the chain."""
    if chain := _chain(held):
        return chain, [row for row in held if not row["seal"]]
    moment = next(column.name for column in table.columns if column.type == "timestamp")
    return _sealed(table, [], sorted(held, key=lambda row: (canonical({moment: row[moment]}), canonical(row)))), []


def _grown(table: Table, chain: list[Record], wanted: list[Record]) -> list[Record]:
    """The rows that a change wants: those of the chain, with what was filled in, and the new ones, sealed."""
    kept, new = [row for row in wanted if row.get("seal")], [row for row in wanted if not row.get("seal")]
    stood, stands = ([repr([row.get(name) for name in (*table.sealed, "seal")]) for row in rows] for rows in (chain, kept))
    if sorted(stood) != sorted(stands):
        rows = ", ".join(str(row["seq"]) for row, said in zip(chain, stood, strict=True) if said not in stands)
        raise ChainError(
            f"{table}: a change was to {f'alter or remove row {rows}' if rows else 'repeat a seal'} of the chain; nothing was written. "
            "Add a row, without seal, that says what holds now"
        )
    return [*kept, *_sealed(table, chain, new)]


def _sealed(table: Table, chain: Sequence[Record], new: Iterable[Mapping[str, Any]]) -> list[Record]:
    """New records as rows that follow the chain."""
    last = chain[-1] if chain else {"seq": 0, "seal": ""}
    rows: list[Record] = []
    # By way of the table's own types: what is sealed is what will be read.
    for row in table.arrow(new).to_pylist():
        row |= {"seq": (last["seq"] or 0) + 1, "before": last["seal"]}
        last = row | {"seal": seal(table, row)}
        rows.append(last)
    return rows


def _links(table: Table, chain: list[Record]) -> Iterator[Fault]:
    """Rows that are missing, doubled, altered, or not those after which the next one was sealed."""
    places: dict[int, list[Record]] = {}
    for row in chain:
        places.setdefault(row["seq"] or 0, []).append(row)
    genuine = {seq: [row for row in rows if _holds(table, row)] for seq, rows in places.items()}
    disowned = _disowned(genuine)
    expected = 1
    for seq, rows in places.items():
        if seq > expected:
            yield _fault(table, expected, f"{'it is' if seq == expected + 1 else f'it and all up to row {seq - 1} are'} missing")
        expected = max(expected, seq + 1)
        if seq < 1:
            yield _fault(table, rows[0]["seq"], f"no row has this number, so it was put in: {_told(rows[0])}")
        elif len(rows) > 1:
            yield _fault(table, seq, f"{len(rows)} rows have this number, so one was put in: {' | '.join(map(_told, rows))}")
        elif not genuine[seq]:
            yield _fault(table, seq, f"it was altered, because its seal is that of other words: {_told(rows[0])}")
        elif seq in disowned:
            yield _fault(table, seq, f"row {seq + 1} was sealed after another one, so it was exchanged: {_told(rows[0])}")
        elif seq == 1 and rows[0]["before"]:
            yield _fault(table, seq, f"it was sealed after a row that is gone: {_told(rows[0])}")


def _disowned(genuine: Mapping[int, Sequence[Record]]) -> set[int]:
    """The places of which no row is the one after which the next was sealed.

    Looked for from the end: a row that was itself disowned, or whose seal does not hold, says nothing of the one before it.
    """
    disowned: set[int] = set()
    for seq in sorted(genuine, reverse=True):
        nexts = [] if seq + 1 in disowned else genuine.get(seq + 1, [])
        if nexts and not {row["before"] for row in nexts} & {row["seal"] for row in genuine[seq]}:
            disowned.add(seq)
    return disowned


def _against(table: Table, chain: list[Record], heads: Iterable[Mapping[str, str]]) -> Iterator[Fault]:
    """Rows that were newest once, and are not there, or not as they were."""
    stand = {_head(row) for row in chain}
    for head in sorted({kept[str(table)] for kept in heads if str(table) in kept} - stand):
        seq = int(head.partition(":")[0])
        there = any(row["seq"] == seq for row in chain)
        gone = "it is another one, so it or a row before it was altered, and all sealed anew" if there else "it is gone, and all after it"
        yield _fault(table, seq, f"a kept head says {head[:24]}…: {gone}")


def _reigns(table: Table, chain: list[Record]) -> Iterator[Fault]:
    """Reigns that end on another night than the one before the first of those that were decided later."""
    begins: dict[str, date] = {}
    for row in reversed([row for row in chain if row["from_night"]]):
        first = begins.get(row["use_case"])
        until = first and max(first, row["from_night"]) - timedelta(days=1)
        if row["until_night"] != until:
            yield _fault(table, row["seq"], f"its until_night is {row['until_night']}, expected {until} by the rows after it: {_told(row)}")
        begins[row["use_case"]] = min(first or row["from_night"], row["from_night"])


def _holds(table: Table, row: Record) -> bool:
    try:
        return bool(row["seal"] == seal(table, row))
    except ValueError:  # never sealed: no number
        return False


def _head(row: Record) -> str:
    return f"{row['seq']}:{row['seal']}"


def _told(row: Record) -> str:
    """What names a row to a person."""
    return ", ".join(f"{name} {value}" for name, value in list(row.items())[:4])


def _fault(table: Table, seq: int | None, what: str) -> Fault:
    return Fault(
        str(table),
        seq,
        what,
        f"`describe history {table}` says when it was written, `select * from {table} version as of n` what stood there before, as far "
        "as `maintain` has not cleared it: keep both, and find out who",
    )
