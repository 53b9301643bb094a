"""Judge: a training run's candidate and the champion on the run's held-out rows; the report goes to `ops.gate_reports`.

Rows, verdicts and frauds come from the run folder, as they were pinned; nothing newer can slip in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import NotMaturedError
from include.nightshift.lakehouse import chain, tables
from include.nightshift.promote import gates, history, registry
from include.nightshift.promote.verdict import Verdict
from include.nightshift.train import models
from include.nightshift.train.run import judged as held_out

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.nightshift.settings import Settings
    from include.nightshift.train.run import TrainingRun
    from include.nightshift.usecase import UseCase


@dataclass(frozen=True)
class Judged:
    """A report and what it is bound to."""

    report: gates.Report
    digest: str
    model_version: str
    champion_version: str | None


def judge(settings: Settings, use_case: UseCase, folder: Path, run: TrainingRun, *, model_version: str, model_sha256: str) -> Judged:
    """Judge the run's model and keep the report. Whatever cannot be read or computed is a rejection with that reason."""
    met: list[str] = []
    try:
        judged_on, _ = evidence(use_case, folder, run)
        model = folder / "model"
        candidate = gates.Scored(model_version, models.sha256(model), _scores(model, use_case, model_version, folder, run))

        def champion() -> gates.Scored | None:
            # Who would reign over the first night that the candidate would take over.
            reign = history.reign_on(settings, use_case, history.first_free_night(settings, use_case, run.as_of))
            if reign is None:
                return None
            version = reign["model_version"]
            met.append(version)
            model = registry.local_copy(settings, use_case, version)
            return gates.Scored(version, models.sha256(model), _scores(model, use_case, version, folder, run))

        report = gates.judge(candidate, champion, judged_on, use_case.gate)
    except Exception as error:  # noqa: BLE001 - fail closed: what cannot be judged is rejected, and the report says why
        report = gates.Report((Verdict("judge", False, (f"could not be judged ({type(error).__name__}: {error})",)),))
    champion_version = met[0] if met else None
    digest = gates.digest(
        report,
        use_case=use_case.name,
        run_id=run.run_id,
        model_version=model_version,
        model_sha256=model_sha256,
        champion_version=champion_version,
        versions=dict(run.versions),
        data_digest=run.data_digest,
        policy=use_case.gate,
    )
    record = {
        "report_digest": digest,
        "use_case": use_case.name,
        "run_id": run.run_id,
        "model_version": model_version,
        "champion_version": champion_version,
        "as_of": run.as_of,
        "holdout_first": run.holdout_first,
        "holdout_last": run.holdout_last,
        "versions": json.dumps(dict(run.versions), sort_keys=True),
        "verdicts": json.dumps(report.as_dict()["verdicts"]),
        "figures": json.dumps(report.figures, sort_keys=True),
        "passed": report.passed,
        "judged_at": datetime.now(UTC),
    }
    chain.append(settings, tables.GATE_REPORTS, record, {"report_digest": digest})
    _tag(settings, use_case, model_version, digest, report)
    return Judged(report, digest, model_version, champion_version)


def evidence(use_case: UseCase, folder: Path, run: TrainingRun) -> tuple[gates.Evidence, pa.Table]:
    """What a run held out, as gates look at it, and its rows in the order of their key.

    Raises:
        NotMaturedError: it holds nothing out.
    """
    from pyarrow import parquet

    if run.holdout_first is None:
        raise NotMaturedError(f"run {run.run_id} holds nothing out, so nothing can judge it: pin a run with held-out nights")
    held = parquet.read_table(folder / "data" / "holdout").sort_by(run.key)
    frauds = parquet.read_table(folder / "data" / "frauds")
    found = gates.Evidence(
        day=_days(held),
        entity=held.column(run.entity).to_numpy(),
        target=held.column(run.target).to_numpy(),
        known_fraud_day=_days(frauds),
        known_fraud_entity=frauds.column(run.entity).to_numpy(),
        first_test_day=run.holdout_first,
        label_delay_days=use_case.label_delay_days,
        list_size=use_case.list_size,
    )
    return found, held


def _days(table: pa.Table) -> np.ndarray:
    days: np.ndarray = table.column("day").to_numpy().astype("datetime64[D]")
    return days


def _scores(model: Path, use_case: UseCase, version: str, folder: Path, run: TrainingRun) -> np.ndarray:
    """Scores of the run's held-out rows in the order of their key, by a model that may be another run's."""
    read = models.load(model)
    registry.features_read(use_case, version, read)
    judged = held_out(folder, run, read.context)
    return read.score(judged.rows, judged.asked)


def _tag(settings: Settings, use_case: UseCase, version: str, digest: str, report: gates.Report) -> None:
    """The verdict beside the model, for who looks there first."""
    mlflow = registry.client(settings)
    tags: dict[str, Any] = {
        "nightshift.gate": "passed" if report.passed else "rejected",
        "nightshift.gate_reasons": "; ".join(report.reasons)[:4000],
        "nightshift.report_digest": digest,
    }
    for name, value in tags.items():
        mlflow.set_model_version_tag(use_case.name, version, name, value)
