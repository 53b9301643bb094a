"""Report: what the gates said of a candidate, bound to all that it was said of, as one text and its digest.

The text is canonical JSON, kept whole in `ops.gate_reports`: whoever has it can make the digest again, and an approval of a digest is an
approval of exactly these bytes of a model, these versions of the tables, this code, this policy and these verdicts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.promote.gates import Report

if TYPE_CHECKING:
    from include.nightshift.settings import Settings


def document(report: Report, **bound: Any) -> str:
    """The text: keys sorted, dates as ISO text, dataclasses as objects, tuples as lists.

    Args:
        report: what the gates said.
        bound: model sha256, table versions, code, policy, question, nights: plain values, dates, dataclasses, and mappings of these.

    Raises:
        TypeError: a bound value has no canonical form.
        ValueError: a bound value is NaN or infinite.
    """
    sealed = {"bound": bound, **report.as_dict()}
    return json.dumps(sealed, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_plain)


def digest(text: str) -> str:
    """SHA-256 of a report's text, by which it is known everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(text: str) -> tuple[Report, Mapping[str, Any]]:
    """What a text says: the report, its outcome worked out anew from the verdicts, and what it is bound to."""
    told = json.loads(text)
    return Report.from_dict(told), told["bound"]


def place(settings: Settings, digest: str) -> Path:
    """Where the page of a report lies (`promote.page`)."""
    return settings.home / "reports" / "gates" / f"{digest}.html"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    raise TypeError(
        f"a digest cannot bind {value!r} of type {type(value).__name__}: give text, numbers, dates, dataclasses or mappings of them"
    )
