"""Reign: what a person does to champions: back to an earlier one, to the baseline and from it, and no promotions for a while."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.nightshift import settings, usecase
from include.nightshift.errors import ConfigurationError
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.nightshift.lakehouse.records import Record

WHY = "{{ params.why }}"


class ActOperator(BaseOperator):
    """Does one act, in the name of whoever started the run; the run's name is the act's, so that a retry does not do it again.

    :param use_case: name of the use case.
    :param why: the reason, in the person's words; templated.
    """

    template_fields: Sequence[str] = ("why",)

    def __init__(self, *, use_case: str, why: str = WHY, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.why = why

    def execute(self, context: Context) -> Any:
        run = context["dag_run"]
        by = run.triggering_user_name
        if not by:
            raise AirflowFailException(f"nobody is known to have started {run.run_id}: start the run over REST or in the UI, logged in")
        try:
            installed = settings.load()
            use_case = usecase.load(self.use_case, installed)
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        done = self.act(installed, use_case, by, f"{run.dag_id} {run.run_id}")
        return {name: value if value is None else str(value) for name, value in done.items() if name in self.told}

    told: Sequence[str] = ("act", "night", "by", "why")
    """What of the act goes to XCom."""

    @abstractmethod
    def act(self, installed: Settings, use_case: UseCase, by: str, act_id: str) -> Record:
        """Do it, once under this name."""


class RollbackOperator(ActOperator):
    """Lets an earlier champion reign again from the next list on.

    :param version: which, or `previous`; templated.
    """

    template_fields: Sequence[str] = (*ActOperator.template_fields, "version")
    told = ("model_version", "from_night", "by", "why")

    def __init__(self, *, version: str = "{{ params.version }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version

    def act(self, installed: Settings, use_case: UseCase, by: str, act_id: str) -> Record:
        from include.nightshift.promote import history

        row = history.rollback(installed, use_case, self.version, by, self.why, act_id=act_id)
        self.log.info("version %s reigns again from night %s on", row["model_version"], row["from_night"])
        return row


class ReignOperator(ActOperator):
    """Freezes or unfreezes promotions, or has the lists come from the baseline or the champion.

    :param act_name: `freeze`, `unfreeze`, `baseline` or `champion`; templated.
    """

    template_fields: Sequence[str] = (*ActOperator.template_fields, "act_name")

    def __init__(self, *, act_name: str = "{{ params.act }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.act_name = act_name

    def act(self, installed: Settings, use_case: UseCase, by: str, act_id: str) -> Record:
        from include.nightshift.promote import history

        acts = {"freeze": history.freeze, "unfreeze": history.unfreeze, "baseline": history.baseline, "champion": history.champion}
        return acts[self.act_name](installed, use_case, by, self.why, act_id=act_id)
