"""A court: an installation without servers, in which models are judged, answered for and crowned."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.courts import Court
from include.nightshift.promote import registry


@pytest.fixture
def court(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Court:
    court = Court(tmp_path).open()
    monkeypatch.setattr(registry, "client", lambda settings: court.alias)
    return court
