"""Check the chained records, also against the heads that Airflow's audit log keeps; prints the faults and the heads as they are now."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError, NightshiftError
from include.nightshift.lakehouse import chain
from include.nightshift.operate.rest import Airflow
from include.nightshift.settings import Settings

Heads = dict[str, str]


def audited(settings: Settings) -> list[Heads]:
    """The heads that Airflow's audit log keeps, oldest first.

    Raises:
        ConfigurationError: Airflow does not answer, or lets nobody in.
    """
    try:
        return [json.loads(kept["extra"]) for kept in Airflow(settings, "admin").events(chain.EVENT)]
    except (NightshiftError, OSError) as error:
        raise ConfigurationError(
            f"the audit log at {settings.airflow_url} cannot be read, so rows cut from a chain's end would not be missed ({error}). "
            "`make up`, or give heads that were kept elsewhere: --heads FILE, or '[]' for none"
        ) from error


def given(text: str) -> list[Heads]:
    """Heads that somebody kept: a JSON object or a list of such, or the file that holds it.

    Raises:
        ConfigurationError: it is neither.
    """
    try:
        told = json.loads(text if text.lstrip()[:1] in ("{", "[") else Path(text).read_text())
        listed: list[Heads] = told if isinstance(told, list) else [told]
        for kept in listed:
            for head in kept.values():
                int(head.partition(":")[0])
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"--heads {text[:60]} is no heads ({error}): give what `make chain` prints, or a list of such") from error
    return listed


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the faults, then the heads; 1 where there is a fault, or where not all could be looked for."""
    parser = argparse.ArgumentParser(prog="python -m include.nightshift.operate.chain", description=__doc__)
    parser.add_argument("--heads", metavar="JSON", help="heads that were kept, as JSON or a file with it (default: Airflow's audit log)")
    options = parser.parse_args(arguments)
    installed = settings_module.load()
    try:
        # Read after what was kept: chains grow.
        kept = audited(installed) if options.heads is None else given(options.heads)
        found, heads = chain.verify(installed, heads=kept), chain.heads(installed)
    except NightshiftError as error:
        print(f"nightshift: {error}", file=sys.stderr)
        return 1
    for fault in found:
        print(f"nightshift: {fault}", file=sys.stderr)
    print(f"{len(found)} faults; compared with the heads of {len(kept)} times", file=sys.stderr)
    print(json.dumps(heads, indent=2))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
