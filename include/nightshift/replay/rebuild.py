"""Rebuild: nights made again from bronze, in an installation of their own. `python -m include.nightshift.replay.rebuild FOLDER`.

Runs with the code of those nights, told only by the folder what to do: so what the folder holds must stay readable by any code of the
past, and what it says of nothing is left to the environment, which names the home, the ports and the use cases.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift import nights as nights_module
from include.nightshift import settings as settings_module
from include.nightshift import usecase
from include.nightshift.errors import NightshiftError
from include.nightshift.score.publications import Decision

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import Feed, UseCase

ORDER, BATCHES = "order.json", "batches.parquet"
NEVER_STOPPED = ("same_columns", "same_types")
"""Beside a feed's own rules of whole batches: what is in bronze was let through once."""


@dataclass(frozen=True)
class Night:
    """A night to make again: what was decided of its list, and the model that scored it."""

    decision: Decision
    model: Path


@dataclass(frozen=True)
class Order:
    """What shall be rebuilt."""

    use_case: str
    cores: int | None
    """Of the machine; None: all of them."""
    nights: tuple[Night, ...]

    def write(self, folder: Path) -> None:
        nights = [{"decision": night.decision.as_dict(), "model": str(night.model)} for night in self.nights]
        (folder / ORDER).write_text(json.dumps({"use_case": self.use_case, "cores": self.cores, "nights": nights}))

    @classmethod
    def read(cls, folder: Path) -> Order:
        plain = json.loads((folder / ORDER).read_text())
        nights = tuple(Night(Decision.from_dict(night["decision"]), Path(night["model"])) for night in plain["nights"])
        return cls(plain["use_case"], plain["cores"], nights)


def rebuild(session: SparkSession, settings: Settings, use_case: UseCase, order: Order, folder: Path) -> None:
    """Silver, features, scores and lists of the nights, from the folder's bronze, in this installation's tables.

    Raises:
        NightshiftError: as the stages do.
    """
    from include.nightshift.features import build
    from include.nightshift.lakehouse import catalog
    from include.nightshift.promote.trust import Reigning
    from include.nightshift.score import publications, scores

    catalog.create(session, settings)
    for feed in use_case.feeds:
        _silver(session, settings, feed, folder)
    wanted = sorted(night.decision.night for night in order.nights)
    build.build(session, settings, use_case, list(nights_module.between(wanted[0], wanted[-1])))
    by_model: dict[Reigning, list[date]] = {}
    for night in order.nights:
        decision = night.decision
        model = Reigning(str(decision.model_version), night.model, None, (), str(decision.model_sha256))
        by_model.setdefault(model, []).append(decision.night)
    for model, scored in by_model.items():
        scores.again(session, settings, use_case, model, sorted(scored))
    publications.publish(session, settings, use_case, [night.decision for night in order.nights])


def _silver(session: SparkSession, settings: Settings, feed: Feed, folder: Path) -> None:
    """Bronze as it was, and silver judged anew from it."""
    from pyarrow import parquet

    from include.nightshift import ingest
    from include.nightshift.ingest import bronze
    from include.nightshift.lakehouse import records, tables

    batches = [record for record in parquet.read_table(folder / BATCHES).to_pylist() if record["feed"] == feed.name]
    landed = session.read.parquet(str(folder / f"{feed.name}.parquet"))
    came = sorted(record["day"] for record in batches)
    accept = {*NEVER_STOPPED, *(rule.name for rule in feed.batch_rules)}
    for begin in range(0, len(came), ingest.NIGHTS_AT_ONCE):
        some = came[begin : begin + ingest.NIGHTS_AT_ONCE]
        theirs = [record for record in batches if record["day"] in set(some)]
        records.replace(settings, tables.BATCHES, theirs, {"day": some, "feed": [feed.name]})
        bronze.write(session, settings, feed, landed, some, sum(record["rows"] for record in theirs))
        done = ingest.release(session, settings, feed, some, accept=accept)
        print(f"silver.{feed.name} {some[0]}..{some[-1]}: {sum(done.accepted.values())} rows", flush=True)  # noqa: T201


def _end_with_the_parent() -> None:
    """End in good order, with the server, once whoever started this process closes its standard input, or dies."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    def wait() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server, rebuild, stop it; returns the exit code."""
    from include.nightshift.operate.served import connected

    _end_with_the_parent()
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    order = Order.read(folder)
    told = {} if order.cores is None else {"JAVA_TOOL_OPTIONS": f"-XX:ActiveProcessorCount={order.cores}"}
    try:
        settings = settings_module.load()
        with connected(settings, **told) as session:
            rebuild(session, settings, usecase.load(order.use_case, settings), order, folder)
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
