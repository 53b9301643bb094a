"""Attempts: preempted runs end in the undisturbed model, and every machine is accounted for."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import mlflow
import pytest

from include.nightshift.errors import ConfigurationError, PreemptedTooOftenError, TrainingFailedError
from include.nightshift.spot.attempts import Attempt, ledger, train_on
from include.nightshift.spot.pools import LocalPool

pytestmark = pytest.mark.processes

Program = Callable[..., list[str]]
POLL = 0.05


def sha(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["model_sha256"]


def trained(folder: Path, program: Program, pool: LocalPool, sabotage: str = "") -> list[Attempt]:
    return train_on(pool, folder, poll_seconds=POLL, command=program(folder, sabotage))


@pytest.fixture
def undisturbed(make_run: Callable[..., Path], program: Program) -> str:
    folder = make_run("undisturbed")
    (attempt,) = trained(folder, program, LocalPool())
    assert attempt.outcome == "finished"
    return sha(folder)


def test_preempted_with_notice_and_without_the_model_is_the_undisturbed_one_byte_for_byte(
    make_run: Callable[..., Path], program: Program, undisturbed: str
) -> None:
    noticed, killed = make_run("noticed"), make_run("killed")
    gentle = trained(noticed, program, LocalPool(interruptions=(1, 2), grace_seconds=10))
    brutal = trained(killed, program, LocalPool(interruptions=(1, 2), notice=False))
    for attempts, folder in ((gentle, noticed), (brutal, killed)):
        assert [attempt.outcome for attempt in attempts] == ["preempted", "preempted", "finished"]
        assert [attempt.attempt for attempt in attempts] == [1, 2, 3]
        assert json.loads((folder / "result.json").read_text())["resumed_from_step"] >= 12
        assert sha(folder) == undisturbed
    assert "interrupted: the machine goes; the checkpoint of step" in (noticed / "log.txt").read_text()


def test_a_trainer_whose_seed_depends_on_the_process_fails_that_comparison(make_run: Callable[..., Path], program: Program) -> None:
    """Planted defect: the comparison above must be able to fail."""
    sabotage = "trees.chunk_seed = lambda seed, chunk: os.getpid()"
    quiet, killed = make_run("quiet"), make_run("killed")
    trained(quiet, program, LocalPool(), sabotage)
    trained(killed, program, LocalPool(interruptions=(2,), notice=False), sabotage)
    assert sha(killed) != sha(quiet)


def test_a_trainer_that_resumes_without_a_seed_per_chunk_and_from_one_long_call_fails_it_too(
    make_run: Callable[..., Path], program: Program
) -> None:
    """Planted defect: XGBoost's own continuation, one call for all the rounds that are missing."""
    sabotage = textwrap.dedent(
        """
        import xgboost
        def onward(margins, matrix, recipe, chunk, threads, after_round):
            # The state of the samplers lives in the process, and is lost with it.
            global booster, first
            if "booster" not in globals():
                if margins is not None:
                    matrix.set_base_margin(margins)
                booster, first = xgboost.Booster(trees._parameters(recipe, 0, threads), [matrix]), chunk
            begin, end = (recipe.rounds_per_chunk * (number - first) for number in (chunk, chunk + 1))
            for number in range(begin, end):
                booster.update(matrix, number)
            time.sleep(0.05)
            return bytes(booster[begin:end].save_raw("ubj")), booster.predict(matrix, output_margin=True), 0.0
        trees.boost = onward
        """
    )
    quiet, killed = make_run("quiet"), make_run("killed")
    trained(quiet, program, LocalPool(), sabotage)
    trained(killed, program, LocalPool(interruptions=(2,), notice=False), sabotage)
    assert sha(killed) != sha(quiet)


def test_the_real_command_tells_mlflow_once_even_when_killed_just_before_its_result(make_run: Callable[..., Path], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(url, url)
    experiment = client.create_experiment("card_fraud", artifact_location=(tmp_path / "artifacts").as_uri())
    folder = make_run(mlflow_url=url)
    lines: list[int] = []
    (attempt,) = train_on(LocalPool(), folder, poll_seconds=POLL, on_progress=lambda line: lines.append(line["step"]))
    result = json.loads((folder / "result.json").read_text())
    assert attempt.outcome == "finished"
    assert lines == [4, 8, 12, 16, 20, 24]
    assert [run.info.run_id for run in client.search_runs([experiment])] == [result["mlflow_run_id"]]
    # The same command finds its run again.
    (folder / "result.json").unlink()
    assert [attempt.attempt for attempt in train_on(LocalPool(), folder, poll_seconds=POLL)] == [1, 2]
    assert json.loads((folder / "result.json").read_text())["mlflow_run_id"] == result["mlflow_run_id"]
    assert len(client.search_runs([experiment])) == 1


def test_the_trainer_imports_neither_airflow_nor_spark(make_run: Callable[..., Path], program: Program) -> None:
    folder = make_run()
    sabotage = "sys.modules['airflow'] = sys.modules['pyspark'] = None  # importing either is an error from here on"
    assert trained(folder, program, LocalPool(), sabotage)[-1].outcome == "finished"


def test_a_program_that_fails_brings_its_last_words_and_is_not_tried_again(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    (folder / "log.txt").write_text("words of an earlier attempt\n")
    seen: list[Attempt] = []
    code = "import sys\nfor n in range(30): print('line', n)\nsys.exit('the disk is full')"
    with pytest.raises(TrainingFailedError, match="exited with status 1") as failure:
        train_on(LocalPool(), folder, poll_seconds=POLL, on_attempt=seen.append, command=[sys.executable, "-c", code])
    words = str(failure.value)
    assert words.endswith("the disk is full")
    assert "line 29" in words
    assert "line 10\n" not in words
    assert "earlier attempt" not in words
    assert [(attempt.attempt, attempt.outcome) for attempt in seen] == [(1, "failed")]


def test_a_kill_that_was_not_the_pools_is_a_failure_and_says_memory(make_run: Callable[..., Path]) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(TrainingFailedError, match=r"killed by SIGKILL.*memory(.|\n)*printed nothing"):
        train_on(LocalPool(), make_run(), poll_seconds=POLL, command=[sys.executable, "-c", code])


def test_a_good_exit_without_a_result_is_a_failure(make_run: Callable[..., Path]) -> None:
    with pytest.raises(TrainingFailedError, match="left no result"):
        train_on(LocalPool(), make_run(), poll_seconds=POLL, command=[sys.executable, "-c", "pass"])


def test_preemptions_have_a_budget_of_their_own_and_numbers_go_on_afterwards(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    lost = [sys.executable, "-c", "import sys; sys.exit(75)"]
    seen: list[Attempt] = []
    with pytest.raises(PreemptedTooOftenError, match="lost 3 machines of pool local, its budget is 2"):
        train_on(LocalPool(), folder, max_preemptions=2, poll_seconds=POLL, on_attempt=seen.append, command=lost)
    assert [attempt.attempt for attempt in seen] == [1, 2, 3]
    with pytest.raises(PreemptedTooOftenError):
        train_on(LocalPool(), folder, max_preemptions=0, poll_seconds=POLL, on_attempt=seen.append, command=lost)
    assert [attempt.attempt for attempt in seen] == [1, 2, 3, 4]
    assert ledger(folder) == seen


@dataclass
class Told:
    """A machine that ends as it was told, in a pool that costs money."""

    status: int
    preempted: bool = False
    name: str = "i-0abc"
    zone: str = "eu-west-1b"
    stopped: int = 0

    def poll(self) -> int:
        time.sleep(0.2)
        return self.status

    def stop(self) -> None:
        self.stopped += 1


class PricedPool:
    name = "priced"
    price_per_hour = 36.0

    def __init__(self, *machines: Told) -> None:
        self.machines = list(machines)

    def start(self, command: Sequence[str], run_folder: Path, attempt: int) -> Told:
        return self.machines[attempt - 1]


def test_machine_zone_cost_and_lost_work_are_accounted_for(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    pool = PricedPool(Told(0, preempted=True), Told(1))
    with pytest.raises(TrainingFailedError):
        train_on(pool, folder, poll_seconds=POLL)
    preempted, failed = ledger(folder)
    assert (preempted.machine, preempted.zone, preempted.pool, preempted.outcome) == ("i-0abc", "eu-west-1b", "priced", "preempted")
    assert failed.outcome == "failed"
    assert preempted.started_at.tzinfo == UTC
    seconds = (preempted.ended_at - preempted.started_at).total_seconds()
    assert 0.2 <= seconds < 5
    assert preempted.cost == pytest.approx(seconds * 0.01)
    assert preempted.lost_seconds == pytest.approx(seconds)  # no checkpoint: all of it
    assert [machine.stopped for machine in pool.machines] == [1, 1]


def test_lost_work_begins_at_the_last_complete_checkpoint(make_run: Callable[..., Path], program: Program) -> None:
    attempts = trained(make_run(), program, LocalPool(interruptions=(2,), notice=False))
    assert attempts[0].lost_seconds < (attempts[0].ended_at - attempts[0].started_at).total_seconds() / 2
    assert attempts[1].lost_seconds == 0


def test_a_folder_that_is_no_run_starts_no_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pin step"):
        train_on(LocalPool(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_caller_that_is_stopped_takes_the_machine_with_it(make_run: Callable[..., Path], tmp_path: Path, how: signal.Signals) -> None:
    folder = make_run()
    machine = "import os, pathlib, time; pathlib.Path('" + str(tmp_path / "machine") + "').write_text(str(os.getpid())); time.sleep(60)"
    caller = textwrap.dedent(
        f"""
        import pathlib, sys
        from include.nightshift.spot.attempts import train_on
        from include.nightshift.spot.pools import LocalPool
        train_on(LocalPool(), pathlib.Path({str(folder)!r}), command=[sys.executable, "-c", {machine!r}])
        """
    )
    with subprocess.Popen([sys.executable, "-c", caller], stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 20
        while not ((tmp_path / "machine").exists() and (tmp_path / "machine").read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(how)
        assert process.wait(20) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "machine").read_text()), 0)
    (attempt,) = ledger(folder)
    assert attempt.outcome == "preempted"


def test_an_error_of_the_callers_own_stops_the_machine_too(make_run: Callable[..., Path], program: Program) -> None:
    folder = make_run()
    before = signal.getsignal(signal.SIGTERM)

    def full(line: object) -> None:
        raise OSError("the table is full")

    with pytest.raises(OSError, match="the table is full"):
        train_on(LocalPool(), folder, poll_seconds=POLL, on_progress=full, command=program(folder))
    assert ledger(folder)[-1].outcome in ("preempted", "finished")
    assert signal.getsignal(signal.SIGTERM) == before
