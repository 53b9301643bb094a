"""Erase: a person who was deleted stays deleted.

The walk, each step of which may be done again: remember digests of the person and of their events, so that no ingest brings them back;
list the models that had them among their rows; delete their rows from every table, rewrite landed files of ours, training extracts and
logs; leave no older version of a table that told of them; search everything; write the receipt; destroy the request.

No night is marked stale: others' published features and scores stand as they were published, also where a window counted an event that
is gone. What is rebuilt from now on is built without it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift import keys
from include.nightshift.erase import files, receipt, request, training
from include.nightshift.erase.person import Finder, Person, concerned, holders
from include.nightshift.erase.search import everywhere, in_table, search
from include.nightshift.errors import ErasureError, NightshiftError
from include.nightshift.ingest import batches, checks, erased
from include.nightshift.lakehouse import barrier, log, pins, records, tables, vacuum
from include.nightshift.lakehouse.purge import purge
from include.nightshift.monitor import requests
from include.nightshift.promote.question import Kind, Question

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.erase.receipt import Found
    from include.nightshift.erase.request import Request
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

told = logging.getLogger(__name__)

CAUSE = "erasure"
FORGET = Question(kind=Kind.REFRESH, mandatory=True)
"""What a model is asked that replaces one which remembers somebody: not to be worse; and the old one may not stay."""
PATIENCE = 60.0
"""Seconds that the server has to let go of what its last queries left in its scratch folder."""


def erase(session: SparkSession, settings: Settings, use_case: UseCase, token: str, *, in_flight: timedelta = vacuum.IN_FLIGHT) -> Record:
    """Erase the person of a request; returns the receipt, as it stands in `ops.erasures`. Again with the same token: goes on, or did.

    Args:
        session: on the lakehouse server.
        settings: of the installation.
        use_case: whose request it is; others with the same events and the same entity are cleared as well.
        token: names the request.
        in_flight: files that no version names and that are younger may belong to a write under way, and hold it up.

    Raises:
        ErasureError: there is no such request, a training run is under way on the person's rows, or something still tells of them.
        ConfigurationError: the key of the digests is missing, or another one.
        LakehouseError: a write may be under way on a table that has to be purged.
        WriteConflictError: other writers won every attempt at one table.
    """
    done = receipt.of(settings, token)
    if done is None:
        asked = request.read(settings, use_case, token)
        erasure = _Erasure(session, settings, use_case, asked, in_flight)
        with _unspoken(erasure):
            done = erasure.run()
    receipt.close(settings, token)
    request.destroy(settings, token)
    return done


class _Erasure:
    """One run of a request."""

    def __init__(self, session: SparkSession, settings: Settings, use_case: UseCase, asked: Request, in_flight: timedelta) -> None:
        self.session = session
        self.settings = settings
        self.use_case = use_case
        self.asked = asked
        self.in_flight = in_flight
        self.use_cases = concerned(settings, use_case)
        self.feeds = {feed.name: feed for other in self.use_cases for feed in other.feeds}
        self.tables = holders(self.use_cases)
        self.person = Person(use_case.entity, use_case.events.key, asked.person, asked.keys)
        self.found: Found = receipt.found(settings, asked.token)
        self.searched: dict[str, Any] = {}

    def run(self) -> Record:
        steps = (
            self.register,
            self.list_models,
            self.delete,
            self.refigure,
            self.rewrite_landed,
            self.clear_training,
            self.purge,
            self.clear_litter,
            self.verify,
            self.propose,
        )
        for step in steps:
            started = time.monotonic()
            step()
            told.info("request %s: %s, %.1f s", self.asked.token, step.__name__.replace("_", " "), time.monotonic() - started)
        return receipt.write(self.settings, self.asked.token, self.use_case.name, self.subject, self.found, self.searched)

    @property
    def finder(self) -> Finder:
        return Finder(self.session, self.settings, self.use_cases, self.person)

    @property
    def subject(self) -> str:
        return keys.made(self.settings, keys.ERASURE).digest(self.person.entity, self.person.id)

    def register(self) -> None:
        """From here on no ingest brings them back: first the person, then every event of theirs that is known anywhere."""
        erased.register(self.settings, self.asked.token, {(self.person.entity, erased.ENTITY): {self.person.id}})
        self._drain()
        events = self.use_case.events
        theirs = set().union(*(self.finder.keys(table) for table in self.tables)) | files.keys(self.settings, events, self.person)
        self.person = replace(self.person, keys=self.person.keys | theirs)
        shared = set().union(*(self.finder.shared(table) for table in (tables.bronze(events), tables.silver(events))))
        self.asked = request.extend(self.settings, self.asked, theirs - shared)
        self.person = replace(self.person, keys=self.asked.keys)
        erased.register(self.settings, self.asked.token, {(self.person.key, erased.KEY): self.person.keys})
        self._drain()

    def list_models(self) -> None:
        """Before their rows go from the extracts that tell it."""
        events = tables.silver(self.use_case.events)
        self.found.add_rows(str(events), self.finder.addresses(events))
        nights = self.found.nights(str(events))
        extracts = training.extracts(self.settings, self.person)
        trained = training.models(self.settings, self.use_cases, self.person, extracts, nights)
        for known in (receipt.known_models(self.settings, self.subject), trained):
            for name, versions in known.items():
                # What an earlier run saw in an extract is not undone by the extract's having been cleared.
                self.found.models[name] = versions | self.found.models.get(name, {})
        self._keep()

    def delete(self) -> None:
        """Their rows from every table, in walking order: what writes a table reads those before it, and is waited for."""
        for table in self.tables:
            self._drain()
            addresses = self.finder.addresses(table)
            if addresses.num_rows:
                self.found.add_rows(str(table), addresses)
                self._keep()
                self.finder.remove(table, addresses)

    def refigure(self) -> None:
        """What contracts compare later nights with, of the rows that are left."""
        for feed in self.feeds.values():
            checks.refigure(self.session, self.settings, feed, self.found.nights(str(tables.silver(feed))))

    def rewrite_landed(self) -> None:
        """Landed files of ours, whose new hashes are registered first; others are reported."""
        for feed in self.feeds.values():
            landed = list(files.landed(self.settings, feed, self.person))
            ours = [file for file in landed if isinstance(file, files.Landed) and file.is_ours]
            for file in landed:
                if isinstance(file, files.Unread):
                    self.found.reported[self._named(file.address)] = f"cannot be read: {file.why}"
                elif file.is_ours:
                    self.found.files[self._named(file.address)] = len(file.rows)
                else:
                    self.found.reported[self._named(file.address)] = f"not ours to change: {len(file.rows)} rows"
            self._keep()
            rewritten = {file.night: batches.Rewritten(file.batch, file.cut, file.left) for file in ours if file.night}
            nights = set(self.found.nights(str(tables.bronze(feed))))
            if nights or rewritten:
                batches.reconcile(self.settings, feed, nights, rewritten)
            for file in ours:
                files.rewrite(file)

    def clear_training(self) -> None:
        """Their rows from training extracts; a run that has not ended goes whole."""
        extracts = training.extracts(self.settings, self.person)
        for extract in extracts:
            # A run that was killed here has taken some of them already.
            name = self._named(extract.folder)
            self.found.files[name] = max(extract.rows, self.found.files.get(name, 0))
        self._keep()
        for extract in extracts:
            training.remove(extract, self.person)

    def purge(self) -> None:
        """Every table that tells of them in any version keeps its live one alone; pins of others are given up."""
        # The figures of small nights told of them too, and tell so in older versions.
        refigured = [tables.CONTRACT_RESULTS] if self.found.rows else []
        for table in (*self.tables, *refigured):
            if table not in refigured and str(table) not in self.found.rows and not any(in_table(self.settings, table, self.person.wanted)):
                continue
            live, held = log.version(self.settings, table), pins.held(self.settings, table, datetime.now(UTC).date())
            self.found.add_purged(
                str(table), (asdict(pin) | {"until": pin.until and str(pin.until)} for pin in held if pin.version != live)
            )
            self._keep()
            purge(self.session, self.settings, table, give_up=held, in_flight=self.in_flight)

    def clear_litter(self) -> None:
        """What killed stages left, what the server caches, and numbers in logs."""
        with barrier.drained(self.settings):
            files.clear_litter(self.settings)
            self.session.catalog.clearCache()
        for path, places in files.redact(self.settings, self.person.wanted.numbers).items():
            self.found.files[path] = self.found.files.get(path, 0) + places
        self._keep()

    def verify(self) -> None:
        """Look everywhere; whatever is left is an error that names it.

        Raises:
            ErasureError: something tells of the person, or an earlier writer brought them back.
        """
        left = [f"{rows} rows of {table}" for table in self.tables if (rows := self.finder.addresses(table).num_rows)]
        left += [f"training extract {extract.run_id}" for extract in training.extracts(self.settings, self.person)]
        self._let_go()
        searched = everywhere(self.settings, self.tables, self.person.wanted, skipping=request.paths(self.settings, self.asked.token))
        if left or searched.hits:
            places = [*left, *searched.hits]
            raise ErasureError(
                f"{len(places)} places still tell of the person of request {self.asked.token}: {'; '.join(places[:20])}. Clear this task: "
                "what a run brought meanwhile is removed then. A place that stays is no table's and no file's that this platform writes: "
                "remove it by hand. Under metastore/scratch: restart the lakehouse server (`make down`, `make up`)"
            )
        wanted = self.person.wanted
        every = sum(len(listed) for listed in wanted.columns.values())
        self.searched = {"numbers": every, "in_every_byte": len(wanted.numbers), "in_columns_only": every - len(wanted.numbers)}

    def propose(self) -> None:
        """A retrain, where the model that reigns had them among its rows. The request says which versions, and no more."""
        for use_case in self.use_cases:
            history = records.read(self.settings, tables.CHAMPION_HISTORY, use_case=use_case.name)
            reigning = next((reign["model_version"] for reign in history if reign["until_night"] is None), None)
            extent = log.extent(self.settings, tables.silver(use_case.events))
            versions = self.found.models.get(use_case.name, {})
            if reigning in versions and extent is not None:
                evidence = {"erasure": self.asked.token, "champion": reigning, "models": sorted(versions)}
                filed = requests.file(self.settings, use_case, extent[1], CAUSE, FORGET, evidence, about=self.asked.token)
                self.found.retrain.append(filed["request_id"])
        self._keep()

    def _let_go(self) -> None:
        """Wait for the server to drop what its last queries left on disk; the search tells if it does not."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            # Nothing refers to it any more, but Java has no reason of its own to collect its garbage soon.
            self.session.sql("select reflect('java.lang.System', 'gc')").toArrow()
            if not search(self.settings.home / "metastore" / "scratch", self.person.wanted).hits:
                return
            time.sleep(1)

    def _drain(self) -> None:
        with barrier.drained(self.settings):
            pass

    def _keep(self) -> None:
        self.found.save(self.settings, self.asked.token)

    def _named(self, place: object) -> str:
        """A file's name in the receipt: below the home, or its whole address."""
        return str(place).removeprefix(f"{self.settings.home}/")


@contextmanager
def _unspoken(erasure: _Erasure) -> Iterator[None]:
    """No error that leaves tells of the person, whoever raised it: Spark quotes values, and logs show what an error came from."""
    try:
        yield
    except Exception as error:
        secrets = {number.removeprefix("-") for number in (erasure.person.id, *erasure.person.keys)}

        def starred(text: str) -> str:
            return re.sub(r"[0-9]+", lambda run: "*" * len(run[0]) if run[0].lstrip("0") in secrets else run[0], text)

        if all(starred(str(one)) == str(one) for one in _chain(error)):
            raise
        kind = type(error) if isinstance(error, NightshiftError) else ErasureError
        raise kind(starred(str(error))) from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
