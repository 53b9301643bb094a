"""Copies: the models that may score, each verified byte by byte and kept below `<home>/champions`, under the report that it reigns by.

A copy is what scores: also when MLflow does not answer, and when somebody changed what lies there. Each use hashes it again.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift.errors import ConfigurationError, RegistryError
from include.nightshift.promote import registry
from include.nightshift.score import baseline as linear
from include.nightshift.train import models

if TYPE_CHECKING:
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

log = logging.getLogger(__name__)

VERIFIED = "verified.json"


@dataclass(frozen=True)
class Copy:
    """A model that is what it was when it was verified."""

    version: str
    folder: Path
    sha256: str


def keep(settings: Settings, use_case: UseCase, version: str, sha256: str, report_digest: str) -> Copy:
    """The verified copy of a model; made from the local one or from MLflow's where there is none, or it was changed.

    Raises:
        RegistryError: neither has these bytes, or MLflow does not answer.
    """
    folder = _folder(settings, use_case, report_digest)
    if _hash(folder) != sha256:
        source = registry.local_copy(settings, use_case, version)
        if (seen := _hash(source)) != sha256:
            log.error("%s: the model has the hash %s, expected %s; it is fetched anew", source, seen, sha256)
            source = registry.fetched(settings, use_case, version)
        if (seen := _hash(source)) != sha256:
            raise RegistryError(
                f"model {use_case.name} version {version}: its bytes have the hash {seen}, its report says {sha256}. Somebody changed "
                f"it, in {settings.mlflow_url} too: keep both, roll back to the version before, and find out who"
            )
        _place(source, folder, version, sha256)
    return Copy(version, folder, sha256)


def kept(settings: Settings, use_case: UseCase, report_digest: str) -> Copy | None:
    """The copy that was verified for this report, if it is still what it was."""
    folder = _folder(settings, use_case, report_digest)
    try:
        said = json.loads((folder / VERIFIED).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return Copy(said["version"], folder, said["model_sha256"]) if _hash(folder) == said["model_sha256"] else None


def baseline(settings: Settings, use_case: UseCase, version: str, sha256: str, report_digest: str) -> Copy | None:
    """The linear baseline that was judged beside a version, if one of its copies has these bytes."""
    local = settings.home / "models" / use_case.name / version / linear.BASELINE
    if not local.exists():
        try:
            linear.copy(settings, use_case, version)
        except RegistryError as error:
            log.warning("%s", error)
    places = (_folder(settings, use_case, report_digest) / linear.BASELINE, local)
    sound = [place for place in places if _hash(place) == sha256]
    return Copy(f"{version}-{linear.BASELINE}", sound[0], sha256) if sound else None


def _folder(settings: Settings, use_case: UseCase, report_digest: str) -> Path:
    return settings.home / "champions" / use_case.name / report_digest


def _hash(folder: Path) -> str | None:
    """The model's hash; None where there is none that this code could read."""
    try:
        return models.sha256(folder)
    except (FileNotFoundError, ConfigurationError, ValueError):
        return None


def _place(source: Path, folder: Path, version: str, sha256: str) -> None:
    """Lay a copy where it belongs, whole or not at all; another process may do the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        shutil.copytree(source, made)
        (made / VERIFIED).write_text(json.dumps({"version": version, "model_sha256": sha256}))
        with suppress(FileNotFoundError):
            folder.rename(Path(temporary) / "before")
        # Where the other process was quicker, its copy stands.
        with suppress(OSError):
            made.rename(folder)
    if _hash(folder) != sha256:
        raise RegistryError(f"{folder} does not hold what was written there: see that the disk has room, and run the task again")
