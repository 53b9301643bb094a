"""A table's files, without Delta: the one place that lists, reads and removes them, wherever the lakehouse lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from include.nightshift.lakehouse import storage

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.lakehouse.tables import Table
    from include.nightshift.settings import Settings

LOG = "_delta_log"


def commit_path(version: int) -> str:
    """Where the commit lies that made a version."""
    return f"{LOG}/{version:020d}.json"


@dataclass(frozen=True)
class File:
    """One file below a table's folder."""

    path: str
    """Relative to the folder, as it is on disk (a log has it escaped)."""
    size: int
    """Bytes."""
    modified: datetime
    """When it was last written, UTC."""

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def in_log(self) -> bool:
        return self.path.startswith(f"{LOG}/")

    @property
    def is_data(self) -> bool:
        """Whether it holds rows: neither log nor hidden (checksums, what a writer puts aside)."""
        return not any(part.startswith(("_", ".")) for part in PurePosixPath(self.path).parts)


class Folder:
    """The folder of one table."""

    def __init__(self, settings: Settings, table: Table) -> None:
        self.location = storage.location(settings, table)
        self._system, self._root = storage.filesystem(settings), storage.root(settings, table)

    def files(self) -> list[File]:
        """All files at any depth, hidden ones too."""
        from pyarrow.fs import FileSelector

        found = self._system.get_file_info(FileSelector(self._root, recursive=True))
        return [
            File(info.path.removeprefix(f"{self._root}/"), info.size, datetime.fromtimestamp(info.mtime_ns / 1e9, UTC))
            for info in found
            # One that vanished while its folder was read is no file any more.
            if info.is_file
        ]

    def data(self) -> list[File]:
        """The files that hold rows, of any version or of none."""
        return [file for file in self.files() if file.is_data]

    def has(self, path: str) -> bool:
        return bool(self._system.get_file_info(self._at(path)).is_file)

    def as_spark_says(self, path: str) -> str:
        """The whole path in Spark's spelling; another one VACUUM passes over without a word."""
        return f"{'file:' if self.location.startswith('/') else ''}{self.location}/{path}"

    def read(self, path: str) -> bytes:
        with self._system.open_input_stream(self._at(path)) as stream:
            content: bytes = stream.read()
        return content

    def read_parquet(self, path: str, columns: list[str] | None = None) -> pa.Table:
        import pyarrow.parquet as pq

        return pq.read_table(self._at(path), filesystem=self._system, columns=columns)

    def write(self, path: str, content: bytes | Any) -> None:
        """Put a file in place, whole: bytes, or an Arrow table as Parquet."""
        import pyarrow.parquet as pq

        aside = self._at(f"{path}.tmp")
        if isinstance(content, bytes):
            with self._system.open_output_stream(aside) as stream:
                stream.write(content)
        else:
            pq.write_table(content, aside, filesystem=self._system)
        self._system.move(aside, self._at(path))

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files; one that is gone already is none to worry about."""
        for path in paths:
            try:
                self._system.delete_file(self._at(path))
            except FileNotFoundError:
                continue

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"
