"""Score: the champion's scores, whether they rest on what silver says, what guards say of them, and the morning's list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from nightshift_airflow.operators.night import NightOperator, by_night

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase


class ScoreOperator(NightOperator):
    """Scores the nights with the champion that reigns over each; skips when nobody reigns over any of them."""

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse import ledger
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.score import publications, scores

        scored = scores.score(connect(settings), settings, use_case, nights)
        unscored = [night for night in nights if night not in scored.models]
        because = f"no champion reigns: nothing to score with. Trigger {use_case.name}_train, approve its model, and run the night again"
        publications.skip(settings, use_case, unscored, because)
        if not scored.models:
            raise AirflowSkipException(f"night {nights[0]}" + (f"..{nights[-1]}" if len(nights) > 1 else "") + f": {because}")
        seconds = scored.seconds / len(nights)
        ledger.record(settings, use_case, [ledger.Entry(night, "scores", rows, rows, 0, seconds) for night, rows in scored.rows.items()])
        models = {night.isoformat(): version for night, version in scored.models.items()}
        marks = {
            night.isoformat(): {"mark": model.mark, "reasons": list(model.reasons)}
            for night, model in scored.reigning.items()
            if model.mark
        }
        return {"rows": by_night(scored.rows), "models": models, "marks": marks, "version": scored.version, "seconds": scored.seconds}


class ParityOperator(NightOperator):
    """Computes the nights' scored rows anew from silver, and says what differs; what follows is for the guards to say."""

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.features import parity
        from include.nightshift.lakehouse.session import connect

        verdicts = parity.check(connect(settings), settings, use_case, nights)
        for verdict in verdicts:
            if not verdict.passed:
                differing = f"{verdict.different} of {verdict.rows} scored rows are not what silver gives"
                self.log.error("night %s: %s (%s)", verdict.night, differing, "; ".join(verdict.reasons))
        return {"rows": sum(verdict.rows for verdict in verdicts), "differences": sum(verdict.different for verdict in verdicts)}


class GuardOperator(NightOperator):
    """Judges the nights' scores and lists, has nights scored again where a model is at fault, and decides what becomes of each list.

    Says on the scores asset that the nights are scored: whether their lists are published or held, the watch goes on.
    """

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse import log, tables
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.score import decide

        decisions = decide.decide(connect(settings), settings, use_case, nights)
        for decision in decisions:
            words = "; ".join(decision.reasons) or "every guard passed"
            self.log.info("night %s: %s %s: %s", decision.night, decision.state, decision.mark or "", words)
        scored = log.rows_by_night(settings, tables.scores(use_case), {"day": nights, "role": ["champion"]})
        for outlet in self.outlets:
            said = {"version": log.version(settings, tables.scores(use_case)), "rows": sum(scored.values())}
            context["outlet_events"][outlet].extra = said
        return [decision.as_dict() for decision in decisions]


class AlertsOperator(NightOperator):
    """Publishes the nights' lists in one commit, as it was decided, and tells of each that bears a mark; fails where one is held.

    Then what is out is the night's own list from before, or yesterday's, marked stale: the task is red, so that nobody takes it for good.

    :param guard_task_id: the task that decided.
    """

    def __init__(self, *, guard_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.guard_task_id = guard_task_id

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.errors import PublicationError
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.score import decide, held, publications

        decisions = [publications.Decision.from_dict(told) for told in context["ti"].xcom_pull(task_ids=self.guard_task_id)]
        try:
            decide.check_reign(settings, use_case, decisions)
        except PublicationError as error:
            # Only other scores mend it.
            raise AirflowFailException(str(error)) from error
        by = context["dag_run"].triggering_user_name
        published = publications.publish(connect(settings), settings, use_case, decisions, triggered_by=by)
        held.tell(settings, use_case, decisions, published)
        if stopped := held.still_held(decisions, published):
            # Not retried: the guards would see the same again.
            raise AirflowFailException(held.advice(use_case, stopped[0], published[stopped[0].night], more=len(stopped) - 1))
        return {
            "lengths": by_night({night: out.rows for night, out in published.items()}),
            "revisions": by_night({night: out.revision for night, out in published.items()}),
            "version": max(out.version for out in published.values()),
        }


class PublishOperator(NightOperator):
    """Publishes a held night's list all the same, in the name of whoever started the run; that it was done is kept before it is.

    :param why: the reason, in the person's words; templated.
    """

    template_fields: Sequence[str] = (*NightOperator.template_fields, "why")

    def __init__(self, *, why: str = "{{ params.why }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.why = why

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.errors import PublicationError, RegistryError
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.score import held

        run, [night] = context["dag_run"], nights
        try:
            out = held.release(
                connect(settings), settings, use_case, night, by=run.triggering_user_name, why=self.why, act_id=f"{run.dag_id} {run.run_id}"
            )
        except (PublicationError, RegistryError) as error:
            # Whoever asked would be told the same again.
            raise AirflowFailException(str(error)) from error
        self.log.info("night %s: revision %s, marked %s", night, out.revision, out.mark)
        return {"night": night.isoformat(), "revision": out.revision, "rows": out.rows, "version": out.version}


class RepublishOperator(NightOperator):
    """Publishes a night's list again, scored by a version that reigned once, as its next revision; skipped where no night is named.

    :param nights: the night; a template, empty for none.
    :param rollback_task_id: the task that let the version reign again, and says which.
    """

    def __init__(self, *, rollback_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rollback_task_id = rollback_task_id

    def execute(self, context: Context) -> Any:
        if not self.nights:
            raise AirflowSkipException("no night was named: lists that are out stay as they are")
        return super().execute(context)

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.errors import PublicationError, RegistryError
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.promote import trust
        from include.nightshift.score import decide, publications

        run, [night] = context["dag_run"], nights
        back = context["ti"].xcom_pull(task_ids=self.rollback_task_id)
        try:
            if publications.newest(settings, use_case, night) is None:
                raise PublicationError(f"night {night} of {use_case.name} has no list that could be published again: `score` it")
            session, model = connect(settings), trust.verified(settings, use_case, back["model_version"])
            decision = decide.rescored(session, settings, use_case, night, model)
            because = f"{back['by']} went back to version {back['model_version']}: {back['why']}"
            out = publications.republish(session, settings, use_case, decision, because, triggered_by=run.triggering_user_name)
        except (PublicationError, RegistryError) as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("night %s: revision %s, by version %s", night, out.revision, model.version)
        return {"night": night.isoformat(), "revision": out.revision, "rows": out.rows, "model_version": model.version}
