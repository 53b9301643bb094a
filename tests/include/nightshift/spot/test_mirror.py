"""The mirror: the checkpoints' contract on S3, and one machine at a time that may leave something there."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.errors import CheckpointError, PoolError
from include.nightshift.spot.mirror import Bearer, Mirror
from include.nightshift.train.checkpoint import Checkpoint, Checkpoints, complete
from include.nightshift.train.interruption import Interrupted
from include.nightshift.train.recipes import Trees
from include.nightshift.train.run import TrainingRun
from include.nightshift.train.search import settled, stand
from include.nightshift.train.space import Between, Search

FINGERPRINT = {"data": "d", "recipe": "r", "code": "c"}


class Bucket:
    """S3's answers as far as the mirror asks, in memory, in the order in which they were asked."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.exceptions = type("Exceptions", (), {"NoSuchKey": KeyError})
        self.before: Callable[[str, str], None] = lambda what, key: None

    def _note(self, what: str, key: str) -> None:
        self.before(what, key)
        self.asked.append((what, key))

    def get_paginator(self, name: str) -> "Bucket":
        return self

    def paginate(self, Bucket: str, Prefix: str) -> list[dict[str, Any]]:
        held = [
            {"Key": key, "ETag": _etag(body), "Size": len(body)} for key, body in sorted(self.objects.items()) if key.startswith(Prefix)
        ]
        return [{"Contents": held}]

    def upload_fileobj(self, file: Any, bucket: str, key: str, ExtraArgs: dict[str, Any] | None = None) -> None:
        self._note("put", key)
        self.objects[key], self.metadata[key] = file.read(), (ExtraArgs or {}).get("Metadata", {})

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Metadata": self.metadata.get(Key, {}), "ContentLength": len(self.objects[Key])}

    def download_file(self, bucket: str, key: str, target: str) -> None:
        from botocore.exceptions import ClientError

        self._note("get", key)
        if key not in self.objects:
            raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 404}, "Error": {"Code": "404"}}, "HeadObject")  # type: ignore[typeddict-item]
        Path(target).write_bytes(self.objects[key])

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        body = self.objects[Key]
        return {"Body": type("Body", (), {"read": lambda self: body})(), "ETag": _etag(body)}

    def put_object(self, Bucket: str, Key: str, Body: bytes, IfMatch: str = "", IfNoneMatch: str = "") -> dict[str, str]:
        from botocore.exceptions import ClientError

        self._note("put", Key)
        held = self.objects.get(Key)
        if (IfNoneMatch and held is not None) or (IfMatch and (held is None or _etag(held) != IfMatch)):
            raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 412}, "Error": {"Code": "PreconditionFailed"}}, "PutObject")  # type: ignore[typeddict-item]
        self.objects[Key] = Body
        return {"ETag": _etag(Body)}

    def delete_object(self, Bucket: str, Key: str) -> None:
        self._note("delete", Key)
        self.objects.pop(Key, None)


def _etag(body: bytes) -> str:
    return f'"{hash(body)}"'


def named(what: str, bucket: Bucket) -> list[str]:
    return [key.removeprefix("p/") for asked, key in bucket.asked if asked == what]


def save(folder: Path, *steps: int) -> None:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    kept = Checkpoints(folder / "checkpoints", FINGERPRINT)
    for step in steps:
        kept.save(Checkpoint(step=step, machine={}, history=()), [f"state {step}".encode()])


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def bearer(bucket: Bucket, tmp_path: Path) -> Callable[[int], Bearer]:
    """A machine of its own folder, that has claimed the run."""

    def claimed(attempt: int) -> Bearer:
        folder = tmp_path / f"machine-{attempt}"
        (folder / "machines").mkdir(parents=True, exist_ok=True)
        one = Bearer(Mirror(bucket, "b", "p"), folder, attempt)
        one.claim()
        return one

    return claimed


def test_a_state_is_put_before_its_manifest_and_an_old_manifest_goes_after_newer_ones_stand(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path
) -> None:
    one, folder = bearer(1), tmp_path / "machine-1"
    save(folder, 1, 2)
    one._round()
    save(folder, 3)
    one._round()
    assert named("put", bucket)[1:] == [f"checkpoints/{name}" for name in (
        "00000001.state", "00000002.state", "00000001.json", "00000002.json", "00000003.state", "00000003.json",
    )]  # fmt: skip
    assert named("delete", bucket) == ["checkpoints/00000001.json", "checkpoints/00000001.state"]
    assert bucket.asked[-1][0] == "delete"


def test_who_finds_a_checkpoint_finds_which_machine_began_it(bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path) -> None:
    """Cut off between the two, a machine would leave a state behind that the next one takes for its predecessor's."""
    one, folder = bearer(1), tmp_path / "machine-1"
    (folder / "began.json").write_text('{"attempt": 1}')
    save(folder, 1)
    one._round()
    assert named("put", bucket)[1] == "began.json"


def test_a_machine_cut_off_in_the_middle_of_a_round_leaves_no_half_checkpoint(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path
) -> None:
    """At whatever request it dies, the next one brings a whole checkpoint, or the one before."""
    one, folder = bearer(1), tmp_path / "machine-1"
    save(folder, 1, 2)
    one._round()
    whole = dict(bucket.objects)
    save(folder, 3)
    one._round()
    requests = len(bucket.asked)
    for dies_at in range(4, requests + 1):
        bucket.objects, bucket.asked = dict(whole), bucket.asked[:4]

        def cut(what: str, key: str, dies_at: int = dies_at) -> None:
            if len(bucket.asked) >= dies_at:
                raise ConnectionError("cut off")

        again = Bearer(Mirror(bucket, "b", "p"), folder, 1)
        bucket.before = lambda what, key: None
        again.claim()
        bucket.asked, bucket.before = bucket.asked[:4], cut
        try:
            again._put = {}
            again._round()
        except ConnectionError:
            pass
        bucket.before = lambda what, key: None
        fresh = tmp_path / f"fresh-{dies_at}"
        other = Bearer(Mirror(bucket, "b", "p"), fresh, 2)
        other.claim()
        fresh.mkdir()
        other.bring()
        found = Checkpoints(fresh / "checkpoints", FINGERPRINT).newest()
        assert found is not None
        assert found[1] == f"state {found[0].step}".encode()
        assert found[0].step in (2, 3)


def test_a_state_that_was_damaged_on_its_way_yields_to_the_one_before(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path
) -> None:
    one, folder = bearer(1), tmp_path / "machine-1"
    save(folder, 1, 2)
    one._round()
    bucket.objects["p/checkpoints/00000002.state"] = b"state 7"
    bearer(2).bring()
    found = Checkpoints(tmp_path / "machine-2/checkpoints", FINGERPRINT).newest()
    assert found is not None
    assert found[0].step == 1


def test_a_manifest_without_its_state_is_not_brought(bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path) -> None:
    one, folder = bearer(1), tmp_path / "machine-1"
    save(folder, 1, 2)
    one._round()
    del bucket.objects["p/checkpoints/00000002.state"]
    bearer(2).bring()
    assert complete(tmp_path / "machine-2/checkpoints") == [1]


def test_an_earlier_machine_is_refused_once_a_later_one_has_claimed_and_leaves_nothing(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path
) -> None:
    one = bearer(1)
    two = bearer(2)
    save(tmp_path / "machine-1", 9)
    with pytest.raises(CheckpointError, match="belongs to attempt 2 by now"):
        one._round()
    assert not [name for name in bucket.objects if "checkpoints" in name]
    with pytest.raises(CheckpointError, match="this one, 1, is over"):
        bearer(1)
    save(tmp_path / "machine-2", 3)
    two._round()
    assert "p/checkpoints/00000003.json" in bucket.objects


def test_without_the_look_at_the_fence_the_earlier_one_would_write(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted defect: the test above must be able to fail."""
    one, _ = bearer(1), bearer(2)
    monkeypatch.setattr(Bearer, "_check_fence", lambda self: None)
    save(tmp_path / "machine-1", 9)
    one._round()
    assert "p/checkpoints/00000009.json" in bucket.objects


def test_of_two_that_claim_at_once_the_later_attempt_holds_the_run(bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path) -> None:
    first = Bearer(Mirror(bucket, "b", "p"), tmp_path / "machine-1", 1)
    raced: list[str] = []

    def race(what: str, key: str) -> None:
        if key == "p/fence.json" and not raced:
            raced.append(key)
            bearer(2)

    bucket.before = race
    with pytest.raises(CheckpointError, match="belongs to attempt 2"):
        first.claim()


def test_a_refusal_while_carrying_reaches_the_agent_and_a_network_that_is_away_does_not(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.nightshift.spot.mirror.CARRY_SECONDS", 0.01)
    one, folder = bearer(1), tmp_path / "machine-1"
    away = threading.Event()

    def before(what: str, key: str) -> None:
        if away.is_set() and what == "put" and "checkpoints" in key:
            raise ConnectionError("away")

    away.set()
    bucket.before = before
    save(folder, 1)
    one.carry()
    time.sleep(0.1)
    one.carry()
    assert not any("checkpoints" in name for name in bucket.objects)
    away.clear()
    _wait(lambda: "p/checkpoints/00000001.json" in bucket.objects)
    bearer(2)
    with pytest.raises(CheckpointError):
        _wait(lambda: one.carry())


def test_the_result_comes_last_and_what_is_fetched_leaves_states_and_rows_where_they_are(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path
) -> None:
    home, one, folder = tmp_path / "home", bearer(1), tmp_path / "machine-1"
    (home / "data/train").mkdir(parents=True)
    (home / "data/train/part-0.parquet").write_bytes(b"rows")
    (home / "run.json").write_text("{}")
    Mirror(bucket, "b", "p").deliver(home)
    assert named("put", bucket)[-1] == "run.json"
    one.bring()
    assert (folder / "data/train/part-0.parquet").read_bytes() == b"rows"
    save(folder, 1)
    for name in ("model/model.ubj", "model/features.json", "result.json", "progress.jsonl", "log.txt", "machines/1.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    one.carry()
    one.leave()
    assert named("put", bucket)[-1] == "result.json"
    order: list[str] = []
    bucket.before = lambda what, key: order.append(key) if what == "get" else None
    away = Mirror(bucket, "b", "p")
    away.fetch(home)
    assert order[-1] == "p/result.json"
    assert not [key for key in order if key.endswith((".state", ".parquet"))]
    assert (home / "model/model.ubj").read_text() == "model/model.ubj"
    assert complete(home / "checkpoints") == [1]
    order.clear()
    away.fetch(home)
    assert order == [], "what has not changed is not moved again"


ROWS = "data/train/part-0.parquet"


def with_rows(folder: Path, content: bytes) -> Path:
    (folder / ROWS).parent.mkdir(parents=True, exist_ok=True)
    (folder / ROWS).write_bytes(content)
    (folder / "run.json").write_text("{}")
    return folder


def test_rows_that_lie_there_are_not_put_again(bucket: Bucket, tmp_path: Path) -> None:
    home = with_rows(tmp_path, b"rows")
    Mirror(bucket, "b", "p").deliver(home)
    assert named("put", bucket) == [ROWS, "run.json"]
    Mirror(bucket, "b", "p").deliver(home)
    assert named("put", bucket) == [ROWS, "run.json"]


@pytest.mark.parametrize("told", [True, False])
def test_rows_of_the_same_length_and_other_bytes_are_put_anew(bucket: Bucket, tmp_path: Path, told: bool) -> None:
    """Planted: what lies there is of another run, put by this code (`told`), or by one that left no hash."""
    Mirror(bucket, "b", "p").deliver(with_rows(tmp_path / "other", b"rose"))
    assert bucket.metadata[f"p/{ROWS}"], "it is told what it is"
    if not told:
        bucket.metadata.clear()
    Mirror(bucket, "b", "p").deliver(with_rows(tmp_path / "home", b"rows"))
    assert bucket.objects[f"p/{ROWS}"] == b"rows"


def test_rows_compared_by_their_length_would_stay_wrong(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted defect: the test above must be able to fail."""
    monkeypatch.setattr("include.nightshift.spot.mirror._sha256", lambda path: str(path.stat().st_size))
    for name, content in (("other", b"rose"), ("home", b"rows")):
        Mirror(bucket, "b", "p").deliver(with_rows(tmp_path / name, content))
    assert bucket.objects[f"p/{ROWS}"] == b"rose"


SEARCHED = Trees(name="searched", rounds=12, rounds_per_chunk=4, search=Search(space={"learning_rate": Between(0.02, 0.4)}, trials=4))


def tried(folder: Path, leaves_at: int = 9) -> list[tuple[int, list[int]]]:
    """The trials that a search does in a folder, each with the checkpoints that it found; in one of them its machine goes."""
    seen: list[tuple[int, list[int]]] = []

    def measure(place: Path, trial: TrainingRun) -> float:
        seen.append((int(place.name), complete(place / "checkpoints")))
        if seen[-1][0] == leaves_at:
            save(place, 1)
            raise Interrupted("the machine goes")
        assert isinstance(trial.recipe, Trees)
        return trial.recipe.learning_rate

    try:
        settled(folder, TrainingRun.load(folder), "c", lambda trial_of: measure)
    except Interrupted:
        assert seen[-1][0] == leaves_at
    return seen


def test_a_search_goes_on_elsewhere_behind_the_trials_that_were_done_here(
    bearer: Callable[[int], Bearer], bucket: Bucket, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    home = make_run("home", count=9, recipe=SEARCHED)
    assert tried(home, leaves_at=2) == [(0, []), (1, []), (2, [])]
    (home / "began.json").write_text('{"threads": 7}')
    Mirror(bucket, "b", "p").deliver(home)
    assert named("put", bucket)[-1] == "run.json"
    bearer(1).bring()
    away = tmp_path / "machine-1"
    assert (away / "trials/2/run.json").read_bytes() == (home / "trials/2/run.json").read_bytes(), "what it tries, it goes on trying"
    assert json.loads((away / "began.json").read_text()) == {"threads": 7}, "all trials add up in the same order"
    assert tried(away) == [(2, [1]), (3, [])]
    alone = make_run("alone", count=9, recipe=SEARCHED)
    tried(alone)
    best = [json.loads((folder / "search.json").read_text())["recipe"] for folder in (away, alone)]
    assert best[0] == best[1]


def test_without_the_trials_it_would_begin_again(
    bearer: Callable[[int], Bearer],
    bucket: Bucket,
    make_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted defect: the test above must be able to fail."""
    home = make_run("home", count=9, recipe=SEARCHED)
    tried(home, leaves_at=2)
    monkeypatch.setattr("include.nightshift.spot.mirror._told_before", lambda folder: [])
    Mirror(bucket, "b", "p").deliver(home)
    bearer(1).bring()
    assert tried(tmp_path / "machine-1")[0] == (0, [])


def test_a_search_that_has_ended_here_is_not_begun_elsewhere(
    bearer: Callable[[int], Bearer], bucket: Bucket, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    home = make_run("home", count=9, recipe=SEARCHED)
    assert len(tried(home)) == 4
    Mirror(bucket, "b", "p").deliver(home)
    bearer(1).bring()
    assert tried(tmp_path / "machine-1") == []


def test_what_machines_tell_of_their_trials_comes_home_while_they_go_on(
    bearer: Callable[[int], Bearer], bucket: Bucket, make_run: Callable[..., Path]
) -> None:
    home = make_run("home", count=9, recipe=SEARCHED)
    mirror = Mirror(bucket, "b", "p")
    mirror.deliver(home)
    one = bearer(1)
    one.bring()
    tried(one._folder, leaves_at=2)
    one._round()
    mirror.fetch(home)
    told = stand(home, TrainingRun.load(home))
    assert told is not None
    assert (told.trial, told.of) == (2, 4)


def test_a_trial_is_delivered_result_last_and_over_nothing_that_a_machine_has_left(bucket: Bucket, tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"trials/{number}").mkdir(parents=True)
        for name in ("run.json", "progress.jsonl", "result.json"):
            (tmp_path / f"trials/{number}/{name}").write_text("ours")
    (tmp_path / "trials/1/.result.json.half").write_text("ours")
    (tmp_path / "run.json").write_text("{}")
    save(tmp_path, 1)
    (tmp_path / "resumes.jsonl").write_text("ours")
    bucket.objects["p/trials/0/result.json"] = b"theirs"
    mirror = Mirror(bucket, "b", "p")
    mirror.deliver(tmp_path)
    assert bucket.objects["p/trials/0/result.json"] == b"theirs"
    put = named("put", bucket)
    assert [name for name in put if name.startswith("trials/1/")] == [
        f"trials/1/{name}" for name in ("progress.jsonl", "run.json", "result.json")
    ]
    assert {"checkpoints/00000001.state", "resumes.jsonl"} <= set(put), "what the next start goes on from, and what earlier ones said"
    bucket.asked.clear()
    mirror.deliver(tmp_path)
    assert named("put", bucket) == []


def test_what_machines_tell_of_themselves_goes_from_the_one_to_the_next_and_home(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path
) -> None:
    home, one = tmp_path / "home", bearer(1)
    for name in ("resumes.jsonl", "system.jsonl"):
        (tmp_path / "machine-1" / name).write_text('{"attempt": 1}\n')
    one._round()
    two = bearer(2)
    two.bring()
    for name in ("resumes.jsonl", "system.jsonl"):
        with (tmp_path / "machine-2" / name).open("a") as file:
            file.write('{"attempt": 2}\n')
    two._round()
    Mirror(bucket, "b", "p").fetch(home)
    for name in ("resumes.jsonl", "system.jsonl"):
        assert (home / name).read_text() == '{"attempt": 1}\n{"attempt": 2}\n'


def test_a_run_that_was_begun_elsewhere_brings_along_all_that_it_has_told(bucket: Bucket, tmp_path: Path) -> None:
    told = ("progress.jsonl", "resumes.jsonl", "system.jsonl", "log.txt")
    save(tmp_path, 1)
    for name in (*told, "run.json"):
        (tmp_path / name).write_text(f"{name} of a machine here")
    Mirror(bucket, "b", "p").deliver(tmp_path)
    assert {name: bucket.objects[f"p/{name}"].decode() for name in told} == {name: f"{name} of a machine here" for name in told}


def test_a_manifest_that_its_machine_removes_while_it_is_fetched_stops_nobody_and_a_model_that_is_gone_does(
    bearer: Callable[[int], Bearer], bucket: Bucket, tmp_path: Path
) -> None:
    one, folder, home = bearer(1), tmp_path / "machine-1", tmp_path / "home"
    save(folder, 1, 2)
    (folder / "progress.jsonl").write_text("{}")
    one._round()

    def replaced(what: str, key: str) -> None:
        if what == "get":
            bucket.objects.pop("p/checkpoints/00000001.json", None)

    bucket.before = replaced
    Mirror(bucket, "b", "p").fetch(home)
    assert sorted(str(path.relative_to(home)) for path in home.rglob("*.json*")) == [
        "checkpoints/00000002.json",
        "progress.jsonl",
    ]
    bucket.objects["p/model/model.ubj"] = b"model"
    bucket.before = lambda what, key: bucket.objects.pop("p/model/model.ubj", None) if what == "get" else None
    with pytest.raises(PoolError, match="404"):
        Mirror(bucket, "b", "p").fetch(home)


def test_what_a_machine_was_told_by_the_launching_side_is_a_notice(bearer: Callable[[int], Bearer], bucket: Bucket) -> None:
    one = bearer(1)
    soon = datetime.now(UTC) + timedelta(seconds=100)
    bucket.objects["p/notices/1.json"] = json.dumps({"deadline": soon.isoformat()}).encode()
    assert one.goes_at() is None
    one._round()
    assert one.goes_at() == soon


def test_what_is_not_there_is_no_refusal_to_who_may_list_the_prefix_alone(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    def forbidden(**asked: str) -> None:
        raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 403}, "Error": {"Code": "AccessDenied"}}, "GetObject")  # type: ignore[typeddict-item]

    monkeypatch.setattr(bucket, "get_object", forbidden)
    mirror = Mirror(bucket, "b", "runs/r")
    assert mirror.read("fence.json") is None
    bucket.objects["runs/r/fence.json"] = b"{}"
    with pytest.raises(ClientError, match="AccessDenied"):
        mirror.read("fence.json")


def test_a_bucket_that_refuses_is_a_pool_error_with_advice(tmp_path: Path) -> None:
    from botocore.exceptions import ClientError

    class Refuses(Bucket):
        def paginate(self, Bucket: str, Prefix: str) -> list[dict[str, Any]]:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")  # type: ignore[typeddict-item]

    with pytest.raises(PoolError, match=r"AccessDenied.*launcher\.json"):
        Mirror(Refuses(), "b", "p").fetch(tmp_path)


def _wait(what: Callable[[], Any], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
