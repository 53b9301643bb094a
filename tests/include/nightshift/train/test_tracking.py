"""What MLflow is told: everything once, and a model that scores as its file does."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from include.nightshift.errors import TrainingFailedError
from include.nightshift.spot import attempts
from include.nightshift.train import __main__ as trainer
from include.nightshift.train import children, interruption, models, system, tracking, trees
from include.nightshift.train.recipes import Attention, Linear, Recipe, Trees
from include.nightshift.train.run import TrainingRun, judged, read_rows
from include.nightshift.train.search import outcome
from include.nightshift.train.space import Between, Search
from include.nightshift.train.system import Sample


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("mlflow")
    url = f"sqlite:///{home}/mlflow.db"
    # The experiment is made here, to have its artifacts beside the database; a server decides that by itself.
    mlflow.MlflowClient(url, url).create_experiment("card_fraud", artifact_location=(home / "artifacts").as_uri())
    return url


@pytest.fixture
def trained(make_run: Callable[..., Path], store: str) -> Path:
    """A run that its trainer has finished."""
    folder = make_run(mlflow_url=store)
    assert trainer.main(["--run", str(folder)]) == 0
    return folder


def test_one_run_holds_parameters_losses_tags_files_and_model(trained: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingRun.load(trained)
    model, matrix = (trained / "model/model.ubj").read_bytes(), read_rows(trained / "data/holdout", run).matrix
    client = mlflow.MlflowClient(store, store)

    # The worker dies with everything but the model told.
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_log_model", die)
        with pytest.raises(KeyboardInterrupt):
            tracking.track(trained)
    run_id = tracking.track(trained)
    assert tracking.track(trained) == run_id
    assert [found.info.run_id for found in client.search_runs([client.get_experiment_by_name("card_fraud").experiment_id])] == [run_id]

    told = client.get_run(run_id)
    assert told.info.status == "FINISHED"
    assert told.data.params["recipe"] == "trees"
    assert told.data.params["subsample"] == "0.7"
    assert told.data.params["train_last"] == "2018-07-24"
    assert told.data.params["version.gold.card_fraud_features"] == "12"
    assert told.data.tags["nightshift.run_id"] == run.run_id
    assert told.data.tags["nightshift.data_digest"] == "d1"
    assert told.data.tags["nightshift.model_sha256"] == models.sha256(trained / "model")
    assert told.data.tags["nightshift.resume_certificate"] == "complete"
    story = {file.path for file in client.list_artifacts(run_id, tracking.STORY)}
    assert story == {f"story/{name}" for name in ("certificate.json", "certificate.md", "data.json", "environment.json")}
    assert told.data.tags["mlflow.source.git.commit"] == "0123abc"
    assert told.data.tags["nightshift.git_dirty"] == "unknown"
    assert len(told.inputs.dataset_inputs) == 2
    lines = [json.loads(line) for line in (trained / "progress.jsonl").read_text().splitlines()]
    losses = [(point.step, point.value) for point in client.get_metric_history(run_id, "train_logloss")]
    assert losses == [(line["step"], pytest.approx(line["loss"])) for line in lines] != []
    files = {file.path for file in client.list_artifacts(run_id, tracking.ARTIFACTS)}
    assert files == {f"training/{name}" for name in ("model.ubj", "features.json", "reference.json", "probe.json", "example.json")}

    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    uri = f"runs:/{run_id}/{tracking.MODEL_NAME}"
    wanted = trees.predict(trees.load_booster(model), matrix, run.features)
    np.testing.assert_array_equal(trees.predict(mlflow.xgboost.load_model(uri), matrix, run.features), wanted)
    frame = pd.DataFrame(matrix.astype("float64"), columns=list(run.features))
    served = mlflow.pyfunc.load_model(uri)
    np.testing.assert_array_equal(served.predict(frame), wanted.astype("float32"))
    assert served.metadata.get_input_schema().input_names() == list(run.features)
    assert served.input_example is not None
    assert [tracked.name for tracked in mlflow.search_logged_models(output_format="list", experiment_ids=[told.info.experiment_id])].count(
        "model"
    ) == 1


def test_a_server_that_cannot_be_reached_is_an_error_and_not_a_silence(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    replace(TrainingRun.load(trained), mlflow_url="http://127.0.0.1:9").save(trained)
    with pytest.raises(mlflow.exceptions.MlflowException):
        tracking.track(trained)


def test_a_run_that_is_not_finished_is_not_told_of(make_run: Callable[..., Path], store: str) -> None:
    with pytest.raises(TrainingFailedError, match="train it to its end"):
        tracking.track(make_run(mlflow_url=store))


def test_of_a_searched_run_the_recipe_that_was_found_is_told_also_where_nothing_but_its_result_came_home(
    make_run: Callable[..., Path], store: str
) -> None:
    search = Search(space={"reg_lambda": Between(0.01, 1000.0, log=True)}, trials=3)
    folder = make_run(
        count=1620, nights=54, run_id="searched", mlflow_url=store, recipe=Linear(name="linear", reg_lambda=1000, search=search)
    )
    assert trainer.main(["--run", str(folder)]) == 0
    found = outcome(folder)
    (folder / "search.json").unlink()
    run_id = tracking.track(folder)
    told = mlflow.MlflowClient(store, store).get_run(run_id).data
    assert found.recipe != Linear(name="linear", reg_lambda=1000)
    assert told.params["reg_lambda"] == str(found.recipe.told()["reg_lambda"])
    assert "search" not in told.params
    assert told.metrics["validation_average_precision"] == pytest.approx(found.average_precision)
    trials = _children(store, run_id, "nightshift.trial")
    assert [trial.data.metrics["average_precision"] for trial in trials] == pytest.approx(
        [trial.average_precision for trial in found.trials]
    )
    assert [trial.data.params for trial in trials] == [{"reg_lambda": str(trial.parameters["reg_lambda"])} for trial in found.trials]
    assert [trial.data.tags["nightshift.state"] for trial in trials] == ["finished"] * 3
    assert {"seconds", "cost"} <= trials[0].data.metrics.keys()


def _ledger(folder: Path, *outcomes: str, **fields: object) -> None:
    """Enter machines of ten minutes each, one after the other, in the run's ledger."""
    began = datetime(2018, 8, 15, 3, tzinfo=UTC)
    for number, ended_as in enumerate(outcomes, start=1):
        line = {
            "run_id": TrainingRun.load(folder).run_id,
            "attempt": number,
            "pool": "ec2",
            "machine": f"i-{number}",
            "kind": "g5.xlarge",
            "zone": "eu-west-1b",
            "on_demand": False,
            "started_at": (began + timedelta(minutes=10 * number)).isoformat(),
            "ended_at": (began + timedelta(minutes=10 * number + 10)).isoformat(),
            "outcome": ended_as,
            "seconds": 600.0,
            "lost_seconds": 0.0 if ended_as == "finished" else 45.0,
            "cost": 0.05,
            "on_demand_cost": 0.2,
        }
        attempts.append(folder / attempts.LEDGER, line | fields)


def _children(store: str, run_id: str, tag: str) -> list[Any]:
    client = mlflow.MlflowClient(store, store)
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return sorted((child for child in found if tag in child.data.tags), key=lambda child: int(child.data.tags[tag]))


def test_every_machine_is_a_child_run_once_however_often_the_telling_is_killed(
    make_run: Callable[..., Path], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(run_id="preempted", mlflow_url=store, recipe=Linear(name="linear", steps=2))
    assert trainer.main(["--run", str(folder)]) == 0
    _ledger(folder, "preempted", "out_of_memory", "finished")
    seen: set[str] = set()

    # Killed once before each call that makes, fills or ends a run.
    def dying(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(client: object, *arguments: Any, **named: Any) -> Any:
            # MLflow's own calls, as it logs the model, name the run.
            occasion = f"{name} {arguments[0] if arguments else named['run_id']} {named.get('run_name')} {sorted(named)}"
            if occasion not in seen:
                seen.add(occasion)
                raise KeyboardInterrupt
            return whole(client, *arguments, **named)

        return call

    run_id = None
    with monkeypatch.context() as patch:
        for name in ("create_run", "log_batch", "log_inputs", "set_terminated"):
            patch.setattr(mlflow.MlflowClient, name, dying(name, getattr(mlflow.MlflowClient, name)))
        for _ in range(30):
            with suppress(KeyboardInterrupt):
                run_id = tracking.track(folder)
    assert 12 <= len(seen) < 30
    assert any(occasion.startswith("log_inputs") for occasion in seen)
    assert run_id is not None
    assert tracking.track(folder) == run_id

    told = _children(store, run_id, "nightshift.attempt")
    assert [child.data.tags["nightshift.outcome"] for child in told] == ["preempted", "out_of_memory", "finished"]
    assert [child.info.status for child in told] == ["KILLED", "FAILED", "FINISHED"]
    first = told[0]
    tags = {name: first.data.tags[f"nightshift.{name}"] for name in ("machine", "zone", "kind")}
    assert tags == {"machine": "i-1", "zone": "eu-west-1b", "kind": "g5.xlarge"}
    assert first.data.metrics == {"seconds": 600.0, "lost_seconds": 45.0, "cost": 0.05, "on_demand_cost": 0.2}
    began = datetime(2018, 8, 15, 3, 10, tzinfo=UTC)
    assert first.info.start_time == began.timestamp() * 1000
    assert first.info.end_time - first.info.start_time == 600_000
    client = mlflow.MlflowClient(store, store)
    assert len(client.get_metric_history(first.info.run_id, "cost")) == 1
    parent = client.get_run(run_id).data.metrics
    wanted = {"attempts": 3, "preemptions": 1, "spot_seconds": 1800, "lost_seconds": 90, "cost": 0.15, "on_demand_cost": 0.6, "saved": 0.75}
    assert {name: parent[name] for name in wanted} == pytest.approx(wanted)


def test_each_machine_is_told_how_it_fared_and_what_no_ledger_knows_goes_to_the_run(
    make_run: Callable[..., Path], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(run_id="fared", mlflow_url=store, recipe=Linear(name="linear", steps=3))
    sampled = system.sampled
    monkeypatch.setattr(system, "sampled", lambda folder, attempt: sampled(folder, attempt, every_seconds=0.05))
    interruption.give_notice(folder, datetime.now(UTC) + timedelta(hours=1))
    assert trainer.main(["--run", str(folder), "--attempt", "1", "--at-risk-seconds", "0"]) == interruption.INTERRUPTED
    with (folder / "system.jsonl").open("a") as file:
        file.write('{"at": "2018-08-15T03:10:00+00:00", "atte')  # it was killed as it wrote
    assert trainer.main(["--run", str(folder), "--attempt", "2", "--at-risk-seconds", "0"]) == interruption.INTERRUPTED
    interruption.withdraw_notice(folder)
    assert trainer.main(["--run", str(folder)]) == 0
    _ledger(folder, "preempted", "preempted")
    run_id = tracking.track(folder)
    told = [child.info.run_id for child in _children(store, run_id, "nightshift.attempt")]
    client = mlflow.MlflowClient(store, store)
    taken = system.samples(folder)
    assert [sample.attempt for sample in taken] == sorted((sample.attempt for sample in taken), key=lambda number: number or 3)
    for attempt, one in zip((1, 2, None), (*told, run_id), strict=True):
        own = [sample for sample in taken if sample.attempt == attempt]
        assert own
        for name in ("cpu_utilization_percentage", "process_memory_usage_megabytes", "disk_available_megabytes"):
            points = client.get_metric_history(one, f"system/{name}")
            assert [(point.step, point.value) for point in points] == [(step, sample.figures[name]) for step, sample in enumerate(own)]
            assert [point.timestamp for point in points] == [children.milliseconds(sample.at) for sample in own]


def test_of_a_machine_that_trained_for_long_means_are_told() -> None:
    began = datetime(2018, 8, 15, 3, tzinfo=UTC)

    def taken(count: int) -> list[Sample]:
        # The GPU tells nothing for a while.
        return [
            Sample(began + timedelta(seconds=second), 1, {"cpu": float(second)} | ({"gpu_0": 7.0} if second > 2 else {}))
            for second in range(count)
        ]

    def told(count: int, name: str) -> list[tuple[int, float, int]]:
        found = [point for point in children.points(taken(count)) if point.key == f"system/{name}"]
        return [(point.step, point.value, point.timestamp - children.milliseconds(began)) for point in found]

    assert children.points([]) == []
    assert told(children.SAMPLES, "cpu") == [(step, step, 1000 * step) for step in range(children.SAMPLES)]
    longer = told(2 * children.SAMPLES + 1, "cpu")
    assert longer[:2] == [(0, 1.0, 2000), (1, 4.0, 5000)]
    assert len(longer) == 334 <= children.SAMPLES
    assert longer[-1] == (333, 999.5, 1_000_000)
    assert told(2 * children.SAMPLES + 1, "gpu_0")[0] == (1, 7.0, 5000)


def test_the_story_tells_of_the_rows_and_the_run_names_the_tables_that_it_read(
    make_run: Callable[..., Path], store: str, tmp_path: Path
) -> None:
    folder = make_run(run_id="inputs", mlflow_url=store, recipe=Linear(name="linear", steps=2), git_dirty=True)
    manifest = {"versions": {"gold.card_fraud_features": 12, "silver.fraud_labels": 9}, "rows": {"train": 3000}, "digest": "d1"}
    (folder / "data/manifest.json").write_text(json.dumps(manifest | {"verdicts": "day <= date'2018-08-14'"}))
    assert trainer.main(["--run", str(folder)]) == 0
    run_id = tracking.track(folder)
    place = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="story/data.json", dst_path=str(tmp_path), tracking_uri=store)
    data = json.loads(Path(place).read_text())
    assert data == {**data, **manifest}
    assert data["verdicts"] == "day <= date'2018-08-14'"
    part = folder / "data/train/part-00000.parquet"
    assert data["files"]["data/train/part-00000.parquet"] == hashlib.sha256(part.read_bytes()).hexdigest()
    assert len(data["files"]) == len(list((folder / "data").rglob("*.parquet")))

    told = mlflow.MlflowClient(store, store).get_run(run_id)
    assert told.data.tags["nightshift.git_dirty"] == "true"
    read = {found.dataset.name: found.dataset for found in told.inputs.dataset_inputs}
    assert {name: dataset.digest for name, dataset in read.items()} == {"gold.card_fraud_features": "12", "silver.fraud_labels": "9"}
    assert {tag.value for found in told.inputs.dataset_inputs for tag in found.tags} == {"training"}
    source = mlflow.data.get_source(read["silver.fraud_labels"])
    assert (source.delta_table_name, source.delta_table_version) == ("silver.fraud_labels", 9)


def test_what_cost_nothing_on_demand_saved_no_share_and_what_ran_on_demand_is_no_spot_second(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    _ledger(folder, "preempted", on_demand_cost=0.0)
    assert "saved" not in children.sums(attempts.ledger(folder))
    _ledger(folder, "finished", on_demand=True)
    assert children.sums(attempts.ledger(folder))["spot_seconds"] == 600
    assert children.sums([]) == {}


_FRESH = """
import json, sys
sys.modules["airflow"] = sys.modules["pyspark"] = None
import mlflow.pyfunc, pandas as pd
served = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps(served.predict(pd.read_parquet(sys.argv[2])).tolist()))
"""


@pytest.mark.parametrize(
    "recipe",
    [
        Trees(name="trees", rounds=8, rounds_per_chunk=4, max_bin=256),
        Linear(name="linear", steps=3),
        Attention(name="sequence", epochs=1, width=16, heads=2, bins=8, blocks=1, past_rows=4, window=16),
    ],
    ids=lambda recipe: recipe.kind,
)
def test_a_process_without_airflow_spark_and_this_repository_gives_the_same_scores(
    make_run: Callable[..., Path], store: str, tmp_path: Path, recipe: Recipe
) -> None:
    folder = make_run(run_id=f"fresh-{recipe.kind}", mlflow_url=store, recipe=recipe, count=600)
    assert trainer.main(["--run", str(folder)]) == 0
    run, model = TrainingRun.load(folder), models.load(folder / "model")
    rows = judged(folder, run, None).rows
    beside = [run.key, run.entity, run.event_time] if model.context else []
    frame = rows.select([*beside, *run.features]).to_pandas()
    if model.context:
        frame[run.event_time] = frame[run.event_time].dt.tz_localize(None)
    frame.to_parquet(tmp_path / "rows.parquet")
    told = mlflow.MlflowClient(store, store).get_run(tracking.track(folder))
    assert told.data.tags["nightshift.resume_certificate"] == "complete"
    uri = f"models:/{told.outputs.model_outputs[0].model_id}"
    place = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "fetched"), tracking_uri=store)
    command = [sys.executable, "-c", _FRESH, place, str(tmp_path / "rows.parquet")]
    # Somewhere else and without PYTHONPATH: the code that reads the model comes along with it.
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # MLflow gives the trees' scores as 32-bit numbers.
    rounding = max(model.rounding, 1e-7 if recipe.kind == Trees.kind else 0.0)
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), model.score(rows), rtol=0, atol=rounding)
