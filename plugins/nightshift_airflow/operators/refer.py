"""Refer: a champion that may not stay, and a successor that the gate refused: a person's case."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from nightshift_airflow.operators.night import NightOperator
from nightshift_airflow.operators.promote import answered, assigned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

KEEP, RETURN = "Keep the champion", "Return to the baseline"


class ReferOperator(HITLOperator):
    """Asks what scores from now on, where a mandatory refresh was refused; skipped elsewhere. Silence is no answer: it fails then.

    :param gate_task_id: the gate, whose report says what was asked and what came of it.
    """

    def __init__(self, *, gate_task_id: str, approvers: Sequence[str], hours: float, **kwargs: Any) -> None:
        super().__init__(
            options=[KEEP, RETURN],
            assigned_users=assigned(approvers),
            response_timeout=timedelta(hours=hours),
            execution_timeout=None,
            **kwargs,
        )
        self.gate_task_id = gate_task_id

    def execute(self, context: Context) -> Any:
        judged = context["ti"].xcom_pull(task_ids=self.gate_task_id, key="report")
        if not judged or judged["outcome"] != "refused" or not judged["mandatory"]:
            raise AirflowSkipException("nothing to refer: the champion may stay, or its successor was not refused")
        return super().execute(context)


class SettleOperator(NightOperator):
    """Does what was answered, and keeps who said so and why (`ops.acts`).

    :param gate_task_id: the gate.
    :param refer_task_id: the person's task.
    """

    def __init__(self, *, gate_task_id: str, refer_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate_task_id = gate_task_id
        self.refer_task_id = refer_task_id

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.errors import RegistryError
        from include.nightshift.promote import acts, history

        run, ti = context["dag_run"], context["ti"]
        judged, told = ti.xcom_pull(task_ids=self.gate_task_id, key="report"), ti.xcom_pull(task_ids=self.refer_task_id)
        chosen, by, comment = answered(told)
        if by is None or by not in settings.approvers:
            raise AirflowFailException(
                f"{by or 'nobody'} answered {chosen!r}, and is none of the approvers ({', '.join(sorted(settings.approvers))}): clear the "
                f"task {self.refer_task_id}, and let one of them answer"
            )
        why = comment or f"{chosen}, without a word why"
        detail = {"answer": chosen, "report_digest": judged["digest"], "model_version": judged["model_version"]}
        act_id = f"{run.dag_id} {run.run_id}"
        acts.record(settings, use_case, acts.REFER, act_id=f"{act_id} {acts.REFER}", by=by, why=why, night=nights[-1], detail=detail)
        if chosen == RETURN:
            try:
                history.baseline(settings, use_case, by, why, act_id=act_id)
            except RegistryError as error:
                raise AirflowFailException(str(error)) from error
        self.log.info("%s: %s (%s)", by, chosen, why)
        return {"answer": chosen, "by": by, "why": why}
