"""Bundle: the code that a machine elsewhere runs, as one archive that is the same bytes for the same files."""

from __future__ import annotations

import gzip
import io
import tarfile

from include.nightshift.settings import ROOT


def packed() -> bytes:
    """The library and what it asks for, as a tar.gz without clocks, owners or caches."""
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        sources = [path for path in (ROOT / "include").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        for path in sorted([*sources, ROOT / "requirements-training.txt"]):
            entry = tarfile.TarInfo(str(path.relative_to(ROOT)))
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return content.getvalue()
