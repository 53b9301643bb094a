"""Record: what the scan of the features' code came to, in `ops.leak_scans`. A scan holds as long as the code stays what it was."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.nightshift.features import project
from include.nightshift.lakehouse import records, tables
from include.nightshift.settings import ROOT

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


def code(use_case: UseCase) -> str:
    """Changes with everything that makes a feature of this use case: the models, their functions, and how they are run."""
    digest = hashlib.sha256(project.version().encode())
    for folder in (ROOT / "include" / "nightshift" / "features", ROOT / "include" / "usecases" / use_case.name):
        for path in sorted(folder.rglob("*.py")):
            digest.update(json.dumps([str(path.relative_to(ROOT)), path.read_text()]).encode())
    return digest.hexdigest()


def of_the_code_as_it_is(settings: Settings, use_case: UseCase) -> tuple[bool, str] | None:
    """Whether the features' code passed its scan, and what that saw; None where nobody has scanned it as it is."""
    found = records.read(settings, tables.LEAK_SCANS, use_case=use_case.name, code=code(use_case))
    return (found[0]["passed"], found[0]["seen"]) if found else None


def ensure(session: SparkSession, settings: Settings, use_case: UseCase) -> tuple[bool, str]:
    """The result for the code as it is: the one that is kept, or that of a scan now. It takes a minute or two, on made-up worlds."""
    if (known := of_the_code_as_it_is(settings, use_case)) is not None:
        return known
    from include.nightshift.features.leaks.scan import scan_models

    scanned, done = code(use_case), scan_models(session, settings, use_case)
    seen = "; ".join(done.reasons)
    record = {"use_case": use_case.name, "code": scanned, "passed": done.passed, "seen": seen, "scanned_at": datetime.now(UTC)}
    records.replace(settings, tables.LEAK_SCANS, [record], {"use_case": [use_case.name], "code": [scanned]})
    return done.passed, seen
