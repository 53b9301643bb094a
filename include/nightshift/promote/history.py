"""The history: who reigns over which nights, as `ops.champion_history` says, and how that changes.

Three kinds of change, each in one commit: `crown` lets an approved model follow, `rollback` an earlier one, and a commit that others came
before is thought through anew. MLflow's alias `champion` follows the history; whatever was killed between the two, `reconcile` mends.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import chain, records, tables
from include.nightshift.lakehouse import log as table_log
from include.nightshift.promote import acts, copies, registry, succession
from include.nightshift.promote.proof import Papers, written

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.nightshift.lakehouse.records import Record
    from include.nightshift.promote.copies import Copy
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

log = logging.getLogger(__name__)

PREVIOUS = "previous"


def reigns(settings: Settings, use_case: UseCase) -> list[Record]:
    """The use case's rows of the history, in the order they were written."""
    return _own(use_case, written(records.read(settings, tables.CHAMPION_HISTORY)))


def champions(settings: Settings, use_case: UseCase, nights: Sequence[date]) -> dict[date, str]:
    """The version that reigns over each of the nights; nights over which nobody does are left out.

    Raises:
        RegistryError: more than one reigns over a night.
    """
    rows = reigns(settings, use_case)
    found = {night: succession.over(rows, night) for night in nights}
    return {night: reign["model_version"] for night, reign in found.items() if reign}


def reign_on(settings: Settings, use_case: UseCase, night: date) -> Record | None:
    """The row of the champion history whose nights contain the night, or None.

    Raises:
        RegistryError: more than one row does.
    """
    return succession.over(reigns(settings, use_case), night)


def promised(settings: Settings, reign: Mapping[str, Any]) -> dict[str, float]:
    """The figures on its held-out rows that the reigning champion was promoted on."""
    found = records.read(settings, tables.GATE_REPORTS, report_digest=reign["report_digest"])
    return dict(json.loads(found[0]["figures"])) if found else {}


def first_free_night(settings: Settings, use_case: UseCase, as_of: date) -> date:
    """The night from which a model trained `as_of` may reign: after all it knew, and after every list that is out."""
    published = table_log.extent(settings, tables.alerts(use_case))
    return max(as_of, published[1] if published else as_of) + timedelta(days=1)


def crown(settings: Settings, use_case: UseCase, report_digest: str, *, why: str) -> Record:
    """Let the model of an approved report reign from the first free night on; returns its row.

    The same promotion twice changes nothing. The history first, then the alias.

    Raises:
        RegistryError: promotions are frozen, the report does not let its model reign, nobody's valid answer does, somebody else reigns
            than the one it was compared with, it was rolled back since, or its bytes are not those that were judged. Nothing changed.
        WriteConflictError: others won every attempt.
    """
    papers = Papers.read(settings, use_case)
    stands = _crowned(papers.history, report_digest)
    if stands is None:
        report = _permitted(papers, report_digest)
        _keep(settings, use_case, report)
        new = _reign(use_case, succession.PROMOTE, report, first_free_night(settings, use_case, report["as_of"]))
        new |= {"why": why, "by": papers.answer(report_digest)["by"]}

        def change(rows: list[Record]) -> list[Record]:
            if _crowned(rows, report_digest):
                return rows
            _may_follow(acts.frozen(settings, use_case), succession.open_reign(rows), report)
            return succession.followed(rows, new)

        stands = next(row for row in _amend(settings, use_case, change) if row["report_digest"] == report_digest)
    _follow(settings, use_case)
    return stands


def rollback(settings: Settings, use_case: UseCase, to: str | None, by: str, why: str, *, act_id: str | None = None) -> Record:
    """Let a version that reigned before reign again from the first free night on; returns its row.

    :param to: the version; None or `previous`: the one promoted last before the one that reigns.
    :param act_id: names the act: asked for twice under one name, it is done once.

    Raises:
        RegistryError: nobody reigns, there is none before, the version never reigned, reigns now or was rolled back itself, or what speaks
            for it does not hold. Nothing changed.
        WriteConflictError: others won every attempt.
    """
    act_id = act_id or str(uuid.uuid4())
    act = acts.found(settings, act_id)
    if act is None:
        papers = Papers.read(settings, use_case)
        reigning, target = _reigning(papers.history), _target(use_case, papers.history, to)
        _refuse_if(papers.against_reign(target), f"version {target['model_version']} cannot return")
        _keep(settings, use_case, _report(papers, target["report_digest"]))
        detail = {
            "seq": reigning["seq"],
            "from": reigning["model_version"],
            "to": target["model_version"],
            "digest": target["report_digest"],
        }
        act = _act(settings, use_case, acts.ROLLBACK, by, why, act_id, detail)
    # From here on a killed rollback is taken up again where it was left: the act says what it was about to do.
    detail = json.loads(act["detail"])
    report = _report(Papers.read(settings, use_case), detail["digest"])
    new = _reign(use_case, succession.ROLLBACK, report, act["night"]) | {"why": act["why"], "by": act["by"]}

    def change(rows: list[Record]) -> list[Record]:
        reigning = _reigning(rows)
        if reigning["seq"] == detail["seq"]:
            # Lists may have gone out since the act: they stay this champion's.
            return succession.followed(rows, new | {"from_night": _free(settings, use_case, reigning)})
        if any(row["act"] == succession.ROLLBACK and row["seq"] > detail["seq"] and _same(row, detail) for row in rows):
            return rows
        raise RegistryError(
            f"rollback from version {detail['from']} to {detail['to']}: version {reigning['model_version']} reigns by now, somebody was "
            "quicker. Look who, and roll back from there, if that is still wanted"
        )

    rows = _amend(settings, use_case, change)
    _follow(settings, use_case)
    return [row for row in rows if row["act"] == succession.ROLLBACK and _same(row, detail)][-1]


def freeze(settings: Settings, use_case: UseCase, by: str, why: str, *, act_id: str | None = None) -> Record:
    """Stop promotions until `unfreeze`; whoever reigns goes on, and can be rolled back."""
    return _act(settings, use_case, acts.FREEZE, by, why, act_id)


def unfreeze(settings: Settings, use_case: UseCase, by: str, why: str, *, act_id: str | None = None) -> Record:
    """Let promotions go on."""
    return _act(settings, use_case, acts.UNFREEZE, by, why, act_id)


def baseline(settings: Settings, use_case: UseCase, by: str, why: str, *, act_id: str | None = None) -> Record:
    """Have the lists come from the linear baseline of whoever reigns, from the first free night on, until `champion`.

    Raises:
        RegistryError: nobody reigns, or no baseline was judged beside the one who does, or it is not what was judged.
    """
    papers = Papers.read(settings, use_case)
    reigning = _reigning(papers.history)
    if baseline_of(settings, use_case, papers, reigning) is None:
        raise RegistryError(
            f"version {reigning['model_version']} of {use_case.name} has no baseline as it was judged beside it: roll back to a version "
            "that has one, or train anew"
        )
    return _act(settings, use_case, acts.BASELINE, by, why, act_id)


def champion(settings: Settings, use_case: UseCase, by: str, why: str, *, act_id: str | None = None) -> Record:
    """Have the lists come from the champion again, from the first free night on."""
    return _act(settings, use_case, acts.CHAMPION, by, why, act_id)


def reconcile(settings: Settings, use_case: UseCase) -> list[str]:
    """Have MLflow's alias follow the history; returns what had to be mended, or could not be. Nothing where all agree, or nobody reigns."""
    try:
        reigning = succession.open_reign(reigns(settings, use_case))
        if reigning is None:
            return []
        version = str(reigning["model_version"])
        pointed = registry.point(settings, use_case, version)
    except RegistryError as error:
        return [str(error)]
    if pointed == version:
        return []
    return [f"the alias {registry.ALIAS} pointed at version {pointed}; the history says {version}, so it points there again"]


def baseline_of(settings: Settings, use_case: UseCase, papers: Papers, reign: Record) -> Copy | None:
    """The linear baseline that was judged beside a reigning version, if it is what was judged."""
    report = papers.report(reign["report_digest"])
    if report is None or not report["baseline_sha256"] or papers.against_report(reign["report_digest"]):
        return None
    return copies.baseline(settings, use_case, report["model_version"], report["baseline_sha256"], reign["report_digest"])


def _own(use_case: UseCase, rows: Sequence[Record]) -> list[Record]:
    return [row for row in rows if row["use_case"] == use_case.name]


def _amend(settings: Settings, use_case: UseCase, change: Callable[[list[Record]], list[Record]]) -> list[Record]:
    """Change the use case's reigns in one commit; returns them as they then are."""

    def among_all(rows: list[Record]) -> list[Record]:
        return [*(row for row in rows if row["use_case"] != use_case.name), *change(_own(use_case, rows))]

    chain.amend(settings, tables.CHAMPION_HISTORY, among_all)
    return reigns(settings, use_case)


def _follow(settings: Settings, use_case: UseCase) -> None:
    """The alias after the history. What fails here is mended by the next `score`, and undoes nothing."""
    try:
        registry.point(settings, use_case, str(_reigning(reigns(settings, use_case))["model_version"]))
    except RegistryError as error:
        log.warning("%s", error)


def _free(settings: Settings, use_case: UseCase, reigning: Record) -> date:
    """The first night whose list is not out, or the open reign's first, should that be later."""
    published = table_log.extent(settings, tables.alerts(use_case))
    return max(reigning["from_night"], published[1] + timedelta(days=1) if published else date.min)


def _act(settings: Settings, use_case: UseCase, act: str, by: str, why: str, act_id: str | None, detail: Any = None) -> Record:
    """Keep an act that holds from the first free night on."""
    reigning = succession.open_reign(reigns(settings, use_case))
    night = _free(settings, use_case, reigning) if reigning else None
    return acts.record(settings, use_case, act, act_id=act_id or str(uuid.uuid4()), by=by, why=why, night=night, detail=detail)


def _keep(settings: Settings, use_case: UseCase, report: Record) -> None:
    """Have verified copies of the model, and of the baseline that was judged beside it, for the night they are needed.

    Raises:
        RegistryError: one of them cannot be had, or is not what was judged.
    """
    version, digest = report["model_version"], report["report_digest"]
    # First, because it is brought into the local copy, of which the other one is made.
    if report["baseline_sha256"] and copies.baseline(settings, use_case, version, report["baseline_sha256"], digest) is None:
        raise RegistryError(
            f"the baseline that was judged beside version {version} is not here as it was judged: restore the run folder, or train anew"
        )
    copies.keep(settings, use_case, version, report["model_sha256"], digest)


def _crowned(rows: Sequence[Record], report_digest: str) -> Record | None:
    """The row by which the report's model was promoted, if it was.

    Raises:
        RegistryError: and was rolled back since.
    """
    if report_digest in succession.barred(rows):
        raise RegistryError(
            f"report {report_digest[:12]} let its model reign, and it was rolled back: the same evidence cannot bring it back. Train "
            "anew, so that a new report says what has changed"
        )
    return next((row for row in rows if row["report_digest"] == report_digest and row["act"] != succession.ROLLBACK), None)


def _permitted(papers: Papers, report_digest: str) -> Record:
    """The report, if it and the newest answer to it let its model reign."""
    against = papers.against_report(report_digest) + papers.against_answer(report_digest, datetime.now(UTC))
    _refuse_if(against, f"the model of report {report_digest[:12]} cannot be promoted")
    return _report(papers, report_digest)


def _report(papers: Papers, report_digest: str) -> Record:
    report = papers.report(report_digest)
    if report is None:
        raise RegistryError(
            f"{tables.GATE_REPORTS} holds no report {report_digest[:12]}: train again, so that what reigns is what was judged"
        )
    return report


def _may_follow(frozen: Record | None, reigning: Record | None, report: Record) -> None:
    """Whether a report's model may follow whoever reigns.

    Raises:
        RegistryError: promotions are frozen, or somebody else reigns than the report compared with.
    """
    if frozen:
        raise RegistryError(
            f"promotions are frozen: {frozen['by']} asked for it at {frozen['at']:%Y-%m-%d %H:%M} UTC, because: {frozen['why']}. "
            f"`unfreeze` in {report['use_case']}_reign lets them go on"
        )
    met = (report["champion_version"], report["champion_sha256"])
    now = (reigning["model_version"], reigning["model_sha256"]) if reigning else (None, None)
    if met[0] != now[0] or (met[1] and met[1] != now[1]):
        raise RegistryError(
            f"version {report['model_version']} was compared with {_named(met)}, and by now {_named(now)} reigns: its report says nothing "
            "about that one. Train anew"
        )


def _named(model: tuple[str | None, str | None]) -> str:
    version, sha256 = model
    return "nobody" if version is None else f"version {version}" + (f" ({sha256[:12]})" if sha256 else "")


def _reign(use_case: UseCase, act: str, report: Record, from_night: date) -> Record:
    """A row that is not closed yet."""
    return {
        "use_case": use_case.name,
        "model_version": report["model_version"],
        "from_night": from_night,
        "until_night": None,
        "at": datetime.now(UTC),
        "report_digest": report["report_digest"],
        "act": act,
        "model_sha256": report["model_sha256"],
    }


def _reigning(rows: Sequence[Record]) -> Record:
    """The open reign.

    Raises:
        RegistryError: nobody reigns.
    """
    reigning = succession.open_reign(rows)
    if reigning is None:
        raise RegistryError("nobody reigns: there is nothing to return from. Train a first model and approve it")
    return reigning


def _target(use_case: UseCase, rows: Sequence[Record], to: str | None) -> Record:
    """The reign to which a rollback leads."""
    reigning, out = _reigning(rows), succession.barred(rows)
    if to in (None, PREVIOUS):
        found = succession.predecessor(rows)
        if found is None:
            raise RegistryError(
                f"nobody was promoted before version {reigning['model_version']} who was not rolled back: `baseline` in "
                f"{use_case.name}_reign has the lists come from the linear baseline"
            )
        return found
    if to == reigning["model_version"]:
        raise RegistryError(f"version {to} reigns already: name an earlier one, or {PREVIOUS}")
    named = [row for row in rows if row["model_version"] == to]
    sound = [row for row in named if row["report_digest"] not in out]
    if not sound:
        had = "was rolled back itself, and needs a new report" if named else "never reigned"
        able = sorted({row["model_version"] for row in rows if row["report_digest"] not in out} - {reigning["model_version"]})
        raise RegistryError(f"version {to} {had}: name one of {', '.join(able) or 'none, for there is none'}")
    return sound[-1]


def _same(row: Record, detail: Mapping[str, Any]) -> bool:
    return bool(row["report_digest"] == detail["digest"])


def _refuse_if(against: Sequence[str], what: str) -> None:
    if against:
        raise RegistryError(
            f"{what}: {'; '.join(against)}. Nothing changed. Where a row does not hold, find out who altered it; else train anew"
        )
