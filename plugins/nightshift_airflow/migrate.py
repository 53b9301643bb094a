"""Migrate: Airflow's database to this Airflow's schema, with the pool that counts training machines. Harmless when all is there.

One process for both: importing Airflow costs seconds. Run as `python -m nightshift_airflow.migrate` where Airflow is at home.
"""

from __future__ import annotations

import sys

from nightshift_airflow.defaults import TRAINING_POOL

SLOTS = 2
"""Trainings at once, until somebody says otherwise in the UI (Admin, Pools)."""


def main() -> None:
    """As `airflow db migrate`, then the pool where it is missing; one that is there stays as it is."""
    from airflow.__main__ import main as airflow
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    sys.argv[1:] = ["db", "migrate"]
    airflow()
    with create_session() as session:
        if Pool.get_pool(TRAINING_POOL, session=session) is None:
            # Deferred tasks count: theirs are the machines that cost.
            Pool.create_or_update_pool(TRAINING_POOL, SLOTS, "Trainings on spot machines at once.", include_deferred=True, session=session)


if __name__ == "__main__":
    main()
