"""Probe: a model that reads other columns, or by other code, than when it was made, is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.nightshift.train import models, probe

FEATURES = ("amount", "risk", "count")
NAMES: dict[str, Any] = {"kind": "linear", "features": FEATURES, "key": "id", "entity": "who", "event_time": "at", "target": "fraud"}


def terms(*names: str) -> bytes:
    weights = zip(names, (1.0, -2.0, 0.5), strict=True)
    return json.dumps({"intercept": 0.1, "terms": [TERM | {"feature": name, "weight": weight} for name, weight in weights]}).encode()


TERM: dict[str, Any] = {"mean": 0.0, "scale": 1.0, "median": 0.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A linear model of three features, with its probe."""
    (tmp_path / models.FEATURES).write_text(json.dumps(NAMES))
    models.file(tmp_path).write_bytes(terms(*FEATURES))
    probe.leave(tmp_path, np.random.default_rng(1).normal(size=(200, 3)), NAMES)
    return tmp_path


def test_a_model_gives_its_probe_the_scores_that_it_gave_then(folder: Path) -> None:
    assert probe.distance(folder) == 0.0


def test_a_model_that_reads_its_columns_in_another_order_does_not(folder: Path) -> None:
    models.file(folder).write_bytes(terms("risk", "amount", "count"))
    assert (probe.distance(folder) or 0) > 0.01


def test_a_model_by_other_code_does_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from include.nightshift.train import linear

    score: Callable[..., np.ndarray] = linear.Weighted.score
    monkeypatch.setattr(linear.Weighted, "score", lambda *told, **more: score(*told, **more) + 2e-6)
    assert (probe.distance(folder) or 0) > 1e-6


def test_a_model_from_before_there_were_probes_has_none(folder: Path) -> None:
    (folder / probe.PROBE).unlink()
    assert probe.distance(folder) is None


def test_the_rows_of_a_probe_are_nobodys(folder: Path) -> None:
    columns = json.loads((folder / probe.PROBE).read_text())["columns"]
    matrix = np.random.default_rng(1).normal(size=(200, 3))
    made_up = np.column_stack([columns[name] for name in FEATURES])
    assert min(float(abs(matrix - row).max(axis=1).min()) for row in made_up) > 0.01
