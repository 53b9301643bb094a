"""Replay: past nights rebuilt from bronze, with the code, the data and the champion of then, and held against what was published.

The tables of this installation are read, never written, but for `ops.replays`. What bronze held is laid out for an installation of its
own (`rebuild`), whose ordinary stages run again and publish the night there; it is gone when the replay ends.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from include.nightshift import code
from include.nightshift.errors import RegistryError, ReplayError
from include.nightshift.lakehouse import barrier, records, tables
from include.nightshift.lakehouse import log as table_log
from include.nightshift.operate.environment import environment
from include.nightshift.promote import trust
from include.nightshift.replay import compare, rebuild, sources
from include.nightshift.score.publications import DIGESTS, Decision, newest
from include.nightshift.settings import ROOT, Ports
from include.nightshift.train import models

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.promote.trust import Reigning
    from include.nightshift.replay.compare import Difference
    from include.nightshift.replay.sources import Source
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

log = logging.getLogger(__name__)

Outcome = Literal["equal", "explained", "differs", "lost"]
"""Explained: it differs, and what changed since is known. Lost: it cannot be rebuilt."""
LEAVING = 60
"""Seconds that a rebuild has to stop its server, once it need not go on."""


@dataclass(frozen=True)
class Then:
    """A night as it was published, and what a replay has of what it was made from."""

    publication: Record
    sources: tuple[Source, ...]
    """Bronze of each feed."""
    model: Reigning
    """Whose scores the night has, its bytes verified."""

    @property
    def night(self) -> date:
        night: date = self.publication["day"]
        return night

    @property
    def together(self) -> tuple[object, ...]:
        """Nights that agree in this are rebuilt together."""
        return self.publication["code"], self.sources


@dataclass(frozen=True)
class Replayed:
    """The verdict on one night."""

    night: date
    revision: int
    outcome: Outcome
    reasons: tuple[str, ...]
    """What differs and why, in words; empty where all is equal."""
    differences: tuple[Difference, ...] = ()
    """Between what was rebuilt and what the tables hold now, in walking order."""
    code: str | None = None
    """The commit that rebuilt it."""
    digests: Mapping[str, str | None] = field(default_factory=dict)
    """Of what was rebuilt, by their columns of `ops.publications`."""


def replay(settings: Settings, use_case: UseCase, nights: Sequence[date], *, cores: int | None = None) -> list[Replayed]:
    """Rebuild the nights that had a list and compare; writes `ops.replays`. Nights that were skipped, or never scored, are left out.

    `cores`: of the machine, for the rebuild; default: all of them. The answer must not depend on it.

    Raises:
        ReplayError: none of the nights was published, or a rebuild failed, with the end of what it said.
    """
    published = [found for night in nights if (found := newest(settings, use_case, night)) and found["state"] != "skipped"]
    if not published:
        raise ReplayError(
            f"{use_case.name}, nights {nights[0]}..{nights[-1]}: {tables.PUBLICATIONS} has no list of any of them, so there is nothing to "
            "compare with: ask for nights that were scored"
        )
    verdicts: list[Replayed] = []
    groups: dict[object, list[Then]] = {}
    for publication in published:
        try:
            then = _then(settings, use_case, publication)
        except RegistryError as error:
            verdicts.append(Replayed(publication["day"], int(publication["revision"]), "lost", (f"its model cannot be had: {error}",)))
        else:
            groups.setdefault(then.together, []).append(then)
    for group in groups.values():
        verdicts += _replayed(settings, use_case, group, cores)
    verdicts.sort(key=lambda verdict: verdict.night)
    _record(settings, use_case, verdicts, cores)
    return verdicts


def _then(settings: Settings, use_case: UseCase, publication: Record) -> Then:
    model = trust.verified(settings, use_case, str(publication["model_version"]))
    if model.model_sha256 != publication["model_sha256"]:
        raise RegistryError(
            f"version {model.version} has the hash {model.model_sha256}, and the night was scored by one of {publication['model_sha256']}: "
            "see by `make chain` whether somebody altered a record"
        )
    return Then(publication, sources.of(settings, use_case, publication), model)


def _replayed(settings: Settings, use_case: UseCase, group: Sequence[Then], cores: int | None) -> list[Replayed]:
    """Rebuild nights that were made by the same code from the same bronze, and compare each."""
    staging = settings.home / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    # Below `staging`, which an erasure searches and clears: a replay that is killed leaves persons' rows there.
    with tempfile.TemporaryDirectory(dir=staging, prefix="replay-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        causes: list[str] = []
        wanted = [*_lists_before(settings, use_case, group, causes), *group]
        with barrier.passing(settings):
            sources.lay_out(settings, use_case, group[0].sources, max(then.night for then in group), folder)
        ordered = tuple(rebuild.Night(_decision(then), then.model.folder) for then in wanted)
        rebuild.Order(use_case.name, cores, ordered).write(folder)
        apart, (root, ran) = _apart(settings, folder), _laid_out(group[0].publication["code"], folder / "code")
        packages = code.packages(root)
        _run(apart, root, folder)
        return [
            _judged(settings, apart, use_case, then, folder, ran, [*causes, *_causes(settings, use_case, then, ran, packages)])
            for then in group
        ]


def _lists_before(settings: Settings, use_case: UseCase, group: Sequence[Then], causes: list[str]) -> list[Then]:
    """Nights whose lists stood for held ones of the group, back to one that was not held; one that cannot be rebuilt is a cause."""
    have, found = {then.night for then in group}, []
    for then in group:
        publication: Record | None = then.publication
        while publication and publication["state"] == "held":
            publication = _before(settings, use_case, publication["day"])
            if publication is None or publication["day"] in have:
                continue
            have.add(publication["day"])
            try:
                found.append(_then(settings, use_case, publication))
            except RegistryError as error:
                causes.append(f"the list of night {publication['day']}, which stood for a held one, cannot be rebuilt: {error}")
    return found


def _before(settings: Settings, use_case: UseCase, night: date) -> Record | None:
    """The newest publication of the last night before it that had a list."""
    listed = [
        record for record in records.read(settings, tables.PUBLICATIONS, use_case=use_case.name) if record["day"] < night and record["rows"]
    ]
    return max(listed, key=lambda record: (record["day"], record["revision"]), default=None)


def _decision(then: Then) -> Decision:
    """What was decided of the night's list."""
    publication = then.publication
    return Decision(
        night=then.night,
        state=publication["state"],
        mark=publication["mark"],
        reasons=tuple(json.loads(publication["reasons"] or "[]")),
        model_version=publication["model_version"],
        model_sha256=publication["model_sha256"],
    )


def _laid_out(commit: str, folder: Path) -> tuple[Path, str]:
    """The root of that code, and its name; of the one that runs, where it is the same, or git does not have the other."""
    folder.mkdir()
    here = code.name()
    return (folder, commit) if commit != here and code.laid_out(commit, folder) else (ROOT, here)


def _apart(settings: Settings, folder: Path) -> Settings:
    """The settings of an installation that shares nothing with this one but the jars."""
    home = folder / "home"
    (home / "jars").mkdir(parents=True)
    for jar in (settings.home / "jars").glob("*.jar"):
        (home / "jars" / jar.name).symlink_to(jar.resolve())
    shared = {"lakehouse": None, "landing": None, "spark_remote": None, "spark_token_file": None, "mlflow_uri": None}
    return replace(settings, home=home, ports=Ports.free(), clock=False, notify=(), mlflow_token_file=None, **shared)  # type: ignore[arg-type]


def _run(apart: Settings, root: Path, folder: Path) -> None:
    """Have the code below `root` rebuild what the order says. It ends when this process does: by its standard input it knows."""
    line = [sys.executable, "-m", "include.nightshift.replay.rebuild", str(folder)]
    told = environment(apart) | {"PYTHONPATH": str(root)}
    said: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        line, cwd=root, env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        try:
            for text in child.stdout or ():
                log.info("%s", text.rstrip())
                said.append(text)
        finally:
            if child.stdin:
                child.stdin.close()
            try:
                child.wait(LEAVING)
            except subprocess.TimeoutExpired:
                child.kill()
    if child.returncode:
        raise ReplayError(
            f"the rebuild by the code at {root} ended with exit code {child.returncode}; nothing here was changed. Its last words:\n"
            + "".join(said)
        )


def _causes(settings: Settings, use_case: UseCase, then: Then, ran: str, packages: str | None) -> Iterable[str]:
    """What is known to be otherwise than it was when the night was published."""
    was = then.publication["code"]
    if ran != was:
        yield f"the code of then, {was}, is not to be had here: rebuilt by {ran}"
    if packages != code.packages():
        yield f"the packages are those of now: {code.LOCK} of then asks for others"
    for source in then.sources:
        for night, at in source.changed:
            came = f"{source.table} of night {night} came anew at {at:%Y-%m-%d %H:%M} UTC"
            yield f"{came}, and no version is left that holds what was there before"
    for receipt in records.read(settings, tables.ERASURES, use_case=use_case.name):
        if receipt["erased_at"] > then.publication["published_at"]:
            rows = sum(json.loads(receipt["rows"]).values())
            yield f"a person was erased at {receipt['erased_at']:%Y-%m-%d %H:%M} UTC: {rows} rows (receipt {receipt['request_id']})"


def _judged(settings: Settings, apart: Settings, use_case: UseCase, then: Then, folder: Path, ran: str, causes: Sequence[str]) -> Replayed:
    publication, night = then.publication, then.night
    rebuilt = newest(apart, use_case, night) or {}
    digests = {column: rebuilt.get(column) for column in DIGESTS}
    rounding = models.load(then.model.folder).rounding
    differences = tuple(compare.night(settings, apart, use_case, night, folder, rounding))
    unlike = [column for column in DIGESTS if digests[column] != publication[column]]
    published = [each for each in differences if each.published]
    revision = int(publication["revision"])
    if not unlike and not published:
        # Silver may hold other rows by now: rows were released, or an earlier night was landed again.
        return Replayed(night, revision, "equal", tuple(map(str, differences)), differences, ran, digests)
    said = [
        f"{column.removesuffix('_digest')}: published as {_short(publication[column])}, rebuilt as {_short(digests[column])}"
        for column in unlike
    ]
    if not published and rounding:
        said.append(f"row by row they are what the tables hold, to the rounding of the model ({rounding:g})")
        return Replayed(night, revision, "equal", tuple(said), differences, ran, digests)
    said += map(str, differences)
    if not unlike:
        # Whatever else changed since, it did not matter: so it explains nothing.
        said.append("what was rebuilt is what was published: the tables were changed since")
        said += [str(change) for each in published if (change := table_log.last_change(settings, each.table, night))]
        return Replayed(night, revision, "differs", tuple(said), differences, ran, digests)
    if not published:
        said.append("what was rebuilt is what the tables hold: the record of the publication, or they and bronze alike, were changed since")
    return Replayed(night, revision, "explained" if causes else "differs", (*said, *causes), differences, ran, digests)


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "nothing"


def _record(settings: Settings, use_case: UseCase, verdicts: Sequence[Replayed], cores: int | None) -> None:
    now = datetime.now(UTC)
    told = [
        {
            "day": verdict.night,
            "use_case": use_case.name,
            "revision": verdict.revision,
            "outcome": verdict.outcome,
            "reasons": json.dumps(list(verdict.reasons)),
            "code": verdict.code,
            "cores": cores,
            **verdict.digests,
            "replayed_at": now,
        }
        for verdict in verdicts
    ]
    records.replace(settings, tables.REPLAYS, told, {"day": [verdict.night for verdict in verdicts], "use_case": [use_case.name]})
