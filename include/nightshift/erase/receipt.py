"""The receipt: what was found, kept on disk before it is removed, and at the end in `ops.erasures`. It tells of no id.

A run that is killed has removed what the next one can no longer find; what it had found is in `<home>/erasures/<token>.found`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import durable
from include.nightshift.lakehouse import chain, records, tables

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.lakehouse.records import Record
    from include.nightshift.settings import Settings

TABLE = tables.ERASURES
_ALL = "all"


@dataclass
class Found:
    """What an erasure found, over all its runs."""

    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows by table and night; by `all` in a table without nights."""
    purged: list[str] = field(default_factory=list)
    """Tables whose older versions told of the person."""
    pins: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    """Rows by file of ours."""
    reported: dict[str, str] = field(default_factory=dict)
    """What is wrong, by file that is not ours to change or that cannot be read."""
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    """How it is known, by use case and model version."""
    retrain: list[str] = field(default_factory=list)

    def add_rows(self, table: str, addresses: pa.Table) -> None:
        """Count rows that were found; a table tells the same, or less, each time it is asked."""
        nights = [night.isoformat() for night in addresses["day"].to_pylist()] if "day" in addresses.column_names else []
        counted = Counter(nights or [_ALL] * addresses.num_rows)
        if counted:
            held = self.rows.setdefault(table, {})
            held |= {night: max(rows, held.get(night, 0)) for night, rows in counted.items()}

    def nights(self, table: str) -> list[date]:
        """The nights of a table that held the person."""
        return [date.fromisoformat(night) for night in self.rows.get(table, {}) if night != _ALL]

    def add_purged(self, table: str, pins: Iterable[dict[str, Any]]) -> None:
        self.purged = sorted({*self.purged, table})
        self.pins += [pin for pin in pins if pin not in self.pins]

    def save(self, settings: Settings, token: str) -> None:
        """On disk, before what was found is removed."""
        with durable.placed(_path(settings, token)) as temporary:
            temporary.write_text(json.dumps(asdict(self), sort_keys=True, default=str))


def found(settings: Settings, token: str) -> Found:
    """What earlier runs of the request found."""
    path = _path(settings, token)
    return Found(**json.loads(path.read_text())) if path.exists() else Found()


def of(settings: Settings, token: str) -> Record | None:
    """The request's receipt, if it was carried out."""
    held = records.read(settings, TABLE, request_id=token)
    return held[0] if held else None


def known_models(settings: Settings, subject: str) -> dict[str, dict[str, str]]:
    """The models that earlier receipts of the same person list: what they were trained on does not change."""
    told: dict[str, dict[str, str]] = {}
    for record in records.read(settings, TABLE, subject=subject):
        for use_case, versions in json.loads(record["models"]).items():
            told.setdefault(use_case, {}).update(versions)
    return told


def write(settings: Settings, token: str, use_case: str, subject: str, done: Found, searched: Mapping[str, Any]) -> Record:
    """Write the receipt; a second one of the request changes nothing. Returns it as it stands."""
    receipt: Record = {
        "request_id": token,
        "use_case": use_case,
        "subject": subject,
        "rows": _json({table: sum(nights.values()) for table, nights in done.rows.items()}),
        "purged": _json(done.purged),
        "pins": _json(sorted(done.pins, key=lambda pin: (pin["table"], pin["version"], pin["why"]))),
        "files": _json(done.files),
        "reported": _json(done.reported),
        "models": _json(done.models),
        "retrain": ",".join(sorted(set(done.retrain))) or None,
        "searched": _json(searched),
    }
    receipt["digest"] = digest(receipt)
    receipt["erased_at"] = datetime.now(UTC)
    chain.append(settings, TABLE, receipt, {"request_id": token})
    return of(settings, token) or receipt


def digest(receipt: Mapping[str, Any]) -> str:
    """SHA-256 over everything that the receipt says, but when."""
    said = {name: receipt[name] for name in TABLE.names[: TABLE.names.index("digest")]}
    return hashlib.sha256(_json(said).encode()).hexdigest()


def close(settings: Settings, token: str) -> None:
    """Remove what was kept for a next run."""
    _path(settings, token).unlink(missing_ok=True)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _path(settings: Settings, token: str) -> Path:
    return settings.home / "erasures" / f"{token}.found"
