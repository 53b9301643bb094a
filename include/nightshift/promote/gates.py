"""Gates: what a candidate must show on rows it has never seen before it may be put forward.

Each gate is a small function of (candidate, champion, evidence, policy) that returns a `Verdict`. All of them run and none hides another.
They fail closed: a gate that raises, and a champion that cannot be looked up, are rejections with that reason; only a look-up that answers
"nobody reigns" lets a first model be judged by floors. What another gate finds wrong is no reason for this one to be lenient.

Both models are measured on the same rows by the same function; a champion's remembered figure is never compared with.

To add a gate, write such a function and name it in `ALONE` or `AGAINST_CHAMPION`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from include.nightshift.promote import compare
from include.nightshift.promote.evidence import Evidence, Scored
from include.nightshift.promote.question import Kind
from include.nightshift.promote.verdict import Verdict
from include.nightshift.usecase import GatePolicy

WAIT = "wait"


@dataclass(frozen=True)
class Report:
    """What all gates decided about one candidate."""

    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate passed; a report without verdicts has not."""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)

    @property
    def outcome(self) -> str:
        """`passed`, `refused`, or `wait` where all that is wrong is that too little has matured."""
        if self.passed:
            return "passed"
        against = [verdict for verdict in self.verdicts if not verdict.passed]
        return WAIT if against and all(verdict.waits for verdict in against) else "refused"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was not passed, or, when it was, what each gate saw."""
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
        told = {"passed": self.passed, "outcome": self.outcome, "figures": self.figures}
        return told | {"verdicts": [verdict.as_dict() for verdict in self.verdicts]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Report:
        """Read a report back. `passed`, `outcome` and `figures` are worked out anew from the verdicts, never believed."""
        return cls(tuple(Verdict(**verdict) for verdict in plain["verdicts"]))


Gate: TypeAlias = Callable[[Scored, Scored | None, Evidence, GatePolicy], Verdict]


# Gates that look at the candidate and the rows only


def enough_evidence(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """Every held-out night is there, none besides, and the rows that count hold enough positives; too few of them is no fault: wait."""
    import numpy as np

    frauds = sum(int((fold.target == 1).sum()) for fold in evidence.held.folds)
    rows = sum(len(fold.rows) for fold in evidence.held.folds)
    owed = {evidence.held.first_test_day + timedelta(days=offset) for offset in range(evidence.held.nights)}
    present = set(np.unique(evidence.held.day.astype("datetime64[D]")).tolist())
    faults, waits = [], []
    if missing := sorted(owed - present):
        waits.append(f"held-out nights without rows: {', '.join(map(str, missing))}; wait until they are built and matured")
    if extra := sorted(present - owed):
        faults.append(f"rows of nights that are not held out: {', '.join(map(str, extra))}; {evidence.held.nights} are, pin the run again")
    if frauds < policy.min_frauds:
        waits.append(f"{frauds} positive held-out rows, {policy.min_frauds} are needed; wait for more matured nights or hold out more")
    if evidence.question.changed_on and evidence.held.first_test_day < evidence.question.changed_on:
        waits.append(
            f"the held-out nights begin with {evidence.held.first_test_day} and the world changed on {evidence.question.changed_on}: "
            f"wait until {evidence.held.nights} nights since have matured"
        )
    seen = f"{frauds} positives among {rows} rows of {len(present)} nights"
    figures = {"rows": rows, "frauds": frauds, "nights": len(present)}
    return Verdict("enough_evidence", not (faults or waits), (*faults, *waits) or (seen,), figures, waits=bool(waits) and not faults)


def sound_scores(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The candidate gives every row a probability, and not the same one to all."""
    import numpy as np

    scores = np.asarray(candidate.scores, dtype=np.float64)
    finite = np.isfinite(scores)
    faults = []
    if scores.shape != evidence.held.day.shape:
        faults.append(f"scores of shape {scores.shape} for rows of shape {evidence.held.day.shape}; score exactly the pinned rows")
    if not finite.all():
        faults.append(f"{(~finite).sum()} scores are no finite numbers; look at the features of those rows")
    if ((scores[finite] < 0) | (scores[finite] > 1)).any():
        faults.append(f"scores span {scores[finite].min():g}..{scores[finite].max():g}, outside 0..1; the model must give probabilities")
    if finite.any() and np.ptp(scores[finite]) == 0:
        faults.append(f"every row scores {scores[finite][0]:g}; such a model ranks nothing")
    figures = {"lowest_score": scores[finite].min(), "highest_score": scores[finite].max()} if finite.any() else {}
    return Verdict("sound_scores", not faults, tuple(faults) or (f"{len(scores)} finite probabilities",), figures)


def signature(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The model reads what it was trained on, in that order, and all of it is still built; on the training's probe rows it gives the
    scores that it gave when it was made."""
    found = evidence.provenance
    faults = []
    if found.reads != found.trained_on:
        apart = next((place for place, pair in enumerate(zip(found.reads, found.trained_on, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(found.reads), len(found.trained_on)) if apart is None else apart
        faults.append(
            f"the model reads {len(found.reads)} features and was trained on {len(found.trained_on)}; from place {at} on they are others: "
            "its features.json is not the training's, train again"
        )
    if gone := [name for name in found.reads if name not in found.contract]:
        faults.append(f"it reads {', '.join(gone)}, which the features no longer have: they would be null in every row")
    if found.repeats is None:
        faults.append("there are no probe rows to see whether it still scores as it did when it was made: train again")
    elif not found.repeats <= 1e-6:
        faults.append(
            f"on the training's probe rows it is {found.repeats:g} off the scores it gave then: it reads other columns, or by other code"
        )
    seen = f"{len(found.reads)} features in the order of the training, and the same scores as then"
    return Verdict("signature", not faults, tuple(faults) or (seen,))


def disjoint(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """What it was trained on was known before the first held-out night began: its last row's verdict had been told."""
    found, first, delay = evidence.provenance, evidence.held.first_test_day, evidence.held.label_delay_days
    owed = first - timedelta(days=delay + 1)
    faults = []
    if found.rows_last > owed:
        faults.append(
            f"its training rows reach night {found.rows_last}; the held-out nights begin with {first}, and verdicts take {delay} nights, "
            f"so {owed} is the last it may have seen: pin the run again"
        )
    seen = f"training rows of nights {found.rows_first}..{found.rows_last}, held-out nights from {first} on"
    if found.champion_rows_last and found.champion_rows_last > owed:
        # It makes the champion look better than it is, never the candidate.
        seen += f"; the champion has seen nights until {found.champion_rows_last}, which flatters it"
    return Verdict("disjoint", not faults, tuple(faults) or (seen,))


def clean(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The features' code was scanned for leaks as it is, and what was scored on the held-out nights was what silver gives."""
    faults: list[str] = []
    seen: list[str] = []
    if evidence.provenance.leak_scan is None:
        faults.append("nobody scanned the features' code as it is for leaks: clear the task scan of this training, then gate")
    else:
        passed, what = evidence.provenance.leak_scan
        (seen if passed else faults).append(f"leak scan: {what}")
    scored, compared, differ = evidence.provenance.parity
    if differ or compared < scored:
        faults.append(
            f"parity: of {scored} held-out nights that were scored, {compared} were compared with silver, and {differ} differ from it: "
            "build and score those nights again"
        )
    seen.append(f"parity: {compared} scored nights are what silver gives" if scored else "parity: nobody has scored these nights")
    return Verdict("clean", not faults, tuple(faults) or tuple(seen))


ALONE: tuple[Gate, ...] = (enough_evidence, sound_scores, signature, disjoint, clean)
"""Gates that look at the candidate and the rows only."""


# Gates that cannot be judged when it is not known who reigns


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
    """The question's answer in average precision: a lower bound of candidate less champion, on the same rows, above what is asked.

    Improve: above `min_gain`. Refresh: above `-margin`. Recover: above 0. With nobody to beat, `floor_average_precision`.
    """
    own = evidence.held.measure(candidate.scores)
    figures = {f"candidate_{metric}": figure for metric, figure in asdict(own).items()}
    kind = evidence.question.kind
    if (champion is None) != (kind is Kind.FIRST):
        reigns = "nobody reigns" if champion is None else f"version {champion.model_version} reigns"
        asked = f"the question was {kind}, and {reigns}: what was asked before the training is not what there is to answer; ask again"
        return Verdict("better", False, (asked,), figures)
    if champion is None:
        passed = own.average_precision >= policy.floor_average_precision
        reason = f"nobody reigns; average precision {own.average_precision:.4f} against the floor {policy.floor_average_precision:g}"
        return Verdict("better", passed, (reason,), figures)
    theirs = evidence.held.measure(champion.scores)
    figures |= {f"champion_{metric}": figure for metric, figure in asdict(theirs).items()}
    asked_for = {Kind.IMPROVE: policy.min_gain, Kind.REFRESH: -policy.margin, Kind.RECOVER: 0.0}[kind]
    apart = compare.average_precision(evidence.held.folds, candidate.scores, champion.scores)
    low = apart.low(evidence.level)
    figures |= _bounds("average_precision", apart, evidence.level)
    reason = (
        f"{kind}: average precision {apart.candidate:.4f} against {apart.champion:.4f} of champion {champion.model_version}: "
        f"gain {apart.estimate:+.4f}, at least {low:+.4f} but for a chance of {evidence.level:.2g}; more than {asked_for:+g} is asked. "
        f"Nine in ten that are better by {asked_for + apart.needed(evidence.level):.3f} would show it on these rows"
    )
    return Verdict("better", low > asked_for, (reason, _spent(evidence, policy)), figures)


def card_precision(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The morning's list is not worse: the lower bound of the change in card precision is above `-card_precision_margin`."""
    if champion is None:
        own = evidence.held.measure(candidate.scores).card_precision
        return Verdict("card_precision", True, (f"nobody reigns; card precision {own:.4f}",))
    apart = compare.card_precision(evidence.held.folds, candidate.scores, champion.scores, evidence.held.list_size)
    low = apart.low(policy.error)
    reason = (
        f"card precision {apart.candidate:.4f} against {apart.champion:.4f} of champion {champion.model_version}: change "
        f"{apart.estimate:+.4f}, at least {low:+.4f} but for a chance of {policy.error:g}; {-policy.card_precision_margin:g} is allowed"
    )
    figures = _bounds("card_precision", apart, policy.error)
    return Verdict("card_precision", low >= -policy.card_precision_margin, (reason,), figures)


def calibration(candidate: Scored, champion: Scored | None, evidence: Evidence, policy: GatePolicy) -> Verdict:
    """Its probabilities can be believed as much as the champion's: expected calibration error and Brier score are not worse."""
    import numpy as np

    def off(scores: np.ndarray) -> float:
        return compare.calibration_error(
            np.concatenate([fold.target for fold in evidence.held.folds]),
            np.concatenate([scores[fold.rows] for fold in evidence.held.folds]),
        )

    own = off(candidate.scores)
    if champion is None:
        reason = f"nobody reigns; {own:.1%} of the positives are promised where they are not, {policy.floor_calibration:.0%} may be"
        return Verdict("calibration", own <= policy.floor_calibration, (reason,), {"candidate_calibration_error": own})
    theirs, apart = off(champion.scores), compare.brier(evidence.held.folds, candidate.scores, champion.scores)
    high, allowed = apart.high(policy.error), policy.calibration_margin * apart.champion
    reasons = (
        f"{own:.1%} of the positives are promised where they are not, {theirs:.1%} by champion {champion.model_version}; "
        f"{policy.calibration_margin:.0%} more may be",
        f"Brier score {apart.candidate:.6f} against {apart.champion:.6f}, worse by {high:+.6f} at most but for a chance of "
        f"{policy.error:g}; {allowed:.6f} is allowed",
    )
    figures = {"candidate_calibration_error": own, "champion_calibration_error": theirs} | _bounds("brier", apart, policy.error)
    return Verdict("calibration", own <= theirs + policy.calibration_margin and high <= allowed, reasons, figures)


AGAINST_CHAMPION: tuple[Gate, ...] = (not_itself, better, card_precision, calibration)
"""Gates that cannot be judged when it is not known who reigns."""


def _bounds(measure: str, apart: compare.Difference, level: float) -> dict[str, float]:
    estimates = {f"{measure}_change": apart.estimate, f"{measure}_error": apart.error}
    return estimates | {f"{measure}_low": apart.low(level), f"{measure}_high": apart.high(level)}


def _spent(evidence: Evidence, policy: GatePolicy) -> str:
    others = f"{evidence.judged_before} other candidates were" if evidence.judged_before != 1 else "one other candidate was"
    return (
        f"{others} judged on nights that overlap with these: of the error level {policy.error:g}, {evidence.level:.2g} is left for this one"
    )


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
        evidence: the held-out rows, the question, and where the candidate comes from.
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
