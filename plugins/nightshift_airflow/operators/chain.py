"""Chain: whether the records of decisions are as they were written, and what vouches for them from now on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.nightshift import notify, settings
from nightshift_airflow.listeners import AUDIT

if TYPE_CHECKING:
    from airflow.sdk import Context


class ChainOperator(BaseOperator):
    """Checks all chains, also against the heads of the runs before, and leaves their heads for the audit log; fails where a row is wrong.

    The heads of a chain that does not hold are not left: the last ones that did go on vouching.
    """

    def execute(self, context: Context) -> Any:
        from include.nightshift.lakehouse import chain

        installed, ti = settings.load(), context["ti"]
        # Without a map index, it is all that were ever left: one alone, or a list.
        left = ti.xcom_pull(task_ids=self.task_id, key=AUDIT, include_prior_dates=True) or []
        kept = [each[chain.EVENT] for each in (left if isinstance(left, list) else [left]) if each]
        heads = chain.heads(installed)
        if found := chain.verify(installed, heads=kept):
            told = [str(fault) for fault in found]
            where = "`make chain` says it again"
            notify.warn(installed, f"{len(found)} records are not as they were written", told, where=where, failure=True)
            raise AirflowFailException("\n".join(told))
        ti.xcom_push(key=AUDIT, value={chain.EVENT: heads})
        self.log.info("%s", ", ".join(f"{table} {head[:20]}…" for table, head in heads.items()) or "no record is chained yet")
        return heads
