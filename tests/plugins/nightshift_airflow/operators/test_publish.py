"""After a night is published its sources are described; that they cannot be is said, and stops nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.nightshift.operate.environment import prepare_home
from include.nightshift.settings import Settings
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it.
DESCRIBE = """
from include.nightshift import settings
from nightshift_airflow.operators.ingest import PublishOperator
operator = PublishOperator(task_id="publish", use_case="card_fraud", task_ids=[])
operator.describe(settings.load())
print("ANSWER true")
"""


@pytest.mark.parametrize(("hindered", "said"), [(False, "source catalogue: "), (True, "could not be written, the one before stands")])
def test_the_catalogue_is_written_and_a_failure_to_is_logged_and_no_more(tmp_path: Path, hindered: bool, said: str) -> None:
    settings = Settings(home=tmp_path)
    prepare_home(settings)
    if hindered:
        (tmp_path / "reports").write_text("no folder")
    told = apart.run(settings, "-c", DESCRIBE)
    assert told.answer is True
    assert said in told.output
    assert ("FileExistsError" in told.output) == hindered
    assert (tmp_path / "reports" / "sources.html").is_file() != hindered
