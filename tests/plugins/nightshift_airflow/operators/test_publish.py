"""After a night is published its sources are described; that they cannot be is said, and stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.nightshift.operate.environment import environment, prepare_home
from include.nightshift.settings import ROOT, Settings

# In a process of its own, because Airflow takes over the logging of whoever imports it.
DESCRIBE = """
from include.nightshift import settings
from nightshift_airflow.operators.ingest import PublishOperator
operator = PublishOperator(task_id="publish", use_case="card_fraud", task_ids=[])
operator.describe(settings.load())
print("ANSWER done")
"""


@pytest.mark.parametrize(("hindered", "said"), [(False, "source catalogue: "), (True, "could not be written, the one before stands")])
def test_the_catalogue_is_written_and_a_failure_to_is_logged_and_no_more(tmp_path: Path, hindered: bool, said: str) -> None:
    settings = Settings(home=tmp_path)
    prepare_home(settings)
    if hindered:
        (tmp_path / "reports").write_text("no folder")
    variables = environment(settings) | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"}
    done = subprocess.run([sys.executable, "-c", DESCRIBE], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ANSWER done" in done.stdout
    assert said in done.stdout + done.stderr
    assert ("FileExistsError" in done.stdout + done.stderr) == hindered
    assert (tmp_path / "reports" / "sources.html").is_file() != hindered
