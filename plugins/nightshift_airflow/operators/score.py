"""Score: the champion's scores, whether they rest on what silver says, and the morning's list."""

from __future__ import annotations

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
        from include.nightshift.score import scores

        scored = scores.score(connect(settings), settings, use_case, nights)
        if not scored.models:
            raise AirflowSkipException(
                f"no champion reigns over night {nights[0]}"
                + (f"..{nights[-1]}" if len(nights) > 1 else "")
                + f": nothing to score with. Trigger {use_case.name}_train, approve its model, and run this night again"
            )
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
    """Computes a sample of the nights' scored rows anew from silver; a difference ends the run before anything is published."""

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.features import parity
        from include.nightshift.lakehouse.session import connect

        verdicts = parity.check(connect(settings), settings, use_case, nights)
        failed = [verdict for verdict in verdicts if not verdict.passed]
        if failed:
            first = failed[0]
            # Not retried: the same rows would be compared again.
            raise AirflowFailException(
                f"night {first.night}: {first.different} of {first.rows} scored rows are not what silver gives ({'; '.join(first.reasons)})"
                + (f", and {len(failed) - 1} more nights" if len(failed) > 1 else "")
                + f". Nothing was published: yesterday's list stands. Build {use_case.name}_features of that night again and score it; "
                "if it stays, something writes to the features that should not (ops.parity tells the columns)"
            )
        return {"rows": sum(verdict.rows for verdict in verdicts), "differences": 0}


class AlertsOperator(NightOperator):
    """Publishes the nights' lists, each in one commit, and says so on the scores asset.

    :param scores_task_id: the task that scored.
    """

    def __init__(self, *, scores_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scores_task_id = scores_task_id

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.score import alerts

        lengths, version = alerts.publish(connect(settings), settings, use_case, nights)
        scored = context["ti"].xcom_pull(task_ids=self.scores_task_id)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {
                "version": scored["version"],
                "rows": sum(scored["rows"].values()),
                "alerts_version": version,
            }
        return {"lengths": by_night(lengths), "version": version}
