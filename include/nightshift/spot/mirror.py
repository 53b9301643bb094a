"""Mirror: a run folder on S3, where machines that share no disk find it. `<prefix>/runs/<run id>/` has the folder's names.

The checkpoints' contract holds here too: a state is put before the manifest that names it, an old manifest goes after newer ones stand
and before its state, and what is brought is hashed by the trainer, which falls back to the one before. One machine may leave something
behind: `fence.json` names it, put under the condition that nobody else has (If-None-Match, If-Match), and looked at before anything is
carried. What was on its way when the fence moved is harmless: a checkpoint is a function of its step, whoever puts it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import durable, objects
from include.nightshift.errors import CheckpointError, PoolError
from include.nightshift.spot.pools import LOG, MACHINES
from include.nightshift.train.run import BEGAN, CHECKPOINTS, MODEL_FOLDER, PROGRESS, RESULT, RESUMES, RUN, SEARCH, SYSTEM, TRIALS

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

log = logging.getLogger("nightshift.mirror")

FENCE = "fence.json"
"""Names the attempt that may leave something behind."""

NOTICES = "notices"
"""What the launching side has heard of a machine's end before the machine itself: `notices/<attempt>.json`."""

CARRY_SECONDS = 2.0
"""How often a machine brings away what is new."""

_DATA = "data"
_STORY = (".json", ".jsonl", ".txt")
"""Endings of the small files that grow, or that a later machine goes on with."""


class Mirror:
    """One run on S3."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        """`prefix`: the run's own, without a slash at its end."""
        self.client, self.bucket, self.prefix = client, bucket, prefix
        self._known: dict[str, str] = {}
        """ETag of what was put or fetched, by name: what has not changed is not moved again."""

    def held(self, under: str = "") -> dict[str, str]:
        """ETag of every object, by its name in the run folder."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/{under}")
        entries = (entry for page in pages for entry in page.get("Contents", ()))
        return {entry["Key"].removeprefix(f"{self.prefix}/"): entry["ETag"] for entry in entries}

    def put(self, folder: Path, name: str, **metadata: str) -> None:
        """Put a file, whole; `metadata` is kept with it."""
        path = folder / name
        with path.open("rb") as file:
            self.client.upload_fileobj(file, self.bucket, self._key(name), ExtraArgs={"Metadata": metadata})

    def get(self, folder: Path, name: str, etag: str) -> None:
        """Lay an object in the folder, whole or not at all, unless this content lies there already."""
        path = folder / name
        if self._known.get(name) == etag and path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with durable.placed(path) as temporary:
            self.client.download_file(self.bucket, self._key(name), str(temporary))
        self._known[name] = etag

    def read(self, name: str) -> tuple[Any, str] | None:
        """A small JSON object and its ETag; None where there is none."""
        from botocore.exceptions import ClientError

        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(name))
        except self.client.exceptions.NoSuchKey:
            return None
        except ClientError as error:
            if not self._is_gone(name, error):
                raise
            return None
        return json.loads(answer["Body"].read()), answer["ETag"]

    def write(self, name: str, content: Any, **condition: str) -> str | None:
        """Put a small JSON object; its ETag, or None where the condition (`IfMatch`, `IfNoneMatch`) does not hold."""
        from botocore.exceptions import ClientError

        try:
            put = self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=json.dumps(content).encode(), **condition)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 409, 412):
                raise
            return None
        return str(put["ETag"])

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects, one after another in this order."""
        for name in names:
            self.client.delete_object(Bucket=self.bucket, Key=self._key(name))

    def deliver(self, folder: Path) -> None:
        """Put what a machine needs to train: the rows and `run.json`, this one last; a run that was begun elsewhere with its checkpoints,
        and with the trials of its search.

        Raises:
            PoolError: S3 does not answer or refuses.
        """
        with told(self.bucket, self.prefix):
            held = self.held()
            begun = any(map(_is_checkpoint, held))
            for path in sorted((folder / _DATA).rglob("*.parquet")):
                name, digest = str(path.relative_to(folder)), _sha256(path)
                # Its length does not tell a file from another, and its ETag depends on how many parts it was put in.
                if name not in held or self._metadata(name).get("sha256") != digest:
                    self.put(folder, name, sha256=digest)
            if not begun:
                for name in _checkpoint_files(folder):
                    self.put(folder, name)
                for name in (PROGRESS, RESUMES, SYSTEM, LOG):
                    if (folder / name).exists():
                        self.put(folder, name)
            for name in _told_before(folder):
                # What a trial came to is written once; what a machine has left here of one that goes on is newer than ours.
                if name not in held:
                    self.put(folder, name)
            if RUN not in held:
                self.put(folder, RUN)

    def fetch(self, folder: Path) -> None:
        """Bring home what machines have left, but states and rows: they are large, and nobody here reads them.

        Raises:
            PoolError: S3 does not answer or refuses.
        """
        from botocore.exceptions import ClientError

        with told(self.bucket, self.prefix):
            held = self.held()
            for name, etag in held.items():
                left = name.startswith(f"{MODEL_FOLDER}/") or name.endswith(_STORY)
                if left and name not in (RUN, FENCE, RESULT) and not name.startswith(f"{NOTICES}/"):
                    try:
                        self.get(folder, name, etag)
                    except ClientError as error:
                        # Its machine has saved since the list was made, and removed the checkpoint that was too many.
                        if not _is_checkpoint(name) or not self._is_gone(name, error):
                            raise
            for name in _manifests(folder):
                if name not in held:
                    (folder / name).unlink(missing_ok=True)
            if RESULT in held:
                # Behind the model: a result that stands names one that is there.
                self.get(folder, RESULT, held[RESULT])

    def _is_gone(self, name: str, error: ClientError) -> bool:
        """Whether S3 refused what is not there: who may list a prefix alone can be told 403 of it, and the list tells the two apart."""
        return error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404) and name not in self.held(name)

    def _metadata(self, name: str) -> Mapping[str, str]:
        """What was kept with an object when it was put."""
        metadata: Mapping[str, str] = self.client.head_object(Bucket=self.bucket, Key=self._key(name))["Metadata"]
        return metadata

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}"


def opened(address: str) -> Mirror:
    """A run's mirror by its address, with the rights of this machine.

    Raises:
        ConfigurationError: it is no address of S3.
    """
    bucket, prefix = objects.parted(address)
    return Mirror(objects.client(), bucket, prefix.rstrip("/"))


class Bearer:
    """The carrier of a machine whose run folder lies on S3 (`agent.Carrier`), and the herald of what the launching side has heard.

    A thread of its own carries, so that training does not wait for the network.
    """

    def __init__(self, mirror: Mirror, folder: Path, attempt: int) -> None:
        self._mirror, self._folder, self._attempt = mirror, folder, attempt
        self._fence = ""
        self._put: dict[str, tuple[int, int]] = {}
        self._goes_at: datetime | None = None
        self._refused: CheckpointError | None = None
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self) -> None:
        mine = {"attempt": self._attempt, "token": secrets.token_hex(8)}
        for _ in range(5):
            fence = self._mirror.read(FENCE)
            if fence and fence[0]["attempt"] > self._attempt:
                raise CheckpointError(
                    f"{self._mirror.prefix} belongs to attempt {fence[0]['attempt']} by now: this one, {self._attempt}, is over"
                )
            condition = {"IfMatch": fence[1]} if fence else {"IfNoneMatch": "*"}
            if etag := self._mirror.write(FENCE, mine, **condition):
                self._fence = etag
                return
        raise CheckpointError(f"the fence of {self._mirror.prefix} is contended: more machines than one work on this run")

    def bring(self) -> None:
        held = self._mirror.held()
        for name, etag in held.items():
            if name.startswith((f"{MACHINES}/", f"{NOTICES}/")) or name == FENCE:
                continue
            if _is_checkpoint(name) and not {_state_of(name), _manifest_of(name)} <= held.keys():
                continue
            self._mirror.get(self._folder, name, etag)
            self._put[name] = _stamp(self._folder / name)
        (self._folder / MACHINES).mkdir(exist_ok=True)

    def carry(self) -> None:
        if self._refused:
            raise self._refused
        if self._thread is None:
            self._thread = threading.Thread(target=self._carry_on, name="bearer", daemon=True)
            self._thread.start()

    def leave(self) -> None:
        self._ends.set()
        if self._thread:
            self._thread.join()
        if self._refused:
            raise self._refused
        # Twice: the trainer may have saved while the last round was on its way. The network has one more chance, too.
        for patience in (3, 0):
            try:
                return self._round(last=True)
            except CheckpointError:
                raise
            except Exception:
                if not patience:
                    raise
                log.warning("the last round failed, trying once more", exc_info=True)
                time.sleep(patience)

    def goes_at(self) -> datetime | None:
        return self._goes_at

    def _carry_on(self) -> None:
        while not self._ends.wait(CARRY_SECONDS):
            try:
                self._round()
            except CheckpointError as error:
                self._refused = error
                return
            except Exception:
                # The network comes back, or the machine goes and the checkpoint before stands: training goes on meanwhile.
                log.warning("nothing was carried this time", exc_info=True)

    def _round(self, *, last: bool = False) -> None:
        self._check_fence()
        if heard := self._mirror.read(f"{NOTICES}/{self._attempt}.json"):
            self._goes_at = datetime.fromisoformat(heard[0]["deadline"])
        stand = set(_checkpoint_files(self._folder))
        # Whoever finds a checkpoint finds there too which machine adds up like that.
        self._put_new(BEGAN)
        # States before the manifests that name them.
        for name in sorted(stand, key=lambda name: (name.endswith(".json"), name)):
            self._put_new(name)
        for name in self._story():
            self._put_new(name)
        if last:
            for path in sorted((self._folder / MODEL_FOLDER).glob("[!.]*")):
                self._put_new(f"{MODEL_FOLDER}/{path.name}")
            self._put_new(RESULT)
        gone = [name for name in self._put if _is_checkpoint(name) and name not in stand]
        # Manifests first: a state without one is litter, a manifest without its state a damaged checkpoint.
        self._mirror.remove(sorted(gone, key=lambda name: not name.endswith(".json")))
        for name in gone:
            del self._put[name]

    def _story(self) -> Iterator[str]:
        """Names of the small files that this machine tells of the run in; the result is no story, and comes last."""
        for path in sorted(self._folder.rglob("[!.]*")):
            name = str(path.relative_to(self._folder))
            told = name.endswith(_STORY) and not _is_checkpoint(name) and name not in (RUN, RESULT)
            if told and not name.startswith((f"{_DATA}/", f"{MODEL_FOLDER}/", f"{MACHINES}/")):
                yield name
        yield f"{MACHINES}/{self._attempt}.json"

    def _check_fence(self) -> None:
        fence = self._mirror.read(FENCE)
        if fence is None or fence[1] != self._fence:
            whose = f"attempt {fence[0]['attempt']}" if fence else "nobody"
            raise CheckpointError(f"{self._mirror.prefix} belongs to {whose} by now: what this machine does no longer counts")

    def _put_new(self, name: str) -> None:
        path = self._folder / name
        # It may be gone: a checkpoint that newer ones have replaced meanwhile.
        with suppress(FileNotFoundError):
            stamp = _stamp(path)
            if self._put.get(name) != stamp:
                self._mirror.put(self._folder, name)
                self._put[name] = stamp


def _checkpoint_files(folder: Path) -> Iterator[str]:
    """Manifests and their states, of checkpoints that are complete: the run's own, and those of what is nested in it."""
    for manifest in _manifests(folder):
        if (folder / _state_of(manifest)).exists():
            yield _state_of(manifest)
            yield manifest


def _told_before(folder: Path) -> Iterator[str]:
    """What tells a later machine how to go on: which one began, what each trial of a search tries and how far it is, then the results of
    trials, then the search's own."""
    if (folder / BEGAN).exists():
        yield BEGAN
    paths = (folder / TRIALS).rglob("[!.]*")
    names = [str(path.relative_to(folder)) for path in paths if path.name.endswith(_STORY)]
    yield from sorted((name for name in names if not _is_checkpoint(name)), key=lambda name: (Path(name).name == RESULT, name))
    if (folder / SEARCH).exists():
        yield SEARCH


def _manifests(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(f"{CHECKPOINTS}/[!.]*.json"))


def _is_checkpoint(name: str) -> bool:
    return Path(name).parent.name == CHECKPOINTS


def _state_of(name: str) -> str:
    return name.rpartition(".")[0] + ".state"


def _manifest_of(name: str) -> str:
    return name.rpartition(".")[0] + ".json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@contextmanager
def told(bucket: str, prefix: str) -> Iterator[None]:
    """Say what S3 refused the launching side, and what to look at."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise PoolError(
            f"s3://{bucket}/{prefix}: {error}. Does the bucket exist, and may the launcher read and write there? "
            "include/nightshift/spot/policies/launcher.json has the whole policy"
        ) from error
