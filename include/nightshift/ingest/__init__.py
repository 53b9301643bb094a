"""Ingest: landing → bronze → silver, for one feed and one or more nights, the same act however often it is done."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from include.nightshift.errors import ContractError, LandingError
from include.nightshift.ingest import batches, bronze, checks, erased, landing, pseudonyms, silver
from include.nightshift.ingest.batches import Batch
from include.nightshift.lakehouse import barrier, log, stale, tables
from include.nightshift.rules import Verdict

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed

NIGHTS_AT_ONCE = 50
"""Nights of one commit: a long history neither waits for its last night to be safe nor is held in memory whole."""
OWN_KINDS = ("schema", "range", "distribution", "duplicates", "temporal")
"""Kinds of rules that one feed is judged by alone; consistency takes two."""


@dataclass
class Ingested:
    """What one feed brought: rows landed (those taken) and accepted by night, and the version of the silver table that holds them."""

    feed: str
    landed: dict[date, int] = field(default_factory=dict)
    accepted: dict[date, int] = field(default_factory=dict)
    erased: dict[date, int] = field(default_factory=dict)
    """Rows that were left out, because their person was erased; a file of ours is rewritten without them, and counts none."""
    released: int = 0
    """Rows that waited in quarantine and pass now."""
    unchanged: list[date] = field(default_factory=list)
    """Nights that were whole already, from the same inputs."""
    verdicts: list[Verdict] = field(default_factory=list)
    """What was judged in this run."""
    news: list[Verdict] = field(default_factory=list)
    """Failures among them that were not known before."""
    version: int = -1
    seconds: float = 0.0

    @property
    def rejected(self) -> dict[date, int]:
        return {night: rows - self.accepted[night] for night, rows in self.landed.items()}


def ingest(session: SparkSession, settings: Settings, feed: Feed, nights: Sequence[date], *, accept: Collection[str] = ()) -> Ingested:
    """Bring the nights' drops of a feed to bronze and silver.

    :param accept: rules that would stop a batch, and that somebody has decided to let through; remembered for these very files.

    Raises:
        LandingError: a drop is missing or cannot be trusted; the nights before it were written, nothing from there on.
        ContractError: a drop breaks a rule that stops the batch (with the verdicts), or rows were lost or doubled; likewise.
        WriteConflictError: other writers won every attempt.
        ConfigurationError: somebody is new, and the key of pseudonyms is missing or another one; the night is not whole.
    """
    with _bringing(settings, feed) as done:
        for begin in range(0, len(nights), NIGHTS_AT_ONCE):
            with barrier.passing(settings):
                _land(session, settings, feed, nights[begin : begin + NIGHTS_AT_ONCE], accept, done)
    return done


def release(session: SparkSession, settings: Settings, feed: Feed, nights: Sequence[date], *, accept: Collection[str] = ()) -> Ingested:
    """Judge the nights' rows again, from bronze, by the contract as it is now; what passes moves from quarantine to silver.

    Raises:
        LandingError: a night was never ingested.
        ContractError: as `ingest`.
    """
    with _bringing(settings, feed) as done, barrier.passing(settings):
        again = _again(settings, feed, nights)
        _bring(session, settings, feed, again, session.table(str(tables.bronze(feed))), accept, done, landing_too=False)
    return done


@contextmanager
def _bringing(settings: Settings, feed: Feed) -> Iterator[Ingested]:
    """What a run brings: a contract that it breaks is told, and at its end the version and the seconds it took are known."""
    started, done = time.monotonic(), Ingested(feed.name)
    try:
        yield done
    except ContractError as error:
        _tell(settings, feed, error)
        raise
    done.version, done.seconds = log.version(settings, tables.silver(feed)), time.monotonic() - started


def _again(settings: Settings, feed: Feed, nights: Sequence[date]) -> list[Batch]:
    """The nights' batches as they were ingested, resting on what the nights before them rest on now."""
    held = batches.held(settings, feed, min(nights) - timedelta(days=feed.dedup_days), max(nights))
    if missing := [night for night in nights if night not in held]:
        raise LandingError(f"bronze.{feed.name}, night {missing[0]}: it was never ingested, so nothing waits there: run `ingest` for it")
    digests = {night: record["inputs"] for night, record in held.items()}
    again = []
    for batch in batches.recorded(held[night] for night in nights):
        digests[batch.night] = batches.inputs(feed, batch.night, batch.batch, digests)
        again.append(replace(batch, inputs=digests[batch.night]))
    return again


def _land(session: SparkSession, settings: Settings, feed: Feed, nights: Sequence[date], accept: Collection[str], done: Ingested) -> None:
    """Read the nights' drops up to the first that cannot be trusted, and bring what is not there yet."""
    held = batches.held(settings, feed, min(nights) - timedelta(days=feed.dedup_days), max(nights))
    digests = {night: record["inputs"] for night, record in held.items()}
    waiting = set(stale.waiting(settings, tables.silver(feed)))
    whom = erased.known(settings)
    drops, todo, failure = [], [], None
    for night in nights:
        try:
            drop = landing.read(settings, feed, night)
            drop = drop and erased.left_out(settings, feed, drop, whom)
        except (LandingError, ContractError) as error:
            failure = error
            break
        digests[night] = batches.inputs(feed, night, drop.batch if drop else "", digests)
        if night in held and night not in waiting and batches.whole(settings, feed, held[night], digests[night]):
            left_out = held[night]["erased"] or 0
            done.landed[night], done.accepted[night] = held[night]["rows"] - left_out, held[night]["accepted"]
            done.erased |= {night: left_out} if left_out else {}
            done.unchanged.append(night)
            continue
        todo.append(batches.of(feed, night, drop, digests[night]))
        drops += [drop] if drop else []
    if todo:
        with bronze.staged(session, settings, feed, drops) as landed:
            _bring(session, settings, feed, todo, landed, accept, done, landing_too=True)
    if failure is not None:
        raise failure


def _bring(
    session: SparkSession,
    settings: Settings,
    feed: Feed,
    todo: Sequence[Batch],
    landed: DataFrame,
    accept: Collection[str],
    done: Ingested,
    *,
    landing_too: bool,
) -> None:
    """Judge the batches, and write those before the first that is stopped: bronze, silver, quarantine, verdicts, and the record last."""
    nights = [batch.night for batch in todo]
    with silver.judged(session, settings, feed, landed, nights) as judged:
        counted = checks.count(session, feed, judged, nights)
        past = checks.past(settings, feed, nights)
        kept: list[Batch] = []
        verdicts: list[Verdict] = []
        stopped: list[Verdict] = []
        for batch in todo:
            _check_sum(feed, batch, counted[batch.night])
            said = checks.judge(feed, batch, counted[batch.night], past, {*accept, *checks.accepted_before(settings, feed, batch)})
            done.verdicts += said
            if any(verdict.stops for verdict in said):
                stopped = said
                break
            kept.append(batch)
            verdicts += said
            past = past.after(batch.night, counted[batch.night])
        if kept:
            _write(session, settings, feed, kept, landed if landing_too else None, judged, counted, done)
            done.news += checks.store(settings, feed, [batch.night for batch in kept], verdicts, OWN_KINDS)
            batches.record(settings, feed, kept, {batch.night: counted[batch.night].accepted for batch in kept})
    if stopped:
        reasons = "; ".join(str(verdict) for verdict in stopped if verdict.stops)
        rules = ",".join(verdict.rule for verdict in stopped if verdict.stops)
        raise ContractError(
            f"silver.{feed.name}, night {stopped[0].night}: the batch is stopped, nothing of it was written. {reasons}. Have it landed "
            f"again; or, if it is right all the same, run the night again with accept={rules}",
            stopped,
        )


def _write(
    session: SparkSession,
    settings: Settings,
    feed: Feed,
    kept: Sequence[Batch],
    landed: DataFrame | None,
    judged: DataFrame,
    counted: Mapping[date, checks.Counted],
    done: Ingested,
) -> None:
    nights = [batch.night for batch in kept]
    accepted = sum(counted[night].accepted for night in nights)
    if landed is not None:
        bronze.write(session, settings, feed, landed, nights, sum(batch.rows for batch in kept))
    for night, rows in silver.overlapping(session, settings, feed, judged, nights).items():
        stale.mark(settings, tables.silver(feed), [night], f"{rows} of its keys came in an earlier night, landed after it")
    silver.write(session, settings, feed, judged, nights, accepted, changing=lambda changed: stale.mark_dependents(settings, feed, changed))
    pseudonyms.keep(session, settings, feed, nights)
    done.released += silver.quarantine(session, settings, feed, judged, nights, sum(counted[night].rejected for night in nights))
    stale.rebuilt(settings, tables.silver(feed), nights)
    done.landed |= {batch.night: batch.rows for batch in kept}
    done.erased |= {batch.night: batch.erased for batch in kept if batch.erased}
    done.accepted |= {night: counted[night].accepted for night in nights}


def _check_sum(feed: Feed, batch: Batch, counted: checks.Counted) -> None:
    if batch.rows != counted.accepted + counted.rejected:
        raise ContractError(
            f"silver.{feed.name}, night {batch.night}: {batch.rows} rows landed, but {counted.accepted} passed and {counted.rejected} "
            "did not. Another run of this night may be writing: run it again; if it stays, a rule loses or doubles rows"
        )


def _tell(settings: Settings, feed: Feed, error: ContractError) -> None:
    """Store what stopped a batch; the error carries what is new of it."""
    if error.verdicts:
        error.news = tuple(checks.store(settings, feed, {v.night for v in error.verdicts}, error.verdicts, OWN_KINDS))
