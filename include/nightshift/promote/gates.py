"""Gates: what a challenger must show on rows it has never seen before it may be put forward.

Each gate is a small function of (candidate, champion, evidence, policy) that returns a `Verdict`. All of them run and
none hides another. They fail closed: a gate that raises, and a champion that cannot be looked up, are rejections with
that reason; only a look-up that answers "nobody reigns" lets a first model be judged by the floor.

Both models are measured on the same rows by the same function; a champion's remembered figure is never compared with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, timedelta
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

from include.nightshift.promote import metrics
from include.nightshift.promote.verdict import Verdict
from include.nightshift.usecase import GatePolicy

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Evidence:
    """The held-out rows of pinned tables, one entry per row, and what was known about their entities."""

    day: np.ndarray
    """datetime64[D]; the nights are those of `GatePolicy.holdout_nights`, from `first_test_day` on."""
    entity: np.ndarray
    target: np.ndarray
    known_fraud_day: np.ndarray
    """datetime64[D] of every positive row since `first_test_day - 2 * label_delay_days`."""
    known_fraud_entity: np.ndarray
    first_test_day: date
    label_delay_days: int
    list_size: int

    def measure(self, scores: np.ndarray) -> metrics.FoldMetrics:
        """What these scores reach on these rows, by the published protocol (`metrics.fold`)."""
        return metrics.fold(
            self.day,
            self.entity,
            self.target,
            scores,
            first_test_day=self.first_test_day,
            known_fraud_day=self.known_fraud_day,
            known_fraud_entity=self.known_fraud_entity,
            label_delay_days=self.label_delay_days,
            list_size=self.list_size,
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """A model and what it says about the evidence's rows, aligned with them."""

    model_version: str
    model_sha256: str
    scores: np.ndarray


@dataclass(frozen=True)
class Report:
    """What all gates decided about one candidate."""

    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate passed; a report without verdicts has not."""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was rejected, or, when it was not, what each gate saw."""
        spoken = [verdict for verdict in self.verdicts if verdict.passed == self.passed]
        return tuple(f"{verdict.gate}: {reason}" for verdict in spoken for reason in verdict.reasons)

    @property
    def figures(self) -> dict[str, float]:
        """The metrics of both models on the same rows: the fields of `FoldMetrics` after `candidate_` and `champion_`.

        Gathered from the gates' own figures, so nothing is shown that was not judged on. A model that could not be measured
        is not there; a verdict says why.
        """
        measured = {name: figure for verdict in self.verdicts for name, figure in verdict.figures.items()}
        return {name: figure for name, figure in measured.items() if name.startswith(("candidate_", "champion_"))}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and XCom; `from_dict` reads them back."""
        return {"passed": self.passed, "figures": self.figures, "verdicts": [verdict.as_dict() for verdict in self.verdicts]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Report:
        """Read a report back. `passed` and `figures` are worked out anew from the verdicts, never believed."""
        return cls(tuple(Verdict(**verdict) for verdict in plain["verdicts"]))


Gate: TypeAlias = Callable[[Scored, Scored | None, Evidence, GatePolicy], Verdict]


def enough_evidence(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """Every held-out night is there, none besides, and the rows that count hold enough positives."""
    import numpy as np

    kept = metrics.undisclosed(
        evidence.day,
        evidence.entity,
        evidence.known_fraud_day,
        evidence.known_fraud_entity,
        evidence.first_test_day,
        evidence.label_delay_days,
    )
    frauds = int((evidence.target[kept] == 1).sum())
    owed = {evidence.first_test_day + timedelta(days=offset) for offset in range(policy.holdout_nights)}
    present = set(np.unique(evidence.day.astype("datetime64[D]")).tolist())
    faults = []
    if missing := sorted(owed - present):
        faults.append(f"held-out nights without rows: {', '.join(map(str, missing))}; wait until they are built and matured")
    if extra := sorted(present - owed):
        faults.append(f"rows of nights that are not held out: {', '.join(map(str, extra))}; the policy holds out {policy.holdout_nights}")
    if frauds < policy.min_frauds:
        faults.append(f"{frauds} positive held-out rows, {policy.min_frauds} are needed; wait for more matured nights or hold out more")
    seen = f"{frauds} positives among {int(kept.sum())} rows of {len(present)} nights"
    return Verdict(
        "enough_evidence", not faults, tuple(faults) or (seen,), {"rows": int(kept.sum()), "frauds": frauds, "nights": len(present)}
    )


def sound_scores(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The candidate gives every row a probability, and not the same one to all."""
    import numpy as np

    scores = np.asarray(candidate.scores, dtype=np.float64)
    finite = np.isfinite(scores)
    faults = []
    if scores.shape != evidence.day.shape:
        faults.append(f"scores of shape {scores.shape} for rows of shape {evidence.day.shape}; score exactly the pinned rows")
    if not finite.all():
        faults.append(f"{(~finite).sum()} scores are no finite numbers; look at the features of those rows")
    if ((scores[finite] < 0) | (scores[finite] > 1)).any():
        faults.append(f"scores span {scores[finite].min():g}..{scores[finite].max():g}, outside 0..1; the model must give probabilities")
    if finite.any() and np.ptp(scores[finite]) == 0:
        faults.append(f"every row scores {scores[finite][0]:g}; such a model ranks nothing")
    figures = {"lowest_score": scores[finite].min(), "highest_score": scores[finite].max()} if finite.any() else {}
    return Verdict("sound_scores", not faults, tuple(faults) or (f"{len(scores)} finite probabilities",), figures)


def not_itself(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The candidate is another model than the champion: a model compared with itself proves nothing."""
    if not candidate.model_sha256:
        return Verdict("not_itself", False, ("the candidate has no sha256; record it when the model is logged",))
    if champion is None:
        return Verdict("not_itself", True, ("nobody reigns that it could be",))
    faults = []
    if candidate.model_sha256 == champion.model_sha256:
        faults.append(f"candidate and champion are the same model file ({candidate.model_sha256[:12]})")
    if candidate.model_version == champion.model_version:
        faults.append(f"candidate and champion are both version {candidate.model_version}")
    seen = f"version {candidate.model_version} is another file than champion {champion.model_version}"
    return Verdict("not_itself", not faults, tuple(faults) or (seen,))


def better(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The candidate's average precision beats the champion's on the same rows by `min_gain`; a tie never promotes.

    With nobody to beat it must reach `floor_average_precision`.
    """
    own = evidence.measure(candidate.scores)
    figures = {f"candidate_{metric}": figure for metric, figure in asdict(own).items()}
    if champion is None:
        passed = own.average_precision >= policy.floor_average_precision
        reason = f"nobody reigns; average precision {own.average_precision:.4f} against the floor {policy.floor_average_precision:g}"
        return Verdict("better", passed, (reason,), figures)
    theirs = evidence.measure(champion.scores)
    gain = own.average_precision - theirs.average_precision
    reason = (
        f"average precision {own.average_precision:.4f} against {theirs.average_precision:.4f} of champion {champion.model_version}: "
        f"gain {gain:+.4f}, {policy.min_gain:g} is needed"
    )
    figures |= {f"champion_{metric}": figure for metric, figure in asdict(theirs).items()} | {"average_precision_gain": gain}
    return Verdict("better", gain > 0 and gain >= policy.min_gain, (reason,), figures)


def card_precision(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The morning's list loses at most `card_precision_margin` of its precision; passes when nobody reigns."""
    own = evidence.measure(candidate.scores).card_precision
    if champion is None:
        return Verdict("card_precision", True, (f"nobody reigns; card precision {own:.4f}",), {"candidate_card_precision": own})
    theirs = evidence.measure(champion.scores).card_precision
    reason = (
        f"card precision {own:.4f} against {theirs:.4f} of champion {champion.model_version}: "
        f"change {own - theirs:+.4f}, {-policy.card_precision_margin:g} is allowed"
    )
    figures = {"candidate_card_precision": own, "champion_card_precision": theirs, "card_precision_change": own - theirs}
    return Verdict("card_precision", own - theirs >= -policy.card_precision_margin, (reason,), figures)


ALONE: tuple[Gate, ...] = (enough_evidence, sound_scores)
"""Gates that look at the candidate and the rows only."""
AGAINST_CHAMPION: tuple[Gate, ...] = (not_itself, better, card_precision)
"""Gates that cannot be judged when it is not known who reigns."""


def judge(
    candidate: Scored,
    champion: Scored | Callable[[], Scored | None] | None,
    evidence: Evidence,
    policy: GatePolicy,
) -> Report:
    """Run every gate.

    Args:
        candidate: the challenger and its scores of the evidence's rows.
        champion: the reigning model, scored on the same rows; None when nobody reigns. Give a look-up rather than its result:
            when it raises, the candidate is rejected with that reason instead of meeting no opponent.
        evidence: the held-out rows.
        policy: what the use case asks for.

    Returns:
        A report with one verdict per gate. It never raises: whatever a gate or the look-up raises is a rejection.
    """
    try:
        reigning = champion() if callable(champion) else champion
    except Exception as error:  # noqa: BLE001 - whatever goes wrong must reject, and is told in every verdict it touches
        unknown = f"the champion could not be looked up ({type(error).__name__}: {error}); mend the registry and judge again"
        lost = tuple(Verdict(gate.__name__, False, (unknown,)) for gate in AGAINST_CHAMPION)
        return Report(tuple(_run(gate, candidate, None, evidence, policy) for gate in ALONE) + lost)
    return Report(tuple(_run(gate, candidate, reigning, evidence, policy) for gate in ALONE + AGAINST_CHAMPION))


def _run(gate: Gate, candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    try:
        return gate(candidate, champion, evidence, policy)
    except Exception as error:  # noqa: BLE001 - fail closed: an error while judging is a rejection with that reason
        return Verdict(gate.__name__, False, (f"could not be judged ({type(error).__name__}: {error})",))


def digest(report: Report, **bound: Any) -> str:
    """sha256 of the report and of everything that an approval of it must be bound to.

    Canonical JSON: keys sorted, dates as ISO text, dataclasses as objects, tuples as lists; so a digest survives a trip
    through JSON, and one changed figure, reason or bound value changes it.

    Args:
        report: what the gates said.
        bound: model sha256, table versions, policy, training night: plain values, dates, dataclasses, and mappings of these.

    Raises:
        TypeError: a bound value has no canonical form.
        ValueError: a bound value is NaN or infinite.
    """
    sealed = {"bound": bound, **report.as_dict()}
    text = json.dumps(sealed, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(
        f"a digest cannot bind {value!r} of type {type(value).__name__}: give text, numbers, dates, dataclasses or mappings of them"
    )
