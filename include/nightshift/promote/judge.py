"""Judge: a training run's candidate and the champion on the run's held-out rows; the report goes to `ops.gate_reports`.

Rows, verdicts and frauds come from the run folder, as they were pinned; nothing newer can slip in.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift import durable, nights
from include.nightshift.errors import NotMaturedError
from include.nightshift.features.leaks import record as leaks
from include.nightshift.lakehouse import chain, records, tables
from include.nightshift.promote import acts, approval, curves, evidence, gates, history, page, registry
from include.nightshift.promote import report as reports
from include.nightshift.promote.curves import Curves
from include.nightshift.promote.evidence import Evidence, HeldOut, Provenance
from include.nightshift.promote.verdict import Verdict
from include.nightshift.score import baseline
from include.nightshift.settings import ROOT
from include.nightshift.train import models, probe
from include.nightshift.train.run import MODEL_FOLDER, TRAIN_ROWS, TrainingRun
from include.nightshift.train.run import judged as held_rows

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.nightshift.lakehouse.records import Record
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


log = logging.getLogger(__name__)

ARTIFACTS = "gate"
"""The folder of a run's reports in MLflow, each in one named by its digest."""


@dataclass(frozen=True)
class Judged:
    """A report and what it is bound to."""

    report: gates.Report
    digest: str
    model_version: str
    champion_version: str | None
    authors: frozenset[str] | None
    """Who wrote of the use case since the champion's code; None where nobody can tell."""
    released_by: frozenset[str]
    """Who let rows out of quarantine that the model was trained on."""


def judge(settings: Settings, use_case: UseCase, folder: Path, run: TrainingRun, *, model_version: str, model_sha256: str) -> Judged:
    """Judge the run's model and keep the report. Whatever cannot be read or computed is a rejection with that reason."""
    met: list[gates.Scored] = []
    drawn: Curves | None = None
    found: Evidence | None = None
    baseline_sha256 = None
    try:
        baseline_sha256 = models.sha256(baseline.fit(folder, run, use_case))
        reign = _reign(settings, use_case, run)
        found = _evidence(settings, use_case, folder, run, model_sha256, reign)
        model = folder / MODEL_FOLDER
        candidate = gates.Scored(model_version, models.sha256(model), _scores(model, use_case, model_version, folder, run))

        def champion() -> gates.Scored | None:
            if reign is None:
                return None
            version = reign["model_version"]
            copy = registry.local_copy(settings, use_case, version)
            met.append(gates.Scored(version, models.sha256(copy), _scores(copy, use_case, version, folder, run)))
            return met[-1]

        report = gates.judge(candidate, champion, found, use_case.gate)
        drawn = _drawn(found, candidate, met)
    except Exception as error:  # noqa: BLE001 - fail closed: what cannot be judged is rejected, and the report says why
        report = gates.Report((Verdict("judge", False, (f"could not be judged ({type(error).__name__}: {error})",)),))
    authors, released_by = _authors(settings, use_case, run, met), _released_by(settings, use_case, run)
    champion_version, champion_sha256 = (met[0].model_version, met[0].model_sha256) if met else (None, None)
    bound = {
        "use_case": use_case.name,
        "run_id": run.run_id,
        "question": run.question.told(),
        "recipe": run.recipe.told(),
        "model_version": model_version,
        "model_sha256": model_sha256,
        "champion_version": champion_version,
        "champion_sha256": champion_sha256,
        "baseline_sha256": baseline_sha256,
        "as_of": run.as_of,
        "holdout_first": run.holdout_first,
        "holdout_last": run.holdout_last,
        "versions": dict(run.versions),
        "data_digest": run.data_digest,
        "code": run.git_commit,
        "authors": None if authors is None else sorted(authors),
        "released_by": sorted(released_by),
        "judged_before": found.judged_before if found else None,
        "level": found.level if found else None,
        "policy": use_case.gate,
    }
    text = reports.document(report, **bound)
    digest = reports.digest(text)
    record: Record = {
        **{name: bound[name] for name in ("use_case", "run_id", "model_version", "model_sha256", "champion_version", "champion_sha256")},
        **{name: bound[name] for name in ("baseline_sha256", "as_of", "holdout_first", "holdout_last", "code", "judged_before", "level")},
        "report_digest": digest,
        "question": str(run.question.kind),
        "recipe": run.recipe.name,
        "versions": json.dumps(dict(run.versions), sort_keys=True),
        "verdicts": json.dumps(report.as_dict()["verdicts"]),
        "figures": json.dumps(report.figures, sort_keys=True),
        "passed": report.passed,
        "outcome": report.outcome,
        "document": text,
        "judged_at": datetime.now(UTC),
    }
    chain.append(settings, tables.GATE_REPORTS, record, unless={"report_digest": digest})
    _publish(settings, use_case, model_version, digest, report, text, page.render(use_case, text, drawn))
    return Judged(report, digest, model_version, champion_version, authors, released_by)


def _authors(settings: Settings, use_case: UseCase, run: TrainingRun, met: list[gates.Scored]) -> frozenset[str] | None:
    """Who wrote of the use case since the code that the champion's report names, or ever where there is no champion."""
    reports_ = records.read(settings, tables.GATE_REPORTS, use_case=use_case.name, model_sha256=met[0].model_sha256) if met else []
    return approval.authors(ROOT, use_case, max((report["code"] for report in reports_ if report["passed"]), default=None), run.git_commit)


def _released_by(settings: Settings, use_case: UseCase, run: TrainingRun) -> frozenset[str]:
    """Who let rows of the training nights, or of the held-out ones, out of quarantine."""
    last = run.holdout_last or run.train_last
    released = [
        (act["by"], json.loads(act["detail"])) for act in records.read(settings, tables.ACTS, use_case=use_case.name, act=acts.RELEASE)
    ]
    return frozenset(by for by, of in released if of["first_night"] <= str(last) and of["last_night"] >= str(run.train_first))


def held_out(use_case: UseCase, folder: Path, run: TrainingRun) -> tuple[HeldOut, pa.Table]:
    """What a run held out, as gates look at it, and its rows in the order of their key.

    Raises:
        NotMaturedError: it holds nothing out.
    """
    from pyarrow import parquet

    if run.holdout_first is None or run.holdout_last is None:
        raise NotMaturedError(f"run {run.run_id} holds nothing out, so nothing can judge it: pin a run with held-out nights")
    held = parquet.read_table(folder / "data" / "holdout").sort_by(run.key)
    frauds = parquet.read_table(folder / "data" / "frauds")
    found = HeldOut(
        nights=(run.holdout_last - run.holdout_first).days + 1,
        day=_days(held),
        entity=held.column(run.entity).to_numpy(),
        target=held.column(run.target).to_numpy(),
        clusters=tuple(held.column(name).to_numpy() for name in use_case.clusters),
        known_fraud_day=_days(frauds),
        known_fraud_entity=frauds.column(run.entity).to_numpy(),
        first_test_day=run.holdout_first,
        label_delay_days=use_case.label_delay_days,
        list_size=use_case.list_size,
    )
    return found, held


def _reign(settings: Settings, use_case: UseCase, run: TrainingRun) -> Record | None:
    """Who would reign over the first night that the candidate would take over."""
    return history.reign_on(settings, use_case, history.first_free_night(settings, use_case, run.as_of))


def _evidence(settings: Settings, use_case: UseCase, folder: Path, run: TrainingRun, model_sha256: str, reign: Record | None) -> Evidence:
    held, _ = held_out(use_case, folder, run)
    before = _judged_before(settings, use_case, held, model_sha256)
    return Evidence(
        held=held,
        question=run.question,
        provenance=_provenance(settings, use_case, folder, run, held, reign),
        judged_before=before,
        level=evidence.level(use_case.gate.error, before),
    )


def _judged_before(settings: Settings, use_case: UseCase, held: HeldOut, model_sha256: str) -> int:
    """Other models that were judged on nights that overlap with these; one that is judged again is no other."""
    others = {
        report["model_sha256"] or report["model_version"]
        for report in records.read(settings, tables.GATE_REPORTS, use_case=use_case.name)
        # A report without them is of a run that held nothing out.
        if report["holdout_first"] and report["holdout_first"] <= held.last_test_day and report["holdout_last"] >= held.first_test_day
    }
    return len(others - {model_sha256})


def _provenance(settings: Settings, use_case: UseCase, folder: Path, run: TrainingRun, held: HeldOut, reign: Record | None) -> Provenance:
    first, last = _nights_of(folder / TRAIN_ROWS)
    return Provenance(
        contract=tuple(use_case.feature_names),
        trained_on=run.features,
        reads=models.load(folder / MODEL_FOLDER).features,
        repeats=probe.distance(folder / MODEL_FOLDER),
        rows_first=first,
        rows_last=last,
        champion_rows_last=_champion_rows_last(settings, use_case, folder, reign),
        leak_scan=leaks.of_the_code_as_it_is(settings, use_case),
        parity=_parity(settings, use_case, held),
    )


def _nights_of(rows: Path) -> tuple[date, date]:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    ends = pc.min_max(ds.dataset(rows, format="parquet").to_table(columns=["day"]).column("day")).as_py()
    return ends["min"], ends["max"]


def _champion_rows_last(settings: Settings, use_case: UseCase, folder: Path, reign: Record | None) -> date | None:
    """The champion's last training night, as its run says; None where nobody reigns or the run's folder was pruned."""
    if reign is None:
        return None
    found = records.read(settings, tables.GATE_REPORTS, report_digest=reign["report_digest"])
    place = folder.parent / found[0]["run_id"] if found else None
    return TrainingRun.load(place).train_last if place and place.is_dir() else None


def _parity(settings: Settings, use_case: UseCase, held: HeldOut) -> tuple[int, int, int]:
    """Of the held-out nights: how many were scored, compared with silver, and found to differ."""
    days = list(nights.between(held.first_test_day, held.last_test_day))
    scored = {row["day"] for row in records.read(settings, tables.NIGHTS, day=days, use_case=use_case.name, stage="scores")}
    compared = [row for row in records.read(settings, tables.PARITY, day=days, use_case=use_case.name) if row["day"] in scored]
    return len(scored), len(compared), sum(row["differences"] > 0 for row in compared)


def _days(table: pa.Table) -> np.ndarray:
    days: np.ndarray = table.column("day").to_numpy().astype("datetime64[D]")
    return days


def _scores(model: Path, use_case: UseCase, version: str, folder: Path, run: TrainingRun) -> np.ndarray:
    """Scores of the run's held-out rows in the order of their key, by a model that may be another run's."""
    read = models.load(model)
    registry.features_read(use_case, version, read)
    judged = held_rows(folder, run, read.context)
    return read.score(judged.rows, judged.asked)


def _drawn(found: Evidence, candidate: gates.Scored, met: list[gates.Scored]) -> Curves | None:
    """The drawings, where the scores are such that there is something to draw; a verdict says what is wrong with others."""
    try:
        return curves.curves(found, candidate, met[0] if met else None)
    except (ValueError, IndexError) as error:
        log.warning("nothing is drawn: %s", error)
        return None


def _publish(settings: Settings, use_case: UseCase, version: str, digest: str, report: gates.Report, text: str, shown: str) -> None:
    """The verdict beside the model in MLflow, for who looks there first, and its page, which the installation keeps too."""
    place = reports.place(settings, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    with durable.placed(place) as temporary:
        temporary.write_text(shown, encoding="utf-8")
    mlflow = registry.client(settings)
    tags: dict[str, Any] = {
        "nightshift.gate": report.outcome,
        "nightshift.gate_reasons": "; ".join(report.reasons)[:4000],
        "nightshift.report_digest": digest,
    }
    for name, value in tags.items():
        mlflow.set_model_version_tag(use_case.name, version, name, value)
    run_id = mlflow.get_model_version(use_case.name, version).run_id
    for name, content in (("report.json", text), ("report.html", shown), ("model-card.md", page.card(use_case, text))):
        mlflow.log_text(run_id, content, f"{ARTIFACTS}/{digest[:12]}/{name}")
