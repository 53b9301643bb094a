"""dbt's documentation as one page, without a server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from include.nightshift.features import project
from include.nightshift.lakehouse import tables
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Ports, Settings
from include.usecases.card_fraud.usecase import USE_CASE


def test_the_page_holds_every_models_description_and_fetches_nothing(tmp_path: Path) -> None:
    # Ports where nobody listens: dbt may not ask a server for anything.
    settings = Settings(home=tmp_path, ports=Ports.free())
    line = [sys.executable, "-m", "include.nightshift.features.docs"]
    done = subprocess.run(line, cwd=ROOT, env=environment(settings), capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'reports' / 'dbt.html'}\n"), done.stderr[-3000:]
    page = (tmp_path / "reports" / "dbt.html").read_text()
    models = [model for path in (project.PROJECT / "models").rglob("*.yml") for model in yaml.safe_load(path.read_text()).get("models", [])]
    assert len(models) > 5
    assert [model["name"] for model in models if json.dumps(model["description"].strip())[1:-1] not in page] == []
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//", page) == []


def test_the_sources_columns_are_described_in_the_words_of_their_tables() -> None:
    [silver] = yaml.safe_load((project.PROJECT / "models" / "staging" / "__sources.yml").read_text())["sources"]
    described = {table["name"]: {column["name"]: column["description"] for column in table["columns"]} for table in silver["tables"]}
    assert described == {feed.name: {c.name: c.comment for c in tables.silver(feed).columns} for feed in USE_CASE.feeds}
