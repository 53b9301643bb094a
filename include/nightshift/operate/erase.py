"""Ask for a person to be erased: `make erase`, then the id on standard input; or `… | python -m include.nightshift.operate.erase`.

The id is read from standard input and from nowhere else: arguments stand in process lists and shell histories. It goes into a file that
the run destroys; the run, and everybody who looks at it, knows only a token.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence

from include.nightshift import settings as settings_module
from include.nightshift import usecase
from include.nightshift.erase import request
from include.nightshift.errors import ErasureError, NightshiftError
from include.nightshift.operate.rest import Airflow
from include.nightshift.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Put the request on disk and start its run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.operate.erase", description=__doc__)
    parser.add_argument("--use-case", default=None, help="where several are registered")
    parser.add_argument("--prepare", action="store_true", help="only print the token; start the run yourself")
    asked = parser.parse_args(arguments)
    try:
        settings = settings_module.load()
        use_case = usecase.load(asked.use_case or settings.usecases[0], settings)
        token = request.make(settings, use_case, _id(f"{use_case.entity} to erase, in all of {use_case.title}: "))
        if asked.prepare:
            print(token)
            return 0
        print(f"request {token}", flush=True)
        dag_id = f"{use_case.name}_erase"
        run_id = _start(settings, dag_id, token)
        print(f"{dag_id} {run_id} has begun; its receipt: select * from ops.erasures where request_id = '{token}'")
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)
        return 1
    return 0


def _id(prompt: str) -> str:
    """The one line of standard input; a person who types sees nothing of it."""
    text = getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline()
    if not text.strip():
        raise ErasureError("no id was given: it is read from standard input, never from an argument")
    return text


def _start(settings: Settings, dag_id: str, token: str) -> str:
    """Start the run; the request waits where that cannot be done now."""
    try:
        return Airflow(settings, settings.approver).trigger(dag_id, conf={"token": token})
    except (NightshiftError, OSError) as error:
        raise ErasureError(
            f"the request is on disk, but its run could not be started: {error}. Start {dag_id} with this token later"
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
