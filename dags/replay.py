"""Make past nights again, from bronze, and say whether they are what was published.

**Fires** over REST or by hand. **Params**: `first_night`, `last_night` (both included), of which those that had a list are replayed;
`cores`, how many of the machine the rebuild may use (empty: all), on which the answer must not depend.
**Reads** bronze, `ops.publications`, the champions of those nights, by their verified bytes. **Writes** `ops.replays`, and nothing else:
silver, features, scores and lists are made in an installation of their own below `<home>/staging`, by the code of that night where git
has it, and are gone when the run ends. Twice the lakehouse's memory is in use meanwhile.

What silver, features, scores and list are equal to is what the night's digests say, clocks left out; where they are not, the rows and
columns are named, by file and row, and what is known to have changed since: rows landed again, a person erased, code or packages that
are not to be had. **When it fails**, a night *differs*, and nothing explains it: somebody altered a table or a record (see `make chain`),
or code is not what it says it is. *lost*: the model's bytes are nowhere.
**Rerun?** Always safe: it changes nothing but the night's row in `ops.replays`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from nightshift_airflow.defaults import night_dag, night_range
from nightshift_airflow.operators.night import RANGE
from nightshift_airflow.operators.replay import ReplayOperator

from include.nightshift import settings, usecase
from include.nightshift.usecase import UseCase

CORES = {"cores": Param(None, type=["integer", "null"], minimum=1, maximum=256, description="Cores for the rebuild; empty: all.")}


def replay(use_case: UseCase) -> None:
    arguments = night_dag(use_case, "replay", __doc__) | {"max_active_runs": 1}
    with DAG(**arguments, schedule=None, params=night_range() | CORES):
        ReplayOperator(
            task_id="replay", use_case=use_case.name, nights=RANGE, cores="{{ params.cores or '' }}", execution_timeout=timedelta(hours=6)
        )


for registered in usecase.registered(settings.load()):
    replay(registered)
