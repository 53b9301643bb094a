"""The README's question, asked of the server: who was champion on a night, why, approved by whom, on what evidence."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest
from pyspark.sql import SparkSession

from bench.courts import Court
from include.nightshift.lakehouse.session import rows
from include.nightshift.promote import acts
from include.nightshift.settings import ROOT, Settings

NIGHT = date(1999, 3, 1)


@pytest.mark.lakehouse
def test_the_readme_says_who_was_champion_on_a_night_by_whose_word_and_on_what_evidence(
    session: SparkSession, installation: Settings
) -> None:
    court = Court(installation.home)
    try:
        court.enthroned("41", NIGHT)
        court.enthroned("42", NIGHT + timedelta(days=5))
        asked_for = {"by": "bob", "why": "it finds nothing", "night": NIGHT + timedelta(days=7)}
        acts.record(installation, court.use_case, acts.BASELINE, act_id="query", **asked_for)  # type: ignore[arg-type]
        query = re.search(r"```sql\n(select h\.model_version.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        assert query is not None
        found = {night: rows(session, query[1].replace("2026-04-01", str(NIGHT + timedelta(days=night)))) for night in (-1, 0, 4, 5, 7)}
        assert found[-1] == []
        assert {night: [(row["model_version"], row["list_by"]) for row in answer] for night, answer in found.items() if answer} == {
            0: [("41", None)],
            4: [("41", None)],
            5: [("42", None)],
            7: [("42", "baseline")],
        }
        [row] = found[0]
        assert (row["approved_by"], row["act"], row["figures"], len(row["report_digest"])) == ("ann", "promote", "{}", 64)
    finally:
        court.dissolved()
