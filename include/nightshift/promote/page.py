"""The page of a report: what was asked, what each gate said, how the two models differ, and the candidate's model card.

All words and figures come from the report's text, whose digest is its name; the drawings were computed beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from include.nightshift.page import page, table
from include.nightshift.promote import report as reports

if TYPE_CHECKING:
    from include.nightshift.promote.curves import Curve, Curves, Point
    from include.nightshift.promote.verdict import Verdict
    from include.nightshift.usecase import UseCase

_ASKED = {
    "first": "nobody reigns: does it reach the floors?",
    "improve": "is it better than the champion by the least gain that counts?",
    "refresh": "is it not worse than the champion, which is to be replaced?",
    "recover": "is it better than the champion since the world has changed?",
}
_MEASURES = {
    "average_precision": "Average precision",
    "card_precision": "Card precision",
    "roc_auc": "ROC AUC",
    "calibration_error": "Calibration error, share of positives",
}
_CHIPS = {"passed": "", "refused": "failed", "wait": "warn"}
_WIDE, _HIGH, _EDGE = 360, 260, 34


def render(use_case: UseCase, text: str, drawn: Curves | None) -> str:
    """The page of a report's text.

    Args:
        use_case: whose candidate it is.
        text: the report's (`reports.document`).
        drawn: the drawings; None where they could not be made.
    """
    report, bound = reports.read(text)
    digest, outcome = reports.digest(text), report.outcome
    against = f"version {bound['champion_version']}" if bound["champion_version"] else "nobody"
    asked = _ASKED.get(bound["question"]["kind"], "")
    body = f"""<header>
<h1>{escape(use_case.title)}: version {escape(str(bound["model_version"]))} against {escape(against)}</h1>
<p class="soft">Asked to <b>{escape(bound["question"]["kind"])}</b>: {escape(asked)}
<span class="chip {_CHIPS[outcome]}">{escape(outcome)}</span></p>
</header>
<main>
<article>
<h4>What each gate said</h4>
{_gates(report.verdicts)}</article>
<article>
<h4>Figures on nights {escape(str(bound["holdout_first"]))} … {escape(str(bound["holdout_last"]))}, which the candidate has never seen</h4>
{_figures(report.verdicts)}{_drawings(drawn)}</article>
<article>
<h4>Model card</h4>
{_card(use_case, bound, report.outcome)}</article>
</main>
<footer>Report <code>{digest}</code>. An approval of this digest is an approval of exactly this model, these rows, this code, this policy
and these verdicts.</footer>
"""
    return page(f"{use_case.title}: version {bound['model_version']}", body)


def card(use_case: UseCase, text: str) -> str:
    """The candidate's model card as Markdown (after Mitchell et al., "Model cards for model reporting", FAT* 2019), for MLflow."""
    report, bound = reports.read(text)
    lines = [f"# {use_case.title}, version {bound['model_version']}", ""]
    lines += [f"**{name}.** {value}" + "\n" for name, value in _facts(use_case, bound, report.outcome).items()]
    lines += ["## What each gate said", ""]
    lines += [f"- {verdict.gate} ({_said(verdict)}): {'; '.join(verdict.reasons)}" for verdict in report.verdicts]
    return "\n".join(lines) + "\n"


def _said(verdict: Verdict) -> str:
    return "passed" if verdict.passed else "wait" if verdict.waits else "refused"


def _gates(verdicts: Sequence[Verdict]) -> str:
    rows = (
        (
            f"<code>{escape(verdict.gate)}</code>",
            f'<span class="chip {_CHIPS[_said(verdict)]}">{_said(verdict)}</span>',
            "<br>".join(map(escape, verdict.reasons)),
        )
        for verdict in verdicts
    )
    return table(("Gate", "Said", "Why"), rows, {"Why": "words"})


def _figures(verdicts: Sequence[Verdict]) -> str:
    seen: dict[str, float] = {}
    for verdict in verdicts:
        seen |= verdict.figures
    kinds = dict.fromkeys(("Candidate", "Champion", "Difference", "At least", "At most"), "number")
    rows = []
    for measure, name in _MEASURES.items():
        if f"candidate_{measure}" not in seen:
            continue
        models = [f"{seen[column]:.4f}" if (column := f"{role}_{measure}") in seen else "" for role in ("candidate", "champion")]
        apart = [f"{seen[column]:+.4f}" if (column := f"{measure}_{end}") in seen else "" for end in ("change", "low", "high")]
        rows.append((escape(name), *models, *apart))
    return table(("Measure", *kinds), rows, kinds) if rows else "<p>Nothing could be measured.</p>\n"


def _card(use_case: UseCase, bound: Mapping[str, Any], outcome: str) -> str:
    facts = _facts(use_case, bound, outcome).items()
    return "<dl>\n" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in facts) + "</dl>\n"


def _facts(use_case: UseCase, bound: Mapping[str, Any], outcome: str) -> dict[str, str]:
    recipe = {name: value for name, value in bound["recipe"].items() if name not in ("name", "kind", "search")}
    person, personal = use_case.entity.removesuffix("_id"), [name for feed in use_case.feeds for name in feed.personal]
    read = [name for name in use_case.feature_names if name in personal]
    set_to = ", ".join(f"{name} {value}" for name, value in recipe.items())
    return {
        "Meant for": f"Ranking the {use_case.events.name} of a night, for the {use_case.list_size} most suspicious of each {person} on the "
        "morning's list.",
        "Not meant for": f"Deciding anything about a {person} without a person who looks, and any population but the one it learnt from.",
        "Owner": use_case.owner,
        "Recipe": f"{bound['recipe']['name']} ({bound['recipe']['kind']}): {set_to}",
        "Learnt from": f"verdicts known on {bound['as_of']}, at versions "
        + ", ".join(f"{name} {version}" for name, version in bound["versions"].items()),
        "Reads": f"{len(use_case.features)} features: {', '.join(use_case.feature_names)}",
        "Judged on": f"nights {bound['holdout_first']} to {bound['holdout_last']}, by the published protocol",
        "Outcome": outcome,
        "Persons": f"personal by contract: {', '.join(sorted(set(personal))) or 'nothing'}; of it among the features: "
        f"{', '.join(read) or 'nothing'}. Fairness between groups was not measured: no group is known.",
        "Limits": f"Verdicts come {use_case.label_delay_days} nights late: what changed since the last of them is not in it. Probabilities "
        "hold for the share of positives that it was judged on.",
        "Made by": f"run {bound['run_id']}, code {bound['code']}",
        "File": f"SHA-256 {bound['model_sha256']}",
    }


# Drawings


def _drawings(drawn: Curves | None) -> str:
    if drawn is None:
        return ""
    parts = [
        _figure("Precision by recall", _curves(drawn.models, lambda curve: curve.ranking), "recall", "precision", drawn.models),
        _figure("Promised and found", _reliability(drawn.models), "promised", "found", drawn.models),
    ]
    if drawn.weeks:
        words = "Candidate less champion in average precision, by week, with bounds of 95 %"
        parts.append(f"<figure>{_differences(drawn)}<figcaption>{words}</figcaption></figure>\n")
    return f'<div class="drawings">\n{"".join(parts)}</div>\n'


def _figure(title: str, inner: str, across: str, up: str, models: Sequence[Curve]) -> str:
    named = zip(("candidate", "champion"), models, strict=False)
    legend = ", ".join(
        f'<span class="line{place}">{name} {escape(model.model_version)}</span>' for place, (name, model) in enumerate(named)
    )
    middle = -_HIGH / 2
    words = f'<text x="{_WIDE / 2}" y="{_HIGH - 4}">{across}</text><text x="{middle}" y="11" transform="rotate(-90)">{up}</text>'
    ticks = "".join(
        f'<text x="{_x(at)}" y="{_HIGH - _EDGE + 14}">{at:g}</text><text x="{_EDGE - 14}" y="{_y(at) + 4}">{at:g}</text>'
        for at in (0, 0.5, 1)
    )
    frame = f'<rect x="{_EDGE}" y="8" width="{_WIDE - _EDGE - 8}" height="{_HIGH - _EDGE - 8}"/>'
    drawing = f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{escape(title)}">{frame}{ticks}{words}{inner}</svg>'
    return f"<figure>{drawing}<figcaption>{escape(title)}: {legend}</figcaption></figure>\n"


def _x(share: float) -> float:
    return round(_EDGE + share * (_WIDE - _EDGE - 8), 1)


def _y(share: float) -> float:
    return round(_HIGH - _EDGE - share * (_HIGH - _EDGE - 8), 1)


def _curves(models: Sequence[Curve], points: Callable[[Curve], Sequence[Point]]) -> str:
    lines = (" ".join(f"{_x(across)},{_y(up)}" for across, up in points(model)) for model in models)
    return "".join(f'<polyline class="line{place}" points="{line}"/>' for place, line in enumerate(lines))


def _reliability(models: Sequence[Curve]) -> str:
    even = f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>'
    dots = (
        f'<circle class="line{place}" cx="{_x(across)}" cy="{_y(up)}" r="3"/>'
        for place, model in enumerate(models)
        for across, up in model.reliability
    )
    return even + _curves(models, lambda curve: curve.reliability) + "".join(dots)


def _differences(drawn: Curves) -> str:
    reach = max(0.01, *(max(abs(week.low), abs(week.high)) for week in drawn.weeks)) * 1.1
    row, middle = 26, _WIDE / 2 + 30

    def at(value: float) -> float:
        return round(middle + value / reach * (_WIDE / 2 - 40), 1)

    lines = [f'<line x1="{at(0)}" y1="4" x2="{at(0)}" y2="{row * len(drawn.weeks) + 4}"/>']
    for number, week in enumerate(drawn.weeks):
        y = row * number + 18
        lines.append(f'<text class="left" x="4" y="{y + 4}">{escape(week.first)}</text>')
        lines.append(f'<line class="line0" x1="{at(week.low)}" y1="{y}" x2="{at(week.high)}" y2="{y}"/>')
        told = f"{week.estimate:+.4f}, {week.low:+.4f} to {week.high:+.4f}"
        lines.append(f'<circle class="line0" cx="{at(week.estimate)}" cy="{y}" r="4"><title>{told}</title></circle>')
    high = row * len(drawn.weeks) + 24
    ends = "".join(f'<text x="{at(value)}" y="{high - 4}">{value:+.2f}</text>' for value in (-reach / 1.1, 0, reach / 1.1))
    return f'<svg viewBox="0 0 {_WIDE} {high}" role="img" aria-label="Difference by week">{"".join(lines)}{ends}</svg>'
