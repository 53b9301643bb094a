"""Courts: an installation without any server in which models of a few bytes are judged, answered for and set to reign.

Shared by the bench `reign` and the tests of promotion. Tables are real; the model server is a file that holds one alias.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from deltalake import DeltaTable, write_deltalake

from include.nightshift.lakehouse import chain, records, storage, tables
from include.nightshift.promote import registry, succession
from include.nightshift.promote import report as reports
from include.nightshift.promote.gates import Report
from include.nightshift.promote.verdict import Verdict
from include.nightshift.settings import Settings
from include.nightshift.train import models
from include.nightshift.train.linear import Term
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.usecase import USE_CASE

START = date(2010, 1, 10)
DAY = timedelta(days=1)


class Aliases:
    """Stands for the model server: the alias in a file, moved whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def champion(self) -> str | None:
        return self.path.read_text() if self.path.exists() else None

    @property
    def aliases(self) -> dict[str, str | None]:
        return {registry.ALIAS: self.champion}

    def get_registered_model(self, name: str) -> Aliases:
        return self

    def get_model_version(self, name: str, version: str) -> None:
        raise OSError("the model server does not answer")

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        moved = self.path.with_suffix(".moved")
        moved.write_text(version)
        moved.rename(self.path)


@dataclass(frozen=True)
class Court:
    """One home and one use case."""

    home: Path
    use_case: UseCase = USE_CASE
    lakehouse: str | None = None
    settings: Settings = field(init=False)
    alias: Aliases = field(init=False)

    def __post_init__(self) -> None:
        # Nobody listens there: what the file does not stand for must do without.
        object.__setattr__(self, "settings", Settings(home=self.home, lakehouse=self.lakehouse, mlflow_uri="http://127.0.0.1:1"))
        object.__setattr__(self, "alias", Aliases(self.home / "alias"))

    def open(self) -> Court:
        """Create the tables."""
        for table in (*tables.SHARED, tables.alerts(self.use_case)):
            DeltaTable.create(storage.location(self.settings, table), table.arrow([]).schema, partition_by=list(table.partition))
        return self

    def presides(self) -> None:
        """Have this process take the file for the model server."""
        registry.client = lambda settings: self.alias

    def model(self, version: str) -> Path:
        """A model and its baseline, where the registry lays its local copies; what lies there already stays."""
        folder = self.settings.home / "models" / self.use_case.name / version
        if folder.exists():
            return folder
        (folder / "baseline").mkdir(parents=True, exist_ok=True)
        (folder / "model.ubj").write_bytes(f"model {version}".encode())
        (folder / "features.json").write_text(json.dumps({"kind": "trees", "features": self.use_case.feature_names}))
        (folder / "baseline" / "model.json").write_text(json.dumps(f"baseline {version}"))
        (folder / "baseline" / "features.json").write_text(json.dumps({"kind": "linear", "features": self.use_case.feature_names}))
        return folder

    def booster(self, version: str) -> Path:
        """A model that scores, over random rows, and a linear baseline, in the same place."""
        import numpy as np
        import xgboost as xgb

        folder = self.settings.home / "models" / self.use_case.name / version
        if folder.exists():
            return folder
        dice, names = np.random.default_rng(int(version)), self.use_case.feature_names
        matrix = dice.random((300, len(names))) * 10
        data = xgb.DMatrix(matrix, (matrix[:, 0] + matrix[:, 3] > 10).astype(float), feature_names=names)
        (folder / "baseline").mkdir(parents=True)
        xgb.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 8).save_model(folder / "model.ubj")
        (folder / "features.json").write_text(json.dumps({"features": names}))
        terms = [asdict(Term(name, 1.0, 10.0, 1.0, weight=0.1 * place)) for place, name in enumerate(names)]
        (folder / "baseline" / "model.json").write_text(json.dumps({"intercept": -2.0, "terms": terms}))
        (folder / "baseline" / "features.json").write_text(json.dumps({"kind": "linear", "features": names}))
        return folder

    def judged(self, version: str, champion: str | None = None, as_of: date = START - DAY, **other: Any) -> str:
        """Make a model and its report; returns the digest. `other`: columns that say something else than a sound report would."""
        folder = self.model(version)
        champions = self.settings.home / "models" / self.use_case.name / champion if champion else None
        said = {
            "use_case": self.use_case.name,
            "run_id": f"run-{version}",
            "model_version": version,
            "model_sha256": models.sha256(folder),
            "champion_version": champion,
            "champion_sha256": models.sha256(champions) if champions else None,
            "baseline_sha256": models.sha256(folder / "baseline") if (folder / "baseline").exists() else None,
            "as_of": as_of,
        }
        bound = said | {name: value for name, value in other.items() if name in said}
        passed = bool(other.get("passed", True))
        text = reports.document(Report((Verdict("better", passed, ("as the court wants it",)),)), **bound)
        report = bound | {"report_digest": reports.digest(text), "document": text, "passed": passed, "figures": "{}"}
        report |= {"judged_at": datetime.now(UTC)} | other
        chain.append(self.settings, tables.GATE_REPORTS, report, {"report_digest": report["report_digest"]})
        return str(report["report_digest"])

    def answered(self, digest: str, answer: str = "Approve", by: str = "ann", valid: timedelta = timedelta(hours=1), **other: Any) -> None:
        """Answer for a report."""
        now = datetime.now(UTC)
        said = {"report_digest": digest, "use_case": self.use_case.name, "answer": answer, "by": by, "at": now, "expires_at": now + valid}
        chain.append(self.settings, tables.APPROVALS, said | other, {})

    def approved(self, version: str, champion: str | None = None, as_of: date = START - DAY) -> str:
        """A model with a report that passed and an answer that approves; returns the digest."""
        digest = self.judged(version, champion, as_of)
        self.answered(digest)
        return digest

    def enthroned(self, version: str, night: date) -> None:
        """Let an approved version reign from a night on, whatever lists are out."""
        digest = self.approved(version)
        new = {"use_case": self.use_case.name, "model_version": version, "from_night": night, "report_digest": digest, "act": "promote"}
        new |= {"model_sha256": models.sha256(self.model(version)), "at": datetime.now(UTC)}
        new |= dict.fromkeys(("until_night", "why", "by"))
        chain.amend(self.settings, tables.CHAMPION_HISTORY, lambda rows: succession.followed(rows, new))

    def dissolved(self) -> None:
        """Forget who reigned, and why, and what was done to them."""
        for table in (tables.CHAMPION_HISTORY, tables.APPROVALS, tables.GATE_REPORTS, tables.ACTS):
            records.amend(self.settings, table, lambda held: [])

    def published(self, night: date) -> None:
        """Let the night's list be out."""
        table = tables.alerts(self.use_case)
        listed = table.arrow([{"day": night, "rank": 1}])
        write_deltalake(storage.location(self.settings, table), listed, mode="append")
