"""Train: claim the requests, settle the question, scan the features' code, pin what is read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include.nightshift import settings, usecase
from include.nightshift.errors import ConfigurationError, NotMaturedError
from nightshift_airflow.operators.night import NightOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

LAST_WHOLE_NIGHT = "last"
"""The default of `as_of`: the newest night that both feeds have brought."""


WAITS = "waits"
"""The XCom under which a task says that it wants nothing but time."""

ASKED = "asked"
"""The cause of a request that a person or a program files by starting the run."""


class ClaimOperator(BaseOperator):
    """Settles `as_of` and the question, and takes the open requests. A run that an asset event started and that finds none is skipped:
    events coalesce, so an earlier run has answered already. Any other run files a request of its own first.

    :param use_case: name of the use case.
    :param as_of: a night, or `last`; templated.
    :param question: what a run that is started by hand asks; templated.
    :param changed_on: with the question `recover`, the first night of the changed world; templated.
    :param recipes: names of those to train, separated by commas; templated.
    """

    template_fields: Sequence[str] = ("as_of", "question", "changed_on", "recipes")

    def __init__(self, *, use_case: str, as_of: str, question: str, changed_on: str, recipes: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.as_of = as_of
        self.question = question
        self.changed_on = changed_on
        self.recipes = recipes

    def execute(self, context: Context) -> Any:
        from include.nightshift import nights
        from include.nightshift.errors import NightError, NightshiftError
        from include.nightshift.lakehouse import log, tables
        from include.nightshift.monitor import requests
        from include.nightshift.promote import history
        from include.nightshift.promote.question import FIRST, Question, together

        installed = settings.load()
        use_case = usecase.load(self.use_case, installed)
        recipes = self.recipes.split(",")
        try:
            use_case.training(recipes)
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        if self.as_of == LAST_WHOLE_NIGHT:
            held = [log.extent(installed, tables.silver(feed)) for feed in use_case.feeds]
            if None in held:
                raise AirflowFailException(
                    f"{use_case.name}: silver holds no night of both feeds yet. Load some with {use_case.name}_backfill"
                )
            as_of = min(last for _, last in filter(None, held))
        else:
            try:
                as_of = nights.parse(self.as_of, what="as_of")
            except NightError as error:
                raise AirflowFailException(str(error)) from error
        if (started := context["dag_run"]).run_type != "asset_triggered":
            try:
                asks = Question.of({"kind": self.question, "changed_on": self.changed_on or None, "mandatory": False})
            except NightshiftError as error:
                raise AirflowFailException(str(error)) from error
            evidence = {"run_id": started.run_id, "by": started.triggering_user_name}
            requests.file(installed, use_case, as_of, ASKED, asks, evidence, about=started.run_id)
        claimed = requests.claim(installed, use_case, as_of)
        if not claimed:
            raise AirflowSkipException("no open request: an earlier run has answered the one that this event announced")
        reign = history.reign_on(installed, use_case, history.first_free_night(installed, use_case, as_of))
        question = together(requests.asked(claimed)) if reign else FIRST
        self.log.info("as of night %s: %s; it answers %s", as_of, question.kind, ", ".join(request["request_id"] for request in claimed))
        return {
            "as_of": as_of.isoformat(),
            "request_ids": [request["request_id"] for request in claimed],
            "question": question.told(),
            "recipes": recipes,
        }


class ScanOperator(NightOperator):
    """Looks for leaks in the features' code, where nobody has since it changed; the gate asks for the result."""

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.features.leaks import record
        from include.nightshift.lakehouse.session import connect

        passed, seen = record.ensure(connect(settings), settings, use_case)
        self.log.info("%s: %s", "no leak" if passed else "LEAK", seen)
        return {"passed": passed, "seen": seen}


class PinOperator(NightOperator):
    """Lays the training run's rows, at pinned table versions, in its folder; returns the folder. Skipped where nobody asked for the recipe.

    :param recipe: name of one of the use case's recipes.
    :param claim_task_id: the task that settled what is trained, and the question.
    """

    def __init__(self, *, recipe: str, claim_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe = recipe
        self.claim_task_id = claim_task_id

    def work(self, context: Context, settings: Settings, use_case: UseCase, nights: list[date]) -> Any:
        from include.nightshift.lakehouse.session import connect
        from include.nightshift.promote.question import Question
        from include.nightshift.train import pin

        claimed = context["ti"].xcom_pull(task_ids=self.claim_task_id)
        if self.recipe not in claimed["recipes"]:
            raise AirflowSkipException(f"this run trains {', '.join(claimed['recipes'])}")
        question = Question.of(claimed["question"])
        recipe = next(recipe for recipe in use_case.training(claimed["recipes"]) if recipe.name == self.recipe)
        try:
            return str(pin.pin(connect(settings), settings, use_case, recipe, nights[-1], question))
        except NotMaturedError as error:
            # Waiting a few seconds between retries matures nothing. The requests go back (`close`), and a later night asks again.
            context["ti"].xcom_push(key=WAITS, value=str(error))
            asked_for = AirflowSkipException if context["dag_run"].run_type == "asset_triggered" else AirflowFailException
            raise asked_for(str(error)) from error
