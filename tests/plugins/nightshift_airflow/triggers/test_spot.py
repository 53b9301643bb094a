"""The trigger that takes a run's turns: what it tells in the task's log."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from include.nightshift.operate.environment import environment, prepare_home
from include.nightshift.settings import ROOT, Settings
from include.nightshift.train.run import TrainingRun
from include.nightshift.train.space import Between, Search
from include.usecases.card_fraud.usecase import USE_CASE

# In a process of its own, because Airflow takes over the logging of whoever imports it.
PROGRAM = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from include.nightshift.spot.steering import Progress
from include.nightshift.train.search import Trial
from nightshift_airflow.triggers.spot import SpotTrigger

folder, printed = Path(sys.argv[1]), []

class Told(SpotTrigger):
    log = SimpleNamespace(info=lambda text, *values: printed.append(text % values))

def tell():
    # Twice: news is told once.
    trigger._tell(folder, news)
    trigger._tell(folder, news)

trigger, news = Told(str(folder), {}), Progress(folder)
tell()
for number in range(3):
    place = folder / "trials" / str(number)
    place.mkdir(parents=True)
    (place / "run.json").touch()
    tell()
    trial = Trial(number=number, parameters={}, state="finished", average_precision=0.5, seconds=100.0 + number, cost=0.0)
    (place / "result.json").write_text(json.dumps(asdict(trial) | {"fingerprint": {}}))
(folder / "search.json").touch()
(folder / "progress.jsonl").write_text(json.dumps({"step": 4, "of": 12, "loss": 0.5, "seconds": 2.0}) + chr(10))
tell()
print("TOLD" + json.dumps(printed))
"""


def test_the_log_tells_the_trial_and_an_estimate_and_then_the_steps(tmp_path: Path) -> None:
    recipe = replace(USE_CASE.recipes[0], search=Search(space={"learning_rate": Between(0.02, 0.4)}, trials=3))
    TrainingRun(
        run_id="r", use_case="card_fraud", recipe=recipe, features=("a",), key="k", entity="e", event_time="t", target="y", versions={},
        data_digest="d", git_commit="c", mlflow_url="", experiment="card_fraud", train_first=date(2018, 6, 1), train_last=date(2018, 7, 24),
        holdout_first=None, holdout_last=None, as_of=date(2018, 8, 14),
    ).save(tmp_path / "r")  # fmt: skip
    settings = Settings(home=tmp_path / "home")
    prepare_home(settings)
    variables = environment(settings) | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"}
    line = [sys.executable, "-c", PROGRAM, str(tmp_path / "r")]
    done = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    estimate = "until the search ends (an estimate by these)"
    assert json.loads(done.stdout.rpartition("TOLD")[2]) == [
        "trial 0 runs, 0 of at most 3 are done",
        f"trial 1 runs, 1 of at most 3 are done; about 200 s {estimate}",
        f"trial 2 runs, 2 of at most 3 are done; about 100 s {estimate}",
        "step 4 of 12: training loss 0.50000, 2.0 s; about 4 s to go",
    ]
