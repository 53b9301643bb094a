"""`python -m include.nightshift.operate.processes up|down|status|clean`: all processes of one installation, and only of that one.

`up` prepares the home, starts the supervisor and through it each program as soon as what it needs is there, and returns when all of
them answer. `down` returns when nothing of this home runs any more, whoever started it. Both are harmless when there is nothing to do.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from include.nightshift import doors, usecase
from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError, NightshiftError
from include.nightshift.ingest import places
from include.nightshift.lakehouse import storage
from include.nightshift.operate import database, health, preflight, supervision
from include.nightshift.operate.environment import environment, prepare_home
from include.nightshift.settings import ROOT, Settings

__all__ = ["clean", "down", "environment", "main", "status", "up"]

PATIENCE = 240.0
"""Seconds in which everything must answer; about 40 are normal on two cores."""


@dataclass
class Step:
    """One thing that `up` waits for: a supervised program, or a command that runs once."""

    name: str
    begin: Callable[[], None]
    after: tuple[str, ...] = ()
    address: str = ""
    running: subprocess.Popen[bytes] | None = None
    """The command, once begun; None for supervised programs."""


def up(settings: Settings) -> None:
    """Start what does not run, make the tables that are missing, and wait until everything answers, telling the seconds of each.

    What runs already goes on as it is; a line says which settings it was started with other values of.

    Raises:
        ConfigurationError: a port is taken, Airflow's database does not answer, or a process did not come; carries its last log lines.
    """
    with _only_one(settings):
        supervisor = supervision.connect(settings)
        if supervisor is None:
            _clear_the_way(settings)
        elif other := supervision.started_with_other(settings, supervisor):
            print(f"up already, with other values of {', '.join(other)}: `make down`, then `make up` goes by these")
        passwords = prepare_home(settings)
        migrated = database.is_current(settings)
        _boot(settings, supervisor or supervision.start(settings), migrated=migrated)
    for name, program in supervision.programs(settings).items():
        if address := program.address(settings):
            print(f"{name.removesuffix('-api-server'):12} {address}")
    for user, password in passwords.items():
        print(f"{'user':12} {user}  password {password}")
    print(f"{'tokens':12} {settings.home / 'doors'} (for Spark, and for MLflow's user {doors.USER})")
    print(f"{'passwords':12} {settings.passwords_file}" if not passwords else f"{'kept in':12} {settings.passwords_file} (shown only now)")


def down(settings: Settings) -> None:
    """Stop every process of this home, grandchildren too, and wait until all are gone."""
    started = time.monotonic()
    if not supervision.marked(settings):
        print(f"nothing runs for {settings.home}")
        return
    if supervisor := supervision.connect(settings):
        supervision.shut_down(supervisor, patience=25)
    # What left its process group on purpose, and everything where the supervisor was killed; again, for what one of them started meanwhile.
    for _ in range(5):
        supervision.sweep(supervision.marked(settings), patience=10)
        if not (left := supervision.marked(settings)):
            break
    else:
        raise ConfigurationError(
            f"processes of {settings.home} do not end: {[process.pid for process in left]}; end them, then `make down`"
        )
    supervision.socket_path(settings.home).unlink(missing_ok=True)
    print(f"down after {time.monotonic() - started:.1f} s")


def status(settings: Settings) -> bool:
    """Print a line for each program; whether all of them run and answer."""
    supervisor = supervision.connect(settings)
    known = supervision.states(supervisor) if supervisor else {}
    ours = supervision.programs(settings)
    answering = _answering(settings, supervisor) if supervisor else set()
    print(f"{'program':22} {'state':9} {'answers':7} {'pid':>8} {'up for':>9}  address")
    for name, program in ours.items():
        info = known.get(name, {})
        state = str(info.get("statename", "STOPPED")).lower()
        seconds = info["now"] - info["start"] if state == "running" else 0
        answers = "yes" if name in answering else "no"
        print(f"{name:22} {state:9} {answers:7} {info.get('pid') or '':>8} {_span(seconds):>9}  {program.address(settings)}")
    return answering == set(ours)


def clean(settings: Settings) -> None:
    """Stop everything and delete the home: tables, models, passwords and all.

    Raises:
        ConfigurationError: the folder does not look like a home, and is left alone.
    """
    down(settings)
    home = settings.home
    if not home.exists():
        return
    if home in (ROOT, *ROOT.parents, Path.home()) or not (home / "airflow" / "airflow.cfg").exists():
        raise ConfigurationError(f"{home} was not made by `make up`, so it is not deleted: check NIGHTSHIFT_HOME, or delete it by hand")
    storage.release(settings)
    shutil.rmtree(home)
    print(f"deleted {home}" + (f"; the tables stay at {settings.lakehouse_location}" if settings.on_s3 else ""))


def _boot(settings: Settings, supervisor: Any, *, migrated: bool) -> None:
    """Begin each step when those before it are done, until all are; one line for each that is."""
    started = time.monotonic()
    waiting = {step.name: step for step in _steps(settings, supervisor, migrated=migrated)}
    begun: dict[str, Step] = {}
    while waiting or begun:
        for step in [step for step in waiting.values() if not any(name in waiting or name in begun for name in step.after)]:
            step.begin()
            begun[step.name] = waiting.pop(step.name)
        known = supervision.states(supervisor)
        awaited = {name: start for name, start in supervision.started(known).items() if name in begun}
        answering = health.answering(settings, awaited)
        for step in list(begun.values()):
            if _is_done(settings, step, answering, known.get(step.name, {})):
                print(f"{time.monotonic() - started:6.1f} s  {step.name}", flush=True)
                del begun[step.name]
        if begun and time.monotonic() - started > PATIENCE:
            raise _failure(settings, next(iter(begun)), f"does not answer after {PATIENCE:.0f} s")
        time.sleep(0.2)


def _is_done(settings: Settings, step: Step, answering: set[str], known: dict[str, Any]) -> bool:
    if step.running is not None:
        code = step.running.poll()
        if code:
            raise _failure(settings, step.name, f"ended with exit code {code}")
        return code == 0
    if known.get("statename") in ("FATAL", "UNKNOWN"):
        raise _failure(settings, step.name, "does not stay up")
    return step.name in answering


def _steps(settings: Settings, supervisor: Any, *, migrated: bool) -> Iterator[Step]:
    ours = supervision.programs(settings)
    migration = () if migrated else ("airflow-database",)
    for name in migration:
        yield _command(settings, name, [sys.executable, "-m", "include.nightshift.operate.database"])
    # Making the tables is the longest chain, so the lakehouse comes up with the cores almost to itself; the rest boots meanwhile.
    lakehouse = ("lakehouse",) if "lakehouse" in ours else ()
    yield _command(settings, "lakehouse-tables", [sys.executable, "-m", "include.nightshift.lakehouse.catalog"], after=lakehouse)
    for name in ours:
        first = () if name in lakehouse else lakehouse
        after = (*first, *migration) if name.startswith("airflow-") else first
        yield Step(name, partial(supervision.start_program, supervisor, name), after)


def _command(settings: Settings, name: str, line: list[str], after: tuple[str, ...] = ()) -> Step:
    """A step that is done when its command has ended well; its output goes to a log of its own."""

    def begin() -> None:
        with supervision.log_file(settings, name).open("wb") as log:
            step.running = subprocess.Popen(
                line, env=supervision.supervised_environment(settings), cwd=settings.home, stdout=log, stderr=subprocess.STDOUT
            )

    step = Step(name, begin, after)
    return step


def _failure(settings: Settings, name: str, what: str) -> ConfigurationError:
    log = supervision.log_file(settings, name)
    tail = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
    return ConfigurationError(
        "\n".join(
            [f"{name} {what}. The end of {log}:", *(f"  | {line}" for line in tail), "Mend the cause, `make down`, then `make up` again"]
        )
    )


def _answering(settings: Settings, supervisor: Any) -> set[str]:
    return health.answering(settings, supervision.started(supervision.states(supervisor)))


def _clear_the_way(settings: Settings) -> None:
    # Where the supervisor was killed, what it left behind holds our ports and obeys nobody.
    supervision.sweep(supervision.marked(settings), patience=10)
    if complaints := [complaint for complaint in (preflight.memory(), *preflight.ports(settings)) if complaint]:
        raise ConfigurationError("\nnightshift: ".join(complaints))
    doors.make(settings)
    if settings.serves_lakehouse:
        # The server asks again whenever it starts; here a wrong bucket is one sentence at once.
        storage.claim(settings)
    places.check(settings, (feed for use_case in usecase.registered(settings) for feed in use_case.feeds))


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Two `up` at once: the second waits for the first and then finds everything up."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _span(seconds: float) -> str:
    if not seconds:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 1 with a sentence when it cannot be done, or when `status` finds something missing."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.operate.processes", description=__doc__)
    parser.add_argument("verb", choices=("up", "down", "status", "clean"))
    verb = parser.parse_args(arguments).verb
    try:
        settings = settings_module.load()
        if verb == "status":
            return 0 if status(settings) else 1
        {"up": up, "down": down, "clean": clean}[verb](settings)
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("nightshift: interrupted; `make status` tells what runs, `make down` stops it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
