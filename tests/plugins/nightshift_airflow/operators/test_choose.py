"""A use case with two candidates: each is pinned and trained by itself, and what became of both decides which one the gate sees."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from include.nightshift.operate.environment import prepare_home
from include.nightshift.settings import ROOT, Settings
from include.nightshift.train.run import TrainingRun
from include.nightshift.usecase import UseCase
from tests import apart

# In a process of its own, because Airflow takes over the logging of whoever imports it.
PROGRAM = """
import json, sys
from dataclasses import replace
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
from include.usecases.card_fraud import usecase as card_fraud

card_fraud.USE_CASE = replace(card_fraud.USE_CASE, candidates=("trees", "linear"))
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
[dag] = bag.dags.values()
answer = {"after": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks}, "rule": dag.get_task("choose").trigger_rule.value}
for name, left in json.loads(sys.argv[2]).items():
    claimed = {"claim": {"recipes": ["trees", "linear"]}}
    context = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: (claimed | left).get(task_ids))}
    try:
        answer[name] = dag.get_task("choose").work(context, None, card_fraud.USE_CASE, [])
    except Exception as error:
        answer[name] = f"{type(error).__name__}: {error}"
print("ANSWER" + json.dumps(answer))
"""


def run_of(folder: Path, use_case: UseCase, recipe: str, figure: float) -> dict[str, Any]:
    """A finished candidate, and what its training task returned."""
    [pinned] = [one for one in replace(use_case, candidates=("trees", "linear")).trained if one.name == recipe]
    nights = {"train_first": date(2018, 6, 1), "train_last": date(2018, 7, 24)}
    held = {"holdout_first": date(2018, 8, 1), "holdout_last": date(2018, 8, 7), "as_of": date(2018, 8, 14)}
    TrainingRun(
        run_id=recipe, use_case="card_fraud", recipe=pinned, features=("a",), key="k", entity="e", event_time="t", target="y", versions={},
        data_digest="d", git_commit="c", mlflow_url="", experiment="card_fraud", **nights, **held,
    ).save(folder)  # fmt: skip
    found = {
        "recipe": pinned.varied({}).told(),
        "average_precision": figure,
        "validation": ["2018-07-18", "2018-07-24"],
        "ended": "",
        "trials": [],
    }
    (folder / "search.json").write_text(json.dumps(found))
    return {"run_folder": str(folder), "model_version": recipe}


def test_the_better_candidate_goes_on_and_one_that_failed_stops_nobody(tmp_path: Path, use_case: UseCase) -> None:
    trees, linear = (run_of(tmp_path / name, use_case, name, figure) for name, figure in (("trees", 0.61), ("linear", 0.64)))
    left = {
        "both": {"train_trees": trees, "train_linear": linear},
        "one": {"train_trees": trees},
        "none": {},
    }
    settings = Settings(home=tmp_path / "home")
    prepare_home(settings)
    answer = apart.run(settings, "-c", PROGRAM, str(ROOT / "dags" / "train.py"), json.dumps(left)).answer
    after = answer["after"]
    assert after["choose"] == sorted(f"train_{recipe.name}" for recipe in use_case.recipes)
    for recipe in ("trees", "linear"):
        assert (after[f"pin_{recipe}"], after[f"train_{recipe}"]) == (["claim"], [f"pin_{recipe}"])
        assert after[f"sweep_{recipe}"] == [f"train_{recipe}"]
    assert after["gate"] == ["choose", "scan"]
    assert answer["rule"] == "all_done", "all_done_min_one_success is skipped as soon as one lane is"
    assert (answer["both"]["model_version"], answer["both"]["run_folder"]) == ("linear", str(tmp_path / "linear"))
    assert answer["both"]["reasons"] == [
        "trees: average precision 0.6100 on the last training nights, -0.0300 against linear",
        "linear: average precision 0.6400 on the last training nights, chosen",
    ]
    assert (answer["one"]["recipe"], answer["one"]["reasons"][1]) == ("trees", "linear: not trained, see its task's log")
    assert answer["none"].startswith("AirflowFailException: none of trees, linear was trained")
