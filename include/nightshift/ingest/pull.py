"""Pull: what was written at the source in a night, landed as that night's one Parquet file. From then on it is a file like any other.

A night's pull reads the rows whose watermark lies before the midnight that ends the night, from where the pull before it ended, less
the overlap: a transaction may commit after the pull that should have seen it. Of these rows it leaves out what another night brought
whose pull read the same hours: the same values under the same key. So every change comes once, with the first night whose pull sees it:

- A row written after the night's midnight does not belong to it, however late the pull is.
- An updated row comes again, whole, with the night of its update. Of several updates between two pulls, only the last is seen.
- A row that commits late comes with a later night, if it was in the making no longer than the overlap.
- A night that was never pulled is made up for by the next one that is. Nights pulled out of their order lose nothing either; only
  a row that changed between such pulls may come twice with the same values.
- A row deleted at the source brings nothing.

A night that has its file is not pulled again, so a retry, a replay and a backfill give the same. Pulling nights long past works as
far as the source still holds them: a row updated since bears a later watermark and comes with its later night.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import durable, nights
from include.nightshift.errors import ConfigurationError, LandingError
from include.nightshift.ingest import landing, places, postgresql
from include.nightshift.ingest.postgresql import WRITTEN_AT, Window
from include.nightshift.usecase import Feed, Pull

if TYPE_CHECKING:
    import pyarrow as pa

    from include.nightshift.settings import Settings

SUFFIX = ".parquet"
NOTE = b"nightshift.pull"
"""The key in a file's metadata under which it says what was pulled: JSON, no clock in it, so that equal rows are equal bytes."""
ROWS_PER_GROUP = 100_000
"""Rows of a Parquet row group: whatever portions the rows come in, equal rows make equal groups."""

_NUMBER = "_number"


@dataclass(frozen=True)
class Pulled:
    """A night's file, and what the pull that made it saw."""

    feed: str
    night: date
    path: Path
    rows: int | None
    """Rows in the file; None where the night was landed in another form than Parquet."""
    read: bool
    """Whether the source was read now; False where the night had its file."""
    late: int = 0
    """Rows among them that were written before the previous pull ended, and committed after it."""
    left_out: int = 0
    """Rows of the window that other nights had brought."""
    seconds: float = 0.0


def pull(settings: Settings, feed: Feed, night: date, uri: str, *, again: bool = False) -> Pulled | None:
    """Land the night's rows of a feed at `<landing>/<feed>/<night>.parquet`, unless the night has its file.

    The first pull of all reads from the beginning of `first_drop`, or everything where the feed has none.

    Args:
        uri: the source, `postgresql://…`; appears in no file and no message.
        again: replace the file by what the source holds of the night now, read from where the replaced pull began. A row that
            was updated since then, or deleted, is not in it any more.

    Returns:
        None for a night outside the feed's span.

    Raises:
        ConfigurationError: the feed is not pulled.
        LandingError: the source cannot be read or holds what the feed cannot, or the landing folder cannot be written; the night's
            file is as it was.
    """
    if feed.pull is None:
        raise ConfigurationError(f"feed {feed.name} is dropped, not pulled: set Feed.pull, or land {feed.name}/{night} yourself")
    if not feed.drops_on(night):
        return None
    folder, asked = settings.landing_folder / feed.name, f"landing.{feed.name}, night {night}"
    path = folder / f"{night}{SUFFIX}"
    try:
        with _sole(folder):
            files = _Files(folder, asked)
            standing = [folder / name for name in landing.standing(places.of(settings, feed), night)]
            if standing and not again:
                return Pulled(feed.name, night, standing[0], files.rows(night) if standing == [path] else None, read=False)
            if standing and (standing != [path] or files.note(night) is None):
                raise LandingError(f"{asked}: {standing[0]} was not pulled, so no pull replaces it. Move it away, and pull the night then")
            return _pull(files, feed, feed.pull, night, uri)
    except OSError as error:
        raise LandingError(
            f"{asked}: {folder} cannot be written: {error}. A pulled feed needs a landing folder of ours: make it writable, or leave "
            "NIGHTSHIFT_LANDING to its default; then run the night again"
        ) from error


@dataclass(frozen=True)
class _Rival:
    """Another night's file, and the window that its pull read."""

    path: Path
    window: Window


class _Files:
    """The Parquet files in a feed's folder, and what those that were pulled say of it."""

    def __init__(self, folder: Path, asked: str) -> None:
        self._folder = folder
        self.asked = asked
        self._nights = sorted(nights.parse(path.stem, what=f"file of {folder.name}") for path in folder.glob(f"*{SUFFIX}"))

    def note(self, night: date) -> dict[str, str | None] | None:
        """What the night's file says of its pull; None where there is no file, or somebody landed it."""
        noted = self._opened(night).metadata.metadata or {} if night in self._nights else {}
        return json.loads(noted[NOTE]) if NOTE in noted else None

    def rows(self, night: date) -> int:
        """How many rows the night's file holds."""
        return int(self._opened(night).metadata.num_rows)

    def previous(self, night: date) -> datetime | None:
        """Where the last pull before the night ended; None where there was none."""
        return next((nights.known_at(other) for other in reversed(self._nights) if other < night and self.note(other)), None)

    def window(self, feed: Feed, source: Pull, night: date) -> Window:
        """What a pull of the night reads, given the files that are there."""
        previous = self.previous(night)
        since = previous - timedelta(hours=source.overlap_hours) if previous else None
        if feed.first_drop:
            beginning = nights.known_at(feed.first_drop - timedelta(days=1))
            since = max(since, beginning) if since else beginning
        if replaced := self.note(night):
            # It may have made up for nights that were pulled since, and what it brought those left out.
            begun = _since(replaced)
            since = min(since, begun) if since and begun else None
        return Window(since, nights.known_at(night))

    def rivals(self, feed: Feed, night: date, window: Window) -> Iterator[_Rival]:
        """The other nights' files that may hold rows of the window, newest first. Those of other columns or types hold no equal row."""
        for other in reversed(self._nights):
            until = nights.known_at(other)
            if other == night or (window.since and until <= window.since):
                continue
            note = self.note(other)
            since = _since(note) if note else None
            if (since is None or since < window.until) and self._opened(other).schema_arrow.equals(postgresql.schema(feed)):
                yield _Rival(self.path(other), Window(since, until))

    def _opened(self, night: date) -> Any:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path(night)) as file:
                return file
        except pa.ArrowInvalid as error:
            raise LandingError(
                f"{self.asked}: {self.path(night)} is no whole Parquet file: {error}. Move it away and pull its night again"
            ) from error

    def path(self, night: date) -> Path:
        return self._folder / f"{night}{SUFFIX}"


def _pull(files: _Files, feed: Feed, source: Pull, night: date, uri: str) -> Pulled:
    from pyarrow import compute

    started, window = time.monotonic(), files.window(feed, source, night)
    rivals, previous = list(files.rivals(feed, night, window)), files.previous(night)
    read = late = 0

    def new(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        nonlocal read, late
        for batch in batches:
            rows = _new(batch, rivals, feed)
            read += batch.num_rows
            late += compute.sum(compute.less(rows[WRITTEN_AT], previous)).as_py() or 0 if previous else 0
            yield rows

    with closing(postgresql.read(uri, feed, source, window, asked=files.asked)) as batches, durable.placed(files.path(night)) as temporary:
        rows = _write(temporary, postgresql.schema(feed).with_metadata({NOTE: _note(source, window)}), new(batches))
    return Pulled(feed.name, night, files.path(night), rows, True, late, read - rows, time.monotonic() - started)


def _note(source: Pull, window: Window) -> str:
    since = window.since.isoformat() if window.since else None
    note = {"connection": source.connection, "relation": source.relation, "watermark": source.watermark}
    return json.dumps(note | {"since": since, "until": window.until.isoformat()})


def _since(note: Mapping[str, str | None]) -> datetime | None:
    return datetime.fromisoformat(note["since"]) if note["since"] else None


def _write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write the tables' rows in groups of one size, in whatever portions they come; returns how many they are."""
    import pyarrow as pa
    from pyarrow import parquet

    rest, rows = schema.empty_table(), 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            rest = pa.concat_tables([rest, table.select(schema.names).cast(schema)])
            rows += table.num_rows
            while rest.num_rows >= ROWS_PER_GROUP:
                writer.write_table(rest.slice(0, ROWS_PER_GROUP).combine_chunks())
                rest = rest.slice(ROWS_PER_GROUP)
        if rest.num_rows:
            writer.write_table(rest.combine_chunks())
    return rows


def _new(batch: pa.Table, rivals: Sequence[_Rival], feed: Feed) -> pa.Table:
    """The batch's rows, in their order, that no rival brought: none whose window holds the row has it as the key's last change."""
    import pyarrow as pa
    from pyarrow import compute

    open_ = batch = batch.append_column(_NUMBER, pa.array(range(batch.num_rows), pa.int64()))
    brought = pa.array([], pa.int64())
    for rival in rivals:
        within = rival.window.holds(open_[WRITTEN_AT])
        if not compute.any(within).as_py():
            continue
        held = _held(rival, open_[feed.key], feed.key)
        seen = open_.filter(within)
        brought = pa.concat_arrays([brought, _equal(seen, held, postgresql.schema(feed).names)])
        # An older rival's row of the same key is not its last change.
        settled = compute.and_(within, compute.is_in(open_[feed.key], value_set=held[feed.key]))
        open_ = open_.filter(compute.invert(settled))
    return batch.filter(compute.invert(compute.is_in(batch[_NUMBER], value_set=brought)))


def _held(rival: _Rival, keys: pa.ChunkedArray, key: str) -> pa.Table:
    """The rival's rows between the lowest and the highest of the keys: files are in key order, so that few of its groups are read."""
    from pyarrow import compute, parquet

    ends = compute.min_max(keys)
    wanted = compute.field(key).is_null()
    if ends["min"].is_valid:
        wanted |= (compute.field(key) >= ends["min"]) & (compute.field(key) <= ends["max"])
    return parquet.read_table(rival.path, filters=wanted, partitioning=None).replace_schema_metadata(None)


def _equal(rows: pa.Table, held: pa.Table, names: list[str]) -> pa.Array:
    """The numbers of those rows that are among the held ones. By grouping, for which, unlike in a join, nulls are equal."""
    import pyarrow as pa
    from pyarrow import compute

    marked = held.append_column(_NUMBER, pa.repeat(pa.scalar(-1, pa.int64()), held.num_rows))
    both = pa.concat_tables([marked, rows.select([*names, _NUMBER])])
    groups = both.group_by(names).aggregate([(_NUMBER, "min"), (_NUMBER, "list")])
    numbers = compute.list_flatten(groups.filter(compute.field(f"{_NUMBER}_min") == -1)[f"{_NUMBER}_list"]).combine_chunks()
    return numbers.filter(compute.not_equal(numbers, -1))


@contextmanager
def _sole(folder: Path) -> Iterator[None]:
    """Hold the feed's folder for this process, waiting for another to let go: two nights pulled at once would both bring late rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".pull.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for litter in folder.glob(f".*{SUFFIX}.tmp"):
            litter.unlink()
        yield
