"""Proof: what speaks for a model that reigns or is to reign. Nothing is believed because it stands in a table.

The report's digest is worked out anew from its document, and what the columns say must be what the document says; an answer counts for this
very digest; and no row that is looked at may have been altered since it was sealed (`lakehouse.chain`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from include.nightshift.lakehouse import chain, records, tables
from include.nightshift.promote import report as reports

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

APPROVE, REJECT, VOID = "Approve", "Reject", "Void"
"""What an answer is; void is the yes of somebody whose word does not count."""
BOUND = ("use_case", "model_version", "model_sha256", "champion_version", "champion_sha256", "baseline_sha256")
"""Columns of a report that its document vouches for."""


@dataclass(frozen=True)
class Papers:
    """One use case's history, reports and answers, as they stood at one moment, and which rows of them do not hold."""

    history: Sequence[Record]
    """In the order they were written."""
    reports: Sequence[Record]
    answers: Sequence[Record]
    broken: Mapping[tuple[str, int | None], str]
    """What is wrong with a row, by table and place."""

    @classmethod
    def read(cls, settings: Settings, use_case: UseCase) -> Papers:
        held = {table: records.read(settings, table) for table in (tables.CHAMPION_HISTORY, tables.GATE_REPORTS, tables.APPROVALS)}
        broken = {(fault.table, fault.seq): fault.what for table, rows in held.items() for fault in chain.faults(table, rows)}
        history, reports, answers = ([row for row in written(rows) if row["use_case"] == use_case.name] for rows in held.values())
        return cls(history, reports, answers, broken)

    def report(self, digest: str) -> Record | None:
        """The report of this digest; of several, which is a fault, the first."""
        return next((report for report in self.reports if report["report_digest"] == digest), None)

    def answer(self, digest: str) -> Record:
        """The newest answer to the report of this digest."""
        return [answer for answer in self.answers if answer["report_digest"] == digest][-1]

    def against_report(self, digest: str) -> list[str]:
        """Why the report does not let its model reign; nothing where it does."""
        found = [report for report in self.reports if report["report_digest"] == digest]
        if len(found) != 1:
            return [f"{tables.GATE_REPORTS} holds {len(found)} reports {digest[:12]}, expected one"]
        [report] = found
        said = [f"its {tables.GATE_REPORTS} row does not hold: {fault}" for fault in self._faults(tables.GATE_REPORTS, report)]
        said += _against_document(report)
        if report["passed"] is not True:
            said.append(f"report {digest[:12]} did not pass the gates")
        return said

    def against_answer(self, digest: str, at: datetime | None) -> list[str]:
        """Why nobody's word lets the model reign; nothing where somebody's does.

        `at`: the moment at which it is to be promoted, when the newest answer counts and must be valid still. None where it was promoted:
        what was answered after that, to the same question asked again, unseats nobody.
        """
        found = [answer for answer in self.answers if answer["report_digest"] == digest]
        if at is None:
            found = [answer for answer in found if answer["answer"] == APPROVE] or found
        if not found:
            return [f"nobody answered for report {digest[:12]}"]
        answer = found[-1]
        said = [f"its {tables.APPROVALS} row does not hold: {fault}" for fault in self._faults(tables.APPROVALS, answer)]
        if answer["answer"] != APPROVE:
            said.append(f"{answer['by']} answered {answer['answer']} for report {digest[:12]}")
        if at and answer["expires_at"] and answer["expires_at"] < at:
            said.append(f"{answer['by']}'s approval of report {digest[:12]} was valid until {answer['expires_at']:%Y-%m-%d %H:%M} UTC")
        report = self.report(digest)
        if report and answer["model_version"] not in (None, report["model_version"]):
            said.append(f"{answer['by']} approved version {answer['model_version']}, the report is of {report['model_version']}")
        return said

    def against_reign(self, reign: Record) -> list[str]:
        """Why a model may not score though the history says that it reigns; nothing where it may."""
        digest = reign["report_digest"] or ""
        said = [f"its {tables.CHAMPION_HISTORY} row does not hold: {fault}" for fault in self._faults(tables.CHAMPION_HISTORY, reign)]
        said += self.against_report(digest) + self.against_answer(digest, None)
        report = self.report(digest)
        for column in ("model_version", "model_sha256") if report else ():
            if reign[column] != report[column]:  # type: ignore[index]
                said.append(f"the history says {column} {reign[column]}, its report {report[column]}")  # type: ignore[index]
        return said

    def _faults(self, table: Table, row: Record) -> list[str]:
        return [self.broken[place]] if (place := (str(table), row["seq"])) in self.broken else []


def written(rows: Sequence[Record]) -> list[Record]:
    """Rows in the order they were written; once any is sealed, one without a seal was put in by somebody, and is not looked at."""
    sealed = [row for row in rows if row["seal"]]
    return sorted(sealed, key=lambda row: int(row["seq"] or 0)) or list(rows)


def _against_document(row: Record) -> list[str]:
    """What the columns say that the document, of which the digest is, does not; whether it passed is worked out anew from its verdicts."""
    digest, text = str(row["report_digest"]), row["document"]
    if text is None:
        return [f"report {digest[:12]} has no document: it is of an earlier version, so train and judge anew"]
    if (seen := reports.digest(text)) != digest:
        return [f"report {digest[:12]} has the digest {seen[:12]}: it was altered after it was judged"]
    try:
        report, bound = reports.read(text)
    except (ValueError, TypeError, LookupError) as error:
        return [f"report {digest[:12]} has a document that is none ({type(error).__name__}: {error})"]
    told = {**{name: bound.get(name) for name in BOUND}, "passed": report.passed}
    return [
        f"report {digest[:12]}: its column {name} says {row[name]}, its document {value}"
        for name, value in told.items()
        if row[name] != value
    ]
