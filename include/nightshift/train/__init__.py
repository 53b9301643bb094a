"""Train: pinned rows in, one boosted model out, on a machine that may be taken away at any moment.

`python -m include.nightshift.train --run <folder>` is the whole interface, and the same command resumes. It needs neither
Airflow nor Spark (`requirements-training.txt`). Importing this package costs nothing.
"""
