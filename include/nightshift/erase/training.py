"""Training extracts: whose models had the person among their rows, and the rows themselves, in `<home>/runs`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import durable
from include.nightshift.errors import ErasureError
from include.nightshift.features import training_set
from include.nightshift.lakehouse import records, tables
from include.nightshift.train import checkpoint
from include.nightshift.train.run import CHECKPOINTS, RUN, finished

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.erase.person import Person
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


@dataclass(frozen=True)
class Extract:
    """A run's rows on disk that are the person's."""

    folder: Path
    rows: int
    whole: bool
    """Whether the run has ended: its model stands, and nothing will be resumed."""

    @property
    def run_id(self) -> str:
        return self.folder.name


def extracts(settings: Settings, person: Person) -> list[Extract]:
    """The run folders that hold rows of the person, of whatever run."""
    found = []
    for folder in sorted(path for path in (settings.home / "runs").glob("*") if path.is_dir()):
        rows = sum(int(theirs.sum()) for _, _, theirs in _parts(folder, person))
        if rows:
            found.append(Extract(folder, rows, (folder / RUN).exists() and finished(folder) is not None))
    return found


def models(
    settings: Settings, use_cases: Sequence[UseCase], person: Person, found: Iterable[Extract], nights: Iterable[date]
) -> dict[str, dict[str, str]]:
    """The model versions that had the person among their rows, by use case and version, with how that is known.

    Where a run's extract is gone, its list of subjects tells; where that is gone too, its nights: what it may have read.
    """
    rows = {extract.run_id: extract.rows for extract in found}
    theirs = sorted(nights)
    told: dict[str, dict[str, str]] = {}
    for use_case in use_cases:
        for report in records.read(settings, tables.GATE_REPORTS, use_case=use_case.name):
            run_id = report["run_id"]
            if run_id in rows:
                how: str | None = f"{rows[run_id]} rows in its extract"
            elif _has_extract(settings.home / "runs" / run_id):
                how = None
            else:
                how = _without_extract(settings, use_case, person, report, theirs)
            if how is not None:
                told.setdefault(use_case.name, {})[report["model_version"]] = f"run {run_id}: {how}"
    return told


def _without_extract(settings: Settings, use_case: UseCase, person: Person, report: dict[str, Any], theirs: Sequence[date]) -> str | None:
    listed = training_set.concerns(settings, settings.home / "runs" / report["run_id"] / "data", person.entity, person.id)
    if listed is not None:
        return "its extract is gone, and its list of subjects has the person" if listed else None
    if any(night <= _last_read(use_case, report) for night in theirs):
        return f"possibly, its extract is gone and its nights reach to {_last_read(use_case, report)}"
    return None


def remove(extract: Extract, person: Person) -> None:
    """Take the rows out of a run that has ended; remove one that has not, because it must not resume on other rows than it began with.

    Raises:
        ErasureError: a process is training it right now.
    """
    if not extract.whole:
        if (writer := checkpoint.writer(extract.folder / CHECKPOINTS)) is not None:
            raise ErasureError(
                f"run {extract.run_id} is being trained by process {writer}, on rows that have to go. Wait for its end, or end it, then "
                "clear this task: the run is removed then, and `train` starts anew"
            )
        # First what makes it a run: what is left by a kill in between is no run any more, and is removed the next time.
        (extract.folder / RUN).unlink(missing_ok=True)
        shutil.rmtree(extract.folder)
        return
    for path, table, theirs in _parts(extract.folder, person):
        if theirs.any():
            _write_without(path, table, theirs)


def _parts(folder: Path, person: Person) -> Iterator[tuple[Path, pa.Table, Any]]:
    """Each part file, its rows, and which of them are the person's: a part names them by the entity, or else by the key."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    for path in sorted((folder / "data").glob("*/*.parquet")):
        table = parquet.read_table(path, partitioning=None)
        theirs = np.zeros(table.num_rows, dtype=bool)
        for column, listed in ((person.entity, {person.id}), (person.key, person.keys)):
            if column in table.column_names:
                values = pa.array(sorted(map(int, listed)), pa.int64())
                theirs |= pc.is_in(table[column].cast(pa.int64()), values).to_numpy(zero_copy_only=False).astype(bool)
        yield path, table, theirs


def _write_without(path: Path, table: pa.Table, theirs: Any) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    # Spark's checksum of the file as it was: with it Spark would refuse the new one.
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    with durable.placed(path) as temporary:
        parquet.write_table(table.filter(pa.array(~theirs)), temporary)


def _has_extract(folder: Path) -> bool:
    return any((folder / "data" / "train").glob("*.parquet"))


def _last_read(use_case: UseCase, report: dict[str, Any]) -> date:
    """The last night whose rows the run read: what it held out, or, where that is not said, what had matured."""
    return report["holdout_last"] or report["as_of"] - timedelta(days=use_case.label_delay_days)
