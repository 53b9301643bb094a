"""What is held in memory before tasks are forked: libraries only, and nothing that a fork would break."""

import subprocess
import sys

PROBE = """
import importlib, sys, threading
for name in sys.argv[1:]:
    importlib.import_module(name)
held = {name.partition(".")[0] for name in sys.modules}
print(threading.active_count(), bool(held & {"include", "dags", "nightshift_airflow", "deltalake"}))
"""


def test_what_is_held_starts_no_thread_and_holds_nothing_that_tasks_must_see_fresh() -> None:
    from nightshift_airflow import executors  # here, because Airflow takes over the logging of whoever imports it

    # deltalake counts among it: its threads do not survive a fork, so the tasks themselves import it.
    told = subprocess.run([sys.executable, "-c", PROBE, *executors.WARM], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.split() == ["1", "False"]
