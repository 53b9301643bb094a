"""Choose, gate, approve, promote: one of the candidates judged, answered by a human, and set to reign."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include.nightshift.promote.proof import APPROVE, REJECT, VOID
from nightshift_airflow.links import ReportLink, report_page
from nightshift_airflow.operators.night import NightOperator
from nightshift_airflow.operators.train import WAITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from include.nightshift.promote.choose import Candidate
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


POLICY = "the policy"
"""Who approves where `GatePolicy.approval` is waived."""
_COMMENT = 2000
"""Characters of a comment that are kept."""


def answered(told: dict[str, Any]) -> tuple[str, str | None, str]:
    """What a person answered, who it was (None: nobody in time), and their comment, of what a human's task left."""
    comment = str((told.get("params_input") or {}).get("comment") or "")[:_COMMENT]
    return told["chosen_options"][0], (told.get("responded_by_user") or {}).get("name"), comment


def assigned(approvers: Sequence[str]) -> list[dict[str, str]]:
    """Who alone may answer, as Airflow's human's task takes it."""
    return [{"id": name, "name": name} for name in approvers]


class ChooseOperator(NightOperator):
    """Hands the best of the trained candidates on, by what they reached on the last training nights; those that failed are left out.

    :param claim_task_id: the task that says which recipes are trained, in their order.
    :param train_task_ids: the training task of each recipe.
    """

    def __init__(self, *, claim_task_id: str, train_task_ids: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.claim_task_id = claim_task_id
        self.train_task_ids = train_task_ids

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.errors import NightshiftError
        from include.nightshift.promote.choose import choose

        ti = context["ti"]
        asked = ti.xcom_pull(task_ids=self.claim_task_id)["recipes"]
        trained = {recipe: ti.xcom_pull(task_ids=self.train_task_ids[recipe]) for recipe in asked}
        try:
            choice = choose([_candidate(recipe, result) for recipe, result in trained.items()])
        except NightshiftError as error:
            # It would say the same again.
            raise AirflowFailException(str(error)) from error
        for reason in choice.reasons:
            self.log.info("%s", reason)
        return trained[choice.recipe] | {"recipe": choice.recipe, "reasons": list(choice.reasons)}


class GateOperator(NightOperator):
    """Judges the chosen candidate; a rejection skips approval and promotion, with the reasons.

    :param choose_task_id: the task that chose it.
    """

    operator_extra_links = (ReportLink(),)

    def __init__(self, *, choose_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.choose_task_id = choose_task_id

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.promote import judge
        from include.nightshift.promote.gates import WAIT
        from include.nightshift.train.run import TrainingRun

        trained = context["ti"].xcom_pull(task_ids=self.choose_task_id)
        folder = Path(trained["run_folder"])
        run = TrainingRun.load(folder)
        judged = judge.judge(
            settings,
            use_case,
            folder,
            run,
            model_version=trained["model_version"],
            model_sha256=trained["model_sha256"],
        )
        for verdict in judged.report.verdicts:
            self.log.info("%s %s: %s", "passed " if verdict.passed else "REFUSED", verdict.gate, "; ".join(verdict.reasons))
        answer = {
            "passed": judged.report.passed,
            "outcome": judged.report.outcome,
            "question": str(run.question.kind),
            "mandatory": run.question.mandatory,
            "digest": judged.digest,
            "page": report_page(self.dag_id, judged.digest),
            "model_version": judged.model_version,
            "champion_version": judged.champion_version,
            "authors": None if judged.authors is None else sorted(judged.authors),
            "released_by": sorted(judged.released_by),
            "figures": judged.report.figures,
            "reasons": list(judged.report.reasons),
        }
        context["ti"].xcom_push(key="report", value=answer)
        if not judged.report.passed:
            said = "too little has matured" if judged.report.outcome == WAIT else "the gate refused"
            raise AirflowSkipException(f"{said}: " + "; ".join(judged.report.reasons))
        return answer


class PromoteOperator(NightOperator):
    """Records the answer and, if it approves the very report that the gate wrote, sets the model to reign.

    A yes of somebody who has a hand in the candidate, or is no approver, is recorded as void, and promotes nothing.

    :param gate_task_id: the gate.
    :param approve_task_id: the human's task; None where the policy waives the human.
    """

    def __init__(self, *, gate_task_id: str, approve_task_id: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate_task_id = gate_task_id
        self.approve_task_id = approve_task_id

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse import chain, tables
        from include.nightshift.promote import history

        judged = context["ti"].xcom_pull(task_ids=self.gate_task_id)
        answer = self._answer(context, settings, use_case, judged)
        chain.append(settings, tables.APPROVALS, answer, answer)
        by, version = answer["by"], judged["model_version"]
        if answer["answer"] == REJECT:
            raise AirflowSkipException(f"{by} rejected version {version}")
        if answer["answer"] == VOID:
            raise AirflowFailException(
                f"{by} approved version {version}, and that does not count: {answer['comment']}. Clear the task approve, and let "
                "somebody else answer"
            )
        reign = history.crown(settings, use_case, judged["digest"], why="; ".join(judged["reasons"]))
        self.log.info("version %s reigns from night %s on", reign["model_version"], reign["from_night"])
        return {"model_version": reign["model_version"], "from_night": reign["from_night"].isoformat()}

    def _answer(self, context: Context, settings: Settings, use_case: UseCase, judged: dict[str, Any]) -> dict[str, Any]:
        """The row of `ops.approvals`."""
        from include.nightshift.promote.approval import Involved, objections

        started = context["dag_run"].triggering_user_name
        said = {
            "report_digest": judged["digest"],
            "use_case": use_case.name,
            "model_version": judged["model_version"],
            "triggered_by": started,
        }
        if self.approve_task_id is None:
            return said | {"answer": APPROVE, "by": POLICY, "at": context["dag_run"].start_date, "channel": "policy"}
        told = context["ti"].xcom_pull(task_ids=self.approve_task_id)
        (chosen, by, comment), at = answered(told), _moment(told.get("responded_at"))
        authors = None if judged["authors"] is None else frozenset(judged["authors"])
        against = objections(
            by, settings.approvers, Involved(triggered_by=started, released_by=frozenset(judged["released_by"]), authors=authors)
        )
        if chosen == APPROVE and against:
            chosen, comment = VOID, "; ".join(against)
        until = at + timedelta(hours=use_case.gate.approval_hours)
        said |= {"answer": chosen, "by": by or "nobody (timed out)", "at": at, "channel": "human"}
        return said | {"comment": comment or None, "expires_at": until}


class CloseOperator(NightOperator):
    """Says in the ledger what became of the claimed requests, however the run went.

    :param claim_task_id, gate_task_id, promote_task_id, settle_task_id: whose results tell.
    :param pin_task_ids: tasks that may have found that too little has matured.
    """

    def __init__(
        self,
        *,
        claim_task_id: str,
        pin_task_ids: list[str],
        gate_task_id: str,
        promote_task_id: str,
        settle_task_id: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settle_task_id = settle_task_id
        self.claim_task_id = claim_task_id
        self.pin_task_ids = pin_task_ids
        self.gate_task_id = gate_task_id
        self.promote_task_id = promote_task_id

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.monitor import requests
        from include.nightshift.promote.gates import WAIT

        ti = context["ti"]
        claimed, promoted = ti.xcom_pull(task_ids=self.claim_task_id), ti.xcom_pull(task_ids=self.promote_task_id)
        judged = ti.xcom_pull(task_ids=self.gate_task_id, key="report")
        waits = next(filter(None, (ti.xcom_pull(task_ids=task_id, key=WAITS) for task_id in self.pin_task_ids)), None)
        if judged and judged["outcome"] == WAIT:
            waits = "; ".join(judged["reasons"])
        if waits:
            # Open again: the watch of a later night tells of it once more.
            requests.wait(settings, claimed["request_ids"], outcome=f"too little has matured: {waits}")
            return waits
        if promoted:
            outcome = f"version {promoted['model_version']} reigns from night {promoted['from_night']} on"
        elif judged and not judged["passed"]:
            outcome = f"the gate refused version {judged['model_version']}: " + "; ".join(judged["reasons"])
            if settled := ti.xcom_pull(task_ids=self.settle_task_id):
                outcome += f". {settled['by']} decided: {settled['answer']} ({settled['why']})"
            elif judged["mandatory"]:
                outcome += ". The champion may not stay, and nobody has decided what scores instead: clear the task refer"
        elif judged:
            outcome = f"version {judged['model_version']} passed the gate and was not approved"
        else:
            outcome = f"training did not finish: see run {context['dag_run'].run_id} of {context['dag_run'].dag_id}"
        requests.close(settings, claimed["request_ids"], done=bool(promoted), outcome=outcome)
        self.log.info("%s: %s", ", ".join(claimed["request_ids"]) or "no request", outcome)
        return outcome


def _candidate(recipe: str, trained: dict[str, Any] | None) -> Candidate:
    """What a training task left; None where it did not come to its end."""
    from include.nightshift.promote.choose import Candidate
    from include.nightshift.train import search
    from include.nightshift.train.run import TrainingRun

    if trained is None:
        return Candidate(recipe=recipe, trained=False)
    folder = Path(trained["run_folder"])
    if TrainingRun.load(folder).recipe.search is None:
        return Candidate(recipe=recipe)
    found = search.outcome(folder)
    return Candidate(recipe=recipe, average_precision=found.average_precision, nights=found.nights)


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value) if value else datetime.now(UTC)
