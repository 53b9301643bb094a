"""Whether every night that an installation has published can be made again: after its tables were vacuumed, and on another core count.

`make demo && make bench NAME=replay`, or on any home that is up: it starts a `maintain` that keeps no replaced version, then replays all
published nights on one core and on all of them, through Airflow, and counts those that are not equal.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from datetime import UTC, datetime

from bench import Figure, report
from include.nightshift import settings as settings_module
from include.nightshift import usecase
from include.nightshift.lakehouse import records, tables
from include.nightshift.operate.rest import Airflow, AirflowError

LONGEST = 4 * 3600
"""Seconds that one replay may take."""


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m bench.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    settings = settings_module.load()
    use_case = usecase.registered(settings)[0]
    found = records.read(settings, tables.PUBLICATIONS, use_case=use_case.name)
    published = sorted({record["day"] for record in found if record["state"] != "skipped"})
    if not published:
        print(f"replay: {settings.home} has published no night: `make demo` first")
        return 2
    airflow = Airflow(settings, settings.approver)
    print(f"{len(published)} nights, {published[0]}..{published[-1]}, on {os.cpu_count()} cores", flush=True)
    airflow.run(f"{use_case.name}_maintain", conf={"keep_days": 0})
    span = {"first_night": published[0].isoformat(), "last_night": published[-1].isoformat()}
    wrong = 0
    for cores in (1, None):
        began, since = time.monotonic(), datetime.now(UTC)
        run_id = airflow.trigger(f"{use_case.name}_replay", conf=span | {"cores": cores})
        try:
            airflow.wait(f"{use_case.name}_replay", run_id, seconds=LONGEST)
        except AirflowError as error:
            print(error)
        held = records.read(settings, tables.REPLAYS, day=published, use_case=use_case.name)
        told = {record["day"]: record for record in held if record["replayed_at"] > since}
        outcomes = Counter(told[night]["outcome"] if night in told else "not replayed" for night in published)
        said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        print(f"  on {cores or 'all'} cores: {said}, {time.monotonic() - began:.0f} s", flush=True)
        wrong += sum(count for outcome, count in outcomes.items() if outcome != "equal")
    return report("replay", [Figure("nights that were not equal, of both replays", wrong, 0, "")])


if __name__ == "__main__":
    raise SystemExit(main())
