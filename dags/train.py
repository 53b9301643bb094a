"""Train challengers on spot, choose one, judge it, have it approved and promote it.

**Fires** on the asset `ops.retrain_requests`, over REST, or by hand. **Params**: `as_of`, the last night that is known
(`last`: the newest that both feeds have brought); `question`, what a model that is asked for by hand has to show, and `changed_on`
(the request of a watch or of an erasure has its own); `recipes`, which to train; `hours` and `max_cost`, what the training may take,
in time and money; `preemptions`, machines to take away on purpose, for a rehearsal.
**Reads** features and matured verdicts at pinned versions. **Writes** `<home>/runs/<run id>`, the MLflow run and model
version, `ops.leak_scans`, `ops.training_attempts`, `ops.gate_reports`, `ops.approvals`, `ops.champion_history`, the alias `champion`.

**Waits** at `train_…` for machines and at `approve` (or `refer`) for a human (Required Actions); no worker slot is held. **When it fails.**
*pin_…* skipped: nobody asked for the recipe. *train_…*: the program's own fault, its last lines are in the message, or
*SpotTermsError*: time or money is spent, trigger again with more; a machine taken away is no failure. *choose*, where several recipes are
trained, leaves out one that failed, and fails only without any. *gate* skipped: refused, with the reasons in the log, in MLflow and in
`ops.gate_reports`. *refer*: a champion that may not stay has a successor that was refused, and nobody has said in time what scores instead;
clear it, and answer. *promote*: the yes was of whoever started the run, let rows out of quarantine that it learnt from, wrote of the
recipe, or is no approver; clear *approve* and let somebody else answer. *NotMaturedError*: too early; wait, or bring older nights by
`backfill`. A request that was not asked by hand stays open, and a later night's watch tells of it again.
**Rerun?** Safe: the same inputs are the same run, which resumes from its checkpoints; promoting twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, Param, PartitionedAssetTimetable, TaskGroup, TriggerRule
from nightshift_airflow import assets
from nightshift_airflow.defaults import TRAINING_POOL, night_dag
from nightshift_airflow.operators.promote import ChooseOperator, CloseOperator, GateOperator, PromoteOperator, assigned
from nightshift_airflow.operators.refer import ReferOperator, SettleOperator
from nightshift_airflow.operators.spot import SpotTrainingOperator, SweepOperator
from nightshift_airflow.operators.train import LAST_WHOLE_NIGHT, ClaimOperator, PinOperator, ScanOperator

from include.nightshift import settings, usecase
from include.nightshift.promote.proof import APPROVE, REJECT
from include.nightshift.promote.question import ASKABLE
from include.nightshift.usecase import UseCase

COMMENT = Param("", type="string", description="Kept beside the answer.")
AS_OF = "{{ ti.xcom_pull(task_ids='claim')['as_of'] }}"
SUBJECT = "Promote version {{ ti.xcom_pull(task_ids='gate')['model_version'] }}?"
BODY = """
{% set report = ti.xcom_pull(task_ids='gate') -%}
{% set choice = ti.xcom_pull(task_ids='choose') -%}
Asked to **{{ report['question'] }}**: version **{{ report['model_version'] }}**, by recipe {{ choice['recipe'] }}, against
{{ report['champion_version'] or 'nobody (the first model)' }}, on held-out nights that it has never seen.

{% for reason in report['reasons'] + choice['reasons'] %}- {{ reason }}
{% endfor %}
{% set hands = [dag_run.triggering_user_name, report['released_by'] | join(', '), (report['authors'] or []) | join(', ')] -%}
Who has a hand in it does not answer: {{ hands | select | join(', ') or 'nobody has' }}
{%- if report['authors'] is none %}; who wrote of the recipe is not known here{% endif %}.

[Report]({{ report['page'] }}) `{{ report['digest'] }}`
"""


REFERRED = """
Version {{ (ti.xcom_pull(task_ids='gate', key='report') or {}).get('model_version') }} was refused: what scores from now on?
"""
CASE = """
{% set report = ti.xcom_pull(task_ids='gate', key='report') or {} -%}
The champion, version **{{ report.get('champion_version') }}**, may not stay: somebody who is to be forgotten was among its rows, or it is
unsafe. Its successor, version **{{ report.get('model_version') }}**, was refused:

{% for reason in report.get('reasons') or [] %}- {{ reason }}
{% endfor %}
*Keep the champion* until somebody trains another, or *return to the baseline*, the linear model that was judged beside it.

[Report]({{ report.get('page') }}) `{{ report.get('digest') }}`
"""


def params(use_case: UseCase, local_preemptions: int) -> dict[str, Param]:
    """All have defaults: a run that an asset event starts has nothing else."""
    night = r"^(last|\d{4}-\d{2}-\d{2})$"
    return {
        "as_of": Param(LAST_WHOLE_NIGHT, type="string", pattern=night, description="Last night that is known, or last."),
        "question": Param("improve", enum=[str(kind) for kind in ASKABLE], description="What the new model has to show."),
        "changed_on": Param(None, type=["string", "null"], pattern=night, description="With recover: first night of the changed world."),
        "recipes": Param(
            [recipe.name for recipe in use_case.trained],
            type="array",
            items={"type": "string", "enum": [recipe.name for recipe in use_case.recipes]},
            minItems=1,
            uniqueItems=True,
            description="Which recipes to train; the best of them goes before the gate.",
        ),
        "hours": Param(12, type="number", exclusiveMinimum=0, maximum=720, description="Deadline of the training, from the run's start."),
        "max_cost": Param(None, type=["number", "null"], exclusiveMinimum=0, description="What the training may cost; empty: no limit."),
        "preemptions": Param(local_preemptions, type="integer", minimum=0, maximum=5, description="Machines to take away on purpose."),
    }


def train(use_case: UseCase, local_preemptions: int, approvers: Sequence[str]) -> None:
    arguments = night_dag(use_case, "train", __doc__) | {"max_active_runs": 1}
    # The watch runs in a night's partition, so its event bears the night as key, and a plain asset schedule is deaf to those.
    on_request = PartitionedAssetTimetable(assets=assets.retrain_requests(use_case))
    with DAG(**arguments, schedule=on_request, params=params(use_case, local_preemptions)):
        on_night = {"use_case": use_case.name, "nights": AS_OF}
        claim = ClaimOperator(
            task_id="claim",
            use_case=use_case.name,
            as_of="{{ params.as_of }}",
            question="{{ params.question }}",
            changed_on="{{ params.changed_on or '' }}",
            recipes="{{ params.recipes | join(',') }}",
        )
        scan = ScanOperator(task_id="scan", **on_night)
        lanes = {recipe.name: f"train_{recipe.name}" for recipe in use_case.recipes}
        # One that failed, or that nobody asked for, does not stop the others; that there is one to choose, it sees to itself. A run that
        # claimed nothing does not come here: `claim` is a setup.
        choose = ChooseOperator(
            task_id="choose",
            claim_task_id="claim",
            train_task_ids=lanes,
            trigger_rule=TriggerRule.ALL_DONE,
            **on_night,
        )
        for recipe, task_id in lanes.items():
            folder = f"{{{{ ti.xcom_pull(task_ids='pin_{recipe}') }}}}"
            with TaskGroup(recipe, prefix_group_id=False):
                pin = PinOperator(task_id=f"pin_{recipe}", recipe=recipe, claim_task_id="claim", **on_night)
                spot = SpotTrainingOperator(
                    task_id=task_id,
                    run_folder=folder,
                    hours="{{ params.hours }}",
                    max_cost="{{ params.max_cost }}",
                    preemptions="{{ params.preemptions }}",
                    pool=TRAINING_POOL,
                )
                pin >> spot >> SweepOperator(task_id=f"sweep_{recipe}", run_folder=folder).as_teardown()
            claim >> pin
            spot >> choose
        gate = GateOperator(task_id="gate", choose_task_id="choose", **on_night)
        asks = use_case.gate.approval == "human"
        promote = PromoteOperator(task_id="promote", gate_task_id="gate", approve_task_id="approve" if asks else None, **on_night)
        pins = [f"pin_{recipe}" for recipe in lanes]
        refer = ReferOperator(
            task_id="refer",
            subject=REFERRED.strip(),
            body=CASE,
            gate_task_id="gate",
            approvers=approvers,
            hours=use_case.gate.approval_hours,
            params={"comment": COMMENT},
            trigger_rule=TriggerRule.NONE_FAILED,
            retries=3,
        )
        settle = SettleOperator(task_id="settle", gate_task_id="gate", refer_task_id="refer", **on_night)
        told = {f"{task_id}_task_id": task_id for task_id in ("claim", "gate", "promote", "settle")}
        close = CloseOperator(task_id="close", pin_task_ids=pins, **told, **on_night)
        claim >> scan
        [choose, scan] >> gate
        if asks:
            gate >> approve(use_case, approvers) >> promote
        else:
            gate >> promote
        gate >> refer >> settle
        [promote, settle] >> close.as_teardown(setups=claim)


def approve(use_case: UseCase, approvers: Sequence[str]) -> HITLOperator:
    """The human's task. Nobody in time is a no; a yes of somebody who has a hand in it does not count (`promote.approval`)."""
    return HITLOperator(
        task_id="approve",
        subject=SUBJECT,
        body=BODY,
        options=[APPROVE, REJECT],
        defaults=[REJECT],
        params={"comment": COMMENT},
        assigned_users=assigned(approvers),
        response_timeout=timedelta(hours=use_case.gate.approval_hours),
        # Because Airflow 3.3.2 may fail an answer that comes within a second of the question.
        retries=3,
        execution_timeout=None,
    )


installed = settings.load()
for registered in usecase.registered(installed):
    train(registered, installed.local_preemptions, installed.approvers)
