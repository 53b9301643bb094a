"""`python -m include.nightshift.features.leaks`: scan every registered use case on a lakehouse server of its own."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from include.nightshift import settings as settings_module
from include.nightshift import usecase
from include.nightshift.errors import NightshiftError
from include.nightshift.features.leaks.scan import Scan, scan_models
from include.nightshift.settings import Ports, Settings
from include.nightshift.usecase import UseCase


def main(arguments: Sequence[str] | None = None) -> int:
    """Scan every registered use case on a lakehouse server of its own; 1 where one fails."""
    parser = argparse.ArgumentParser(description="Look for features that know what their night did not.")
    parser.add_argument("--use-case", help="this one alone")
    parser.add_argument("--seeds", type=int, default=1, help="so many made-up worlds")
    options = parser.parse_args(arguments)
    home = Path(tempfile.mkdtemp(prefix="leaks-"))
    try:
        settings = settings_module.load()
        asked = [usecase.load(options.use_case, settings)] if options.use_case else usecase.registered(settings)
        scans = _scans(settings, home, asked, range(1, options.seeds + 1))
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)  # noqa: T201 - a program's answer
        return 1
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if all(done.passed for done in scans) else 1


def _scans(settings: Settings, home: Path, use_cases: Sequence[UseCase], seeds: Sequence[int]) -> list[Scan]:
    from include.nightshift.lakehouse import jars
    from include.nightshift.operate.served import connected

    jars.fetch(replace(settings, lakehouse=None))
    (home / "jars").symlink_to(settings.home / "jars")
    own = Settings(home=home, ports=Ports.free(), clock=False, lakehouse_memory="2g", usecases=settings.usecases)
    scans = []
    with connected(own) as session:
        for use_case in use_cases:
            scans.append(scan_models(session, own, use_case, seeds=seeds))
            print(scans[-1], flush=True)  # noqa: T201
    return scans


if __name__ == "__main__":
    raise SystemExit(main())
