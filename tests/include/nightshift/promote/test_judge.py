"""Judge: a real run's model, and the champion where there is one, on the run's own rows; what the report binds; and it fails closed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bench import runs
from include.nightshift.errors import RegistryError
from include.nightshift.features.leaks import record as leaks
from include.nightshift.lakehouse import chain, records, tables
from include.nightshift.promote import acts, history, judge, registry, report
from include.nightshift.promote.question import FIRST, IMPROVE, Question
from include.nightshift.score.baseline import BASELINE
from include.nightshift.settings import Settings
from include.nightshift.train import __main__ as trainer
from include.nightshift.train import models
from include.nightshift.train.recipes import Linear, Recipe, Trees
from include.nightshift.train.run import HOLDOUT_ROWS, MODEL_FOLDER, TrainingRun
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.usecase import USE_CASE

FEATURES = tuple(USE_CASE.feature_names[:4])
ROWS, PEOPLE = 6000, 400
WEAK = Linear(name="weak")
STRONG = Trees(name="strong", rounds=60, rounds_per_chunk=20, max_depth=4, max_bin=64)
"""Fraud follows on a product of two features, which a weighted sum cannot see."""


class Models:
    """Stands for the model server: keeps what a version is tagged with, and what is laid beside it."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        return SimpleNamespace(run_id=f"run-{version}")

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self.texts[f"{run_id}/{artifact_file}"] = text

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.tags[f"{version}.{key}"] = value


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Models:
    stands = Models()
    monkeypatch.setattr(registry, "client", lambda settings: stands)
    return stands


@pytest.fixture
def use_case() -> UseCase:
    return dataclasses.replace(USE_CASE, gate=dataclasses.replace(USE_CASE.gate, short_holdout_nights=7, holdout_nights=7, min_gain=0.001))


@pytest.fixture
def scanned(records_home: Settings, use_case: UseCase) -> None:
    scan = {"use_case": use_case.name, "code": leaks.code(use_case), "passed": True, "seen": "nothing moved"}
    records.replace(records_home, tables.LEAK_SCANS, [scan], {"use_case": [use_case.name]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """A finished run of a recipe, as the pin step and a machine leave it; made once each."""
    home = tmp_path_factory.mktemp("runs")

    def make(recipe: Recipe) -> Path:
        folder = home / recipe.name
        if not folder.exists():
            runs.make(folder, recipe, ROWS, PEOPLE, FEATURES)
            run = dataclasses.replace(TrainingRun.load(folder), run_id=recipe.name)
            run.save(folder)
            [part] = (folder / HOLDOUT_ROWS).glob("*.parquet")
            held = parquet.read_table(part)
            parquet.write_table(held.append_column("terminal_id", pa.array(np.arange(len(held)) % 50)), part)
            frauds = held.filter(pa.compute.equal(held.column(run.target), 1)).select(["day", run.entity])
            (folder / "data" / "frauds").mkdir()
            parquet.write_table(frauds, folder / "data" / "frauds" / "part-00000.parquet")
            trainer.train(folder)
        return folder

    return make


def judged(settings: Settings, use_case: UseCase, folder: Path, question: Question = FIRST, version: str = "1") -> dict[str, Any]:
    """Judge a run that was asked this, and the report's row."""
    run = dataclasses.replace(TrainingRun.load(folder), question=question, versions={"silver.b": 2, "silver.a": 1})
    sha = models.sha256(folder / MODEL_FOLDER)
    digest = judge.judge(settings, use_case, folder, run, model_version=version, model_sha256=sha).digest
    [row] = records.read(settings, tables.GATE_REPORTS, report_digest=digest)
    return row


def crown(settings: Settings, use_case: UseCase, folder: Path, version: str, digest: str) -> None:
    """A reign since before any candidate, and the champion's local copy."""
    shutil.copytree(folder / MODEL_FOLDER, settings.home / "models" / use_case.name / version)
    reign = {"use_case": use_case.name, "model_version": version, "from_night": date(2018, 1, 1), "report_digest": digest}
    chain.append(settings, tables.CHAMPION_HISTORY, reign, unless={})


@pytest.mark.usefixtures("scanned")
def test_a_report_binds_the_model_its_rows_its_question_and_its_code_and_can_be_made_again(
    records_home: Settings, use_case: UseCase, server: Models, trained: Callable[[Recipe], Path]
) -> None:
    folder = trained(STRONG)
    row = judged(records_home, use_case, folder)
    assert (row["passed"], row["outcome"], row["question"]) == (True, "passed", "first"), row["verdicts"]
    assert report.digest(row["document"]) == row["report_digest"]
    told, bound = report.read(row["document"])
    assert told.passed
    run = TrainingRun.load(folder)
    assert bound["model_sha256"] == row["model_sha256"] == models.sha256(folder / MODEL_FOLDER)
    assert bound["baseline_sha256"] == row["baseline_sha256"] == models.sha256(folder / BASELINE)
    assert (bound["holdout_first"], bound["recipe"]["name"], bound["question"]) == ("2018-08-01", "strong", FIRST.told())
    assert (bound["data_digest"], bound["policy"]["min_gain"], bound["champion_sha256"]) == (run.data_digest, 0.001, None)
    assert server.tags["1.nightshift.gate"] == "passed"
    assert row["versions"] == '{"silver.a": 1, "silver.b": 2}'
    assert row["figures"] == json.dumps(told.figures, sort_keys=True)

    beside = f"run-1/gate/{row['report_digest'][:12]}"
    assert server.texts[f"{beside}/report.json"] == row["document"]
    shown = report.place(records_home, row["report_digest"]).read_text()
    assert server.texts[f"{beside}/report.html"] == shown
    for said in (row["report_digest"], row["model_sha256"], "nobody reigns; average precision", "<svg", "Fairness between groups"):
        assert said in shown
    assert "strong (trees)" in server.texts[f"{beside}/model-card.md"]

    assert judged(records_home, use_case, folder) == row, "judged again, it is the same report"
    assert len(records.read(records_home, tables.GATE_REPORTS)) == 1
    assert chain.verify(records_home) == []


def test_without_a_scan_of_the_features_as_they_are_nothing_passes(
    records_home: Settings, use_case: UseCase, server: Models, trained: Callable[[Recipe], Path]
) -> None:
    row = judged(records_home, use_case, trained(STRONG))
    assert [verdict["gate"] for verdict in json.loads(row["verdicts"]) if not verdict["passed"]] == ["clean"]
    assert server.tags["1.nightshift.gate"] == "refused"
    stale = {"use_case": use_case.name, "code": "of another state", "passed": True, "seen": ""}
    records.replace(records_home, tables.LEAK_SCANS, [stale], {"use_case": [use_case.name]})
    assert not judged(records_home, use_case, trained(STRONG))["passed"]


@pytest.mark.usefixtures("scanned", "server")
def test_candidate_and_champion_meet_on_the_candidates_rows_and_each_candidate_is_counted_once(
    records_home: Settings, use_case: UseCase, trained: Callable[[Recipe], Path]
) -> None:
    weak, strong = trained(WEAK), trained(STRONG)
    first = judged(records_home, use_case, weak)
    crown(records_home, use_case, weak, "1", first["report_digest"])
    row = judged(records_home, use_case, strong, IMPROVE, version="2")
    assert (row["champion_version"], row["champion_sha256"]) == ("1", models.sha256(weak / MODEL_FOLDER))
    assert row["judged_before"] == 1, "the champion was a candidate on the same nights"
    figures = json.loads(row["figures"])
    assert figures["candidate_average_precision"] > figures["champion_average_precision"]
    assert row["passed"], row["verdicts"]
    assert "<svg" in report.place(records_home, row["report_digest"]).read_text()
    again = judged(records_home, use_case, strong, IMPROVE, version="2")
    assert (again["judged_before"], again["report_digest"]) == (1, row["report_digest"])
    third = judged(records_home, use_case, trained(dataclasses.replace(STRONG, name="third", max_depth=3)), IMPROVE, version="3")
    assert (third["judged_before"], third["level"] < row["level"]) == (2, True)
    assert not judged(records_home, use_case, weak, IMPROVE, version="1")["passed"], "the champion beside itself"


@pytest.mark.usefixtures("scanned", "server")
def test_a_champion_that_has_seen_the_held_out_nights_is_told_as_long_as_its_run_can_be_looked_at(
    records_home: Settings, use_case: UseCase, trained: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    weak, strong = (Path(shutil.copytree(trained(recipe), tmp_path / recipe.name)) for recipe in (WEAK, STRONG))
    first = judged(records_home, use_case, weak)
    crown(records_home, use_case, weak, "1", first["report_digest"])
    dataclasses.replace(TrainingRun.load(weak), train_last=date(2018, 7, 31)).save(weak)

    def said() -> str:
        row = judged(records_home, use_case, strong, IMPROVE, version="2")
        return next(verdict["reasons"][0] for verdict in json.loads(row["verdicts"]) if verdict["gate"] == "disjoint")

    assert "the champion has seen nights until 2018-07-31, which flatters it" in said()
    shutil.rmtree(weak)
    assert said() == "training rows of nights 2018-06-01..2018-07-24, held-out nights from 2018-08-01 on"
    records.amend(records_home, tables.GATE_REPORTS, lambda held: [])
    assert said() == "training rows of nights 2018-06-01..2018-07-24, held-out nights from 2018-08-01 on"


@pytest.mark.usefixtures("scanned", "server")
def test_candidates_of_nights_that_overlap_are_counted_and_no_others(
    records_home: Settings, use_case: UseCase, trained: Callable[[Recipe], Path]
) -> None:
    """1 to 7 August judge."""
    nights = {
        "before": (date(2018, 7, 25), date(2018, 7, 31)),
        "on the first": (date(2018, 7, 26), date(2018, 8, 1)),
        "on the last": (date(2018, 8, 7), date(2018, 8, 13)),
        "after": (date(2018, 8, 8), date(2018, 8, 14)),
        "held nothing out": (None, None),
    }
    for model, (first, last) in nights.items():
        told = {"report_digest": model, "use_case": use_case.name, "model_sha256": model, "holdout_first": first, "holdout_last": last}
        chain.append(records_home, tables.GATE_REPORTS, told, {})
    assert judged(records_home, use_case, trained(STRONG))["judged_before"] == 2


@pytest.mark.usefixtures("scanned", "server")
def test_nights_that_were_scored_are_compared_with_silver_and_agree_or_the_candidate_is_not_clean(
    records_home: Settings, use_case: UseCase, trained: Callable[[Recipe], Path]
) -> None:
    def said(differences: dict[int, int]) -> str:
        for day, count in differences.items():
            night = {"day": date(2018, 8, day), "use_case": use_case.name, "rows": 100, "differences": count}
            records.replace(records_home, tables.PARITY, [night], {"day": [night["day"]]})
        verdicts = json.loads(judged(records_home, use_case, trained(STRONG))["verdicts"])
        return next(verdict["reasons"][-1] for verdict in verdicts if verdict["gate"] == "clean")

    assert said({5: 9}) == "parity: nobody has scored these nights"
    for day in (1, 2, 7):
        night = {"day": date(2018, 8, day), "use_case": use_case.name, "stage": "scores", "state": "done"}
        records.replace(records_home, tables.NIGHTS, [night], {"day": [night["day"]], "stage": ["scores"]})
    assert "of 3 held-out nights that were scored, 2 were compared with silver, and 1 differ" in said({1: 1, 2: 0})
    assert said({1: 0, 7: 0}) == "parity: 3 scored nights are what silver gives"


@pytest.mark.usefixtures("scanned", "server")
def test_who_let_rows_of_its_nights_out_of_quarantine_is_told_and_nobody_else(
    records_home: Settings, use_case: UseCase, trained: Callable[[Recipe], Path]
) -> None:
    """It learns from 1 June on, and 1 to 7 August judge it."""
    released = {
        "before": ("2018-05-01", "2018-05-31"),
        "at first": ("2018-05-01", "2018-06-01"),
        "amidst": ("2018-07-01", "2018-07-01"),
        "at last": ("2018-08-07", "2018-08-09"),
        "after": ("2018-08-08", "2018-08-09"),
    }
    for by, (first, last) in released.items():
        detail = {"first_night": first, "last_night": last}
        acts.record(records_home, use_case, acts.RELEASE, act_id=by, by=by, why="a false alarm", detail=detail)
    other = dataclasses.replace(use_case, name="other")
    detail = {"first_night": "2018-07-01", "last_night": "2018-07-01"}
    acts.record(records_home, other, acts.RELEASE, act_id="other", by="of another use case", why="it is", detail=detail)
    acts.record(records_home, use_case, acts.FREEZE, act_id="freeze", by="who did something else", why="it is", detail=detail)
    _, bound = report.read(judged(records_home, use_case, trained(STRONG))["document"])
    assert bound["released_by"] == ["amidst", "at first", "at last"]


@pytest.mark.usefixtures("scanned", "server")
@pytest.mark.parametrize("error", [RegistryError("MLflow is down"), OSError("disk"), KeyError("model_version")])
def test_a_champion_that_cannot_be_had_is_a_refusal_that_is_kept(
    records_home: Settings,
    use_case: UseCase,
    trained: Callable[[Recipe], Path],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    first = judged(records_home, use_case, trained(WEAK))
    crown(records_home, use_case, trained(WEAK), "1", first["report_digest"])

    def fail(*told: Any) -> Path:
        raise error

    monkeypatch.setattr(registry, "local_copy", fail)
    row = judged(records_home, use_case, trained(STRONG), IMPROVE, version="2")
    assert (row["passed"], row["outcome"]) == (False, "refused")
    red = [verdict["gate"] for verdict in json.loads(row["verdicts"]) if not verdict["passed"]]
    assert red == ["not_itself", "better", "card_precision", "calibration"]
    assert str(error.args[0]) in row["verdicts"]


@pytest.mark.usefixtures("scanned", "server")
def test_a_history_that_contradicts_itself_and_a_model_that_cannot_be_read_are_refusals_too(
    records_home: Settings, use_case: UseCase, trained: Callable[[Recipe], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(trained(STRONG), broken)
    models.file(broken / MODEL_FOLDER).write_bytes(b"no model")
    row = judged(records_home, use_case, broken)
    assert [(verdict["gate"], verdict["passed"]) for verdict in json.loads(row["verdicts"])] == [("judge", False)]
    assert "could not be judged (TrainingFailedError" in row["verdicts"]

    monkeypatch.setattr(history, "reign_on", lambda *told: (_ for _ in ()).throw(RegistryError("versions 1, 2 reign")))
    assert "versions 1, 2 reign" in judged(records_home, use_case, trained(STRONG))["verdicts"]


@pytest.mark.usefixtures("scanned", "server")
def test_what_was_really_trained_on_counts_and_not_what_the_run_says(
    records_home: Settings, use_case: UseCase, trained: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    """Planted: a row of a held-out night lies among the training rows, and run.json knows nothing of it."""
    leaky = tmp_path / "leaky"
    shutil.copytree(trained(STRONG), leaky)
    [part] = (leaky / HOLDOUT_ROWS).glob("*.parquet")
    parquet.write_table(parquet.read_table(part).slice(0, 1).drop(["terminal_id"]), leaky / "data" / "train" / "part-00001.parquet")
    row = judged(records_home, use_case, leaky)
    assert [verdict["gate"] for verdict in json.loads(row["verdicts"]) if not verdict["passed"]] == ["disjoint"]
    assert TrainingRun.load(leaky).train_last < date(2018, 8, 1) - timedelta(days=7)
