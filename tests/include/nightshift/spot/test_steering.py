"""Steering: preempted runs end in the undisturbed model, one machine at a time, whoever takes the next turn; and what a run may take."""

import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.nightshift.errors import (
    ConfigurationError,
    NoCapacityError,
    SpotTermsError,
    TrainingFailedError,
    TrainingOutOfMemoryError,
    TrainingStalledError,
)
from include.nightshift.settings import ROOT
from include.nightshift.spot import steering
from include.nightshift.spot.attempts import Attempt, ledger
from include.nightshift.spot.local import LocalPool
from include.nightshift.spot.pools import Machine, Order, Prices, Sight, Word
from include.nightshift.spot.steering import Terms, train_on, turn
from include.nightshift.train.recipes import Trees
from include.nightshift.train.search import Trial
from include.nightshift.train.space import Between, Search

Program = Callable[..., list[str]]
POLL = 0.05
A, B = "eu-west-1a/g5.xlarge", "eu-west-1b/g5.xlarge"


def terms(hours: float = 1.0, **more: Any) -> Terms:
    return Terms(
        **{"deadline": datetime.now(UTC) + timedelta(hours=hours), "at_risk_seconds": 0, "tick_seconds": 0.5, "work_hours": 0.01} | more
    )


def sha(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["model_sha256"]


def trained(folder: Path, program: Program, sabotage: str = "", **pool: Any) -> list[Attempt]:
    return train_on(LocalPool(program=program(folder, sabotage), **pool), folder, terms(), poll_seconds=POLL)


def running(folder: Path, code: str, **more: Any) -> list[Attempt]:
    """Trains with a program of these lines."""
    return train_on(LocalPool(program=[sys.executable, "-c", code]), folder, terms(), poll_seconds=POLL, **more)


@pytest.fixture
def undisturbed(make_run: Callable[..., Path], program: Program) -> str:
    folder = make_run("undisturbed")
    (attempt,) = trained(folder, program)
    assert attempt.outcome == "finished"
    return sha(folder)


@pytest.mark.processes
def test_preempted_with_notice_and_without_the_model_is_the_undisturbed_one_byte_for_byte(
    make_run: Callable[..., Path], program: Program, undisturbed: str
) -> None:
    noticed, killed = make_run("noticed"), make_run("killed")
    gentle = trained(noticed, program, interruptions=(1, 2), grace_seconds=10)
    brutal = trained(killed, program, interruptions=(1, 2), notice=False)
    for attempts, folder in ((gentle, noticed), (brutal, killed)):
        assert [attempt.outcome for attempt in attempts] == ["preempted", "preempted", "finished"]
        assert [attempt.attempt for attempt in attempts] == [1, 2, 3]
        assert json.loads((folder / "result.json").read_text())["resumed_from_step"] >= 12
        assert sha(folder) == undisturbed
    assert "interrupted: the machine goes; the checkpoint of step" in (noticed / "log.txt").read_text()


@pytest.mark.processes
def test_a_trainer_whose_seed_depends_on_the_process_fails_that_comparison(make_run: Callable[..., Path], program: Program) -> None:
    """Planted defect: the comparison above must be able to fail."""
    sabotage = "trees.chunk_seed = lambda seed, chunk: os.getpid()"
    quiet, killed = make_run("quiet"), make_run("killed")
    trained(quiet, program, sabotage)
    trained(killed, program, sabotage, interruptions=(2,), notice=False)
    assert sha(killed) != sha(quiet)


@pytest.mark.processes
def test_a_trainer_that_resumes_without_a_seed_per_chunk_and_from_one_long_call_fails_it_too(
    make_run: Callable[..., Path], program: Program
) -> None:
    """Planted defect: XGBoost's own continuation, one call for all the rounds that are missing."""
    sabotage = textwrap.dedent(
        """
        import xgboost
        def onward(margins, matrix, recipe, chunk, threads, after_round, device):
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
    trained(quiet, program, sabotage)
    trained(killed, program, sabotage, interruptions=(2,), notice=False)
    assert sha(killed) != sha(quiet)


@pytest.mark.processes
def test_the_real_command_finishes_and_its_progress_is_told_line_by_line(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    lines: list[tuple[int, int]] = []
    (attempt,) = train_on(
        LocalPool(), folder, terms(), poll_seconds=POLL, on_progress=lambda line: lines.append((line["step"], line["of"]))
    )
    assert attempt.outcome == "finished"
    assert lines == [(step, 24) for step in (4, 8, 12, 16, 20, 24)]
    assert steering.seconds_left(folder) == 0
    assert train_on(LocalPool(), folder, terms(), poll_seconds=POLL) == [attempt], "it is finished, and starts nothing"


@pytest.mark.processes
def test_the_trainer_imports_neither_airflow_nor_spark(make_run: Callable[..., Path], program: Program) -> None:
    folder = make_run()
    sabotage = "sys.modules['airflow'] = sys.modules['pyspark'] = None  # importing either is an error from here on"
    assert trained(folder, program, sabotage)[-1].outcome == "finished"


@pytest.mark.processes
def test_a_program_that_fails_brings_its_last_words_and_is_not_tried_again(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    (folder / "log.txt").write_text("words of an earlier attempt\n")
    seen: list[Attempt] = []
    with pytest.raises(TrainingFailedError, match="exited with status 1") as failure:
        running(folder, "import sys\nfor n in range(30): print('line', n)\nsys.exit('the disk is full')", on_attempt=seen.append)
    words = str(failure.value)
    assert words.endswith("the disk is full")
    assert "line 29" in words
    assert "line 10\n" not in words
    assert "earlier attempt" not in words
    assert [(attempt.attempt, attempt.outcome) for attempt in seen] == [(1, "failed")]
    assert ledger(folder) == seen


@pytest.mark.processes
def test_a_kill_that_was_not_the_pools_means_that_memory_ran_out(make_run: Callable[..., Path]) -> None:
    with pytest.raises(TrainingOutOfMemoryError, match=r"killed by SIGKILL.*memory(.|\n)*printed nothing(.|\n)*fewer nights"):
        running(make_run(), "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


@pytest.mark.processes
def test_a_good_exit_without_a_result_is_a_failure(make_run: Callable[..., Path]) -> None:
    with pytest.raises(TrainingFailedError, match="left no result"):
        running(make_run(), "pass")


@pytest.mark.processes
def test_a_caller_that_is_killed_leaves_the_machine_and_the_next_one_goes_on_with_it(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    lives = "import time; time.sleep(60)"
    caller = textwrap.dedent(
        f"""
        import pathlib, sys
        from datetime import UTC, datetime, timedelta
        from include.nightshift.spot.local import LocalPool
        from include.nightshift.spot.steering import Terms, train_on
        terms = Terms(deadline=datetime.now(UTC) + timedelta(hours=1), work_hours=0.01)
        train_on(LocalPool(program=[sys.executable, "-c", {lives!r}]), pathlib.Path({str(folder)!r}), terms)
        """
    )
    with subprocess.Popen([sys.executable, "-c", caller], cwd=ROOT) as process:
        until = time.monotonic() + 20
        while not (folder / "machines/1.json").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
    pool = LocalPool()
    standing = turn(pool, folder, terms())
    assert standing.machine is not None
    assert (standing.machine.attempt, len(pool.find(standing.machine.run_id, folder))) == (1, 1)
    assert steering.cancel(pool, folder) == [standing.machine]
    assert not pool.look(standing.machine, folder).alive
    assert [attempt.outcome for attempt in ledger(folder)] == ["cancelled"]
    assert steering.cancel(pool, folder) == []


@pytest.mark.processes
def test_lost_work_begins_at_the_last_complete_checkpoint(make_run: Callable[..., Path], program: Program) -> None:
    attempts = trained(make_run(), program, interruptions=(2,), notice=False, spot_per_hour=36.0, on_demand_per_hour=360.0)
    assert attempts[0].lost_seconds < attempts[0].seconds / 2
    assert attempts[1].lost_seconds == 0
    assert attempts[0].cost == pytest.approx(attempts[0].seconds * 0.01)
    assert attempts[0].on_demand_cost == pytest.approx(attempts[0].seconds * 0.1)


def test_a_folder_that_is_no_run_starts_no_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pin step"):
        turn(LocalPool(), tmp_path, terms())
    assert list(tmp_path.iterdir()) == []


@dataclass
class Cloud:
    """A pool of machines that do as they are told, in two zones that cost money."""

    spot: dict[str, float] = field(default_factory=lambda: {A: 0.3, B: 0.4})
    on_demand: float = 1.0
    dry: set[str] = field(default_factory=set)
    sights: dict[int, Sight] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    name: str = "cloud"
    changeover_seconds: float = 60.0
    has_larger: bool = True

    def prices(self, *, like: str | None = None, larger: bool = False) -> Prices:
        alike = {place: price for place, price in self.spot.items() if like is None or place.endswith(f"/{like}")}
        return Prices(spot=alike, on_demand=self.on_demand)

    def start(self, order: Order) -> Machine:
        self.orders.append(order)
        place = "eu-west-1a/g5.xlarge" if order.on_demand else next((place for place in order.places if place not in self.dry), None)
        if place is None:
            raise NoCapacityError("dry", dict.fromkeys(order.places, "InsufficientInstanceCapacity"))
        zone, _, kind = place.partition("/")
        price = self.on_demand if order.on_demand else self.spot[place]
        machine = Machine(
            name=f"i-{order.attempt}", run_id=order.run_id, attempt=order.attempt, zone=zone, kind=kind, on_demand=order.on_demand,
            price_per_hour=price, on_demand_per_hour=self.on_demand, started_at=datetime.now(UTC),
            refused=tuple(sorted(self.dry)),
        )  # fmt: skip
        self.machines.append(machine)
        self.sights[order.attempt] = Sight(alive=True, word=Word(attempt=order.attempt, began_at=datetime.now(UTC)))
        return machine

    def find(self, run_id: str, run_folder: Path) -> list[Machine]:
        return list(self.machines)

    def look(self, machine: Machine, run_folder: Path) -> Sight:
        return self.sights[machine.attempt]

    def fetch(self, run_id: str, run_folder: Path) -> None: ...

    def stop(self, machine: Machine, run_folder: Path) -> None:
        self.stopped.append(machine.attempt)
        self.sights[machine.attempt] = replace(self.sights[machine.attempt], alive=False)

    def ends(self, status: int | None, *, taken: bool = False, began: bool = True, age: timedelta = timedelta()) -> None:
        """The newest machine ends like that, having been started so long ago."""
        newest = self.machines[-1]
        self.machines[-1] = replace(newest, started_at=newest.started_at - age)
        now = datetime.now(UTC)
        last = Word(
            attempt=newest.attempt, began_at=now - age, ended_at=now if status is not None else None, status=status, last_lines="words"
        )
        self.sights[newest.attempt] = Sight(alive=False, taken=taken, ended_at=now, word=last if began else None)


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    return make_run(count=30)


def test_the_cheapest_place_is_asked_first_and_a_dry_one_leads_to_the_next(run: Path) -> None:
    pool = Cloud(dry={A})
    standing = turn(pool, run, terms())
    assert pool.orders[0].places == (A, B)
    assert standing.machine is not None
    assert standing.machine.place == B
    assert pool.orders[0].price_per_hour == 0.4, "the dearest of those asked, because nobody knows which one it will be"
    assert turn(pool, run, terms()).machine == standing.machine
    assert len(pool.orders) == 1, "one machine, however often it is asked"


def test_nothing_to_be_had_means_waiting_with_time_left_and_on_demand_without(run: Path) -> None:
    pool = Cloud(dry={A, B})
    patient = turn(pool, run, terms(hours=6, work_hours=1, tick_seconds=60))
    assert patient.machine is None
    hurried = turn(pool, run, terms(hours=1.05, work_hours=1, tick_seconds=60))
    assert hurried.machine is not None
    assert hurried.machine.on_demand
    assert pool.orders[-1].price_per_hour == 1.0
    asked = [json.loads(line) for line in (run / "asked.jsonl").read_text().splitlines()]
    assert asked[0]["refused"] == dict.fromkeys((A, B), "InsufficientInstanceCapacity")
    assert [line["on_demand"] for line in asked][-1] is True


def test_trials_that_take_longer_than_the_terms_expect_bring_a_run_to_on_demand_in_time(make_run: Callable[..., Path]) -> None:
    """Between two machines of a search nothing is known of the last training but what its trials took: here 20 minutes each."""
    run = make_run(count=30, recipe=Trees(name="trees", rounds=24, search=Search(space={"max_depth": Between(2, 8)}, trials=3)))
    patient = turn(Cloud(dry={A, B}), run, terms(hours=0.85, work_hours=0.3, tick_seconds=60))
    assert patient.machine is None
    for number in (0, 1):
        place = run / f"trials/{number}"
        place.mkdir(parents=True)
        told = Trial(number=number, parameters={}, state="finished", average_precision=0.5, seconds=1200, cost=0)
        (place / "result.json").write_text(json.dumps(asdict(told) | {"fingerprint": {}}))
    hurried = turn(Cloud(dry={A, B}), run, terms(hours=0.85, work_hours=0.3, tick_seconds=60))
    assert hurried.machine is not None
    assert hurried.machine.on_demand


def test_what_a_trial_of_a_search_has_saved_is_not_lost(run: Path) -> None:
    pool = Cloud()
    turn(pool, run, terms())
    (run / "trials/3").mkdir(parents=True)
    saved_at = datetime.now(UTC) - timedelta(seconds=20)
    (run / "trials/3/progress.jsonl").write_text(json.dumps({"step": 4, "seconds": 1.0, "at": saved_at.isoformat()}) + "\n")
    pool.ends(75, age=timedelta(hours=1))
    seen: list[Attempt] = []
    turn(pool, run, terms(), seen.append)
    assert seen[0].lost_seconds == pytest.approx(20, abs=5)


def test_a_machine_that_was_taken_is_followed_by_another_and_a_preemption_needs_no_last_word(run: Path) -> None:
    pool = Cloud()
    seen: list[Attempt] = []
    for status, taken in ((75, False), (None, False), (1, True)):
        turn(pool, run, terms(), seen.append)
        pool.ends(status, taken=taken)
    assert turn(pool, run, terms(), seen.append).machine is not None
    assert [attempt.outcome for attempt in seen] == ["preempted"] * 3
    assert [order.attempt for order in pool.orders] == [1, 2, 3, 4]


def test_after_too_many_preemptions_the_rest_is_done_on_demand(run: Path) -> None:
    pool = Cloud()
    for _ in range(3):
        turn(pool, run, terms(max_preemptions=2))
        pool.ends(75)
    standing = turn(pool, run, terms(max_preemptions=2))
    assert standing.machine is not None
    assert standing.machine.on_demand
    assert turn(pool, run, terms(max_preemptions=2)).machine == standing.machine


def test_a_machine_that_leaves_on_demand_again_and_again_without_getting_on_is_a_failure(run: Path) -> None:
    pool = Cloud()

    def again() -> None:
        for _ in range(9):
            turn(pool, run, terms(max_preemptions=0))
            pool.ends(75)

    with pytest.raises(TrainingFailedError, match="3 on-demand machines in a row left without getting on"):
        again()


def test_memory_that_ran_out_is_tried_once_more_on_the_larger_type(run: Path) -> None:
    pool = Cloud()
    turn(pool, run, terms())
    pool.ends(76)
    turn(pool, run, terms())
    assert [order.larger for order in pool.orders] == [False, True]
    pool.ends(76)
    with pytest.raises(TrainingOutOfMemoryError, match="the larger type: train on fewer nights"):
        turn(pool, run, terms())
    assert len(pool.orders) == 2


def test_a_run_that_needed_the_larger_type_stays_with_it(run: Path) -> None:
    """Taken away, the larger machine would be followed by one that is too small, and that by a larger one again."""
    pool = Cloud()
    for status in (76, 75, 75):
        turn(pool, run, terms())
        pool.ends(status)
    turn(pool, run, terms())
    assert [order.larger for order in pool.orders] == [False, True, True, True]
    pool.ends(76)
    with pytest.raises(TrainingOutOfMemoryError, match="the larger type"):
        turn(pool, run, terms())


def stands(run: Path, attempt: int | None) -> None:
    """A checkpoint, of a training that this attempt began."""
    (run / "began.json").write_text(json.dumps({"attempt": attempt, "threads": 4}))
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints/00000004.json").touch()


def test_once_something_stands_only_types_that_add_up_as_the_first_one_are_asked(run: Path) -> None:
    other = "eu-west-1a/g4dn.xlarge"
    pool = Cloud(spot={A: 0.3, B: 0.4, other: 0.2})
    for dry in ({other}, set(), {A, B}):
        pool.dry = dry
        turn(pool, run, terms())
        if len(pool.orders) == 2:
            stands(run, attempt=2)
        pool.ends(75)
    assert [order.like for order in pool.orders[:2]] == [None, None], "the first left nothing, so any will do"
    assert [machine.kind for machine in pool.machines] == ["g5.xlarge", "g4dn.xlarge", "g4dn.xlarge"]
    assert (pool.orders[2].like, pool.orders[2].places) == ("g4dn.xlarge", (other,))
    hurried = turn(pool, run, terms(hours=0.05, work_hours=0.04))
    assert hurried.machine is not None
    assert hurried.machine.on_demand
    assert pool.orders[-1].like == "g4dn.xlarge"


def test_what_a_machine_of_another_pool_or_somebody_by_hand_began_binds_to_no_type(run: Path) -> None:
    pool = Cloud()
    stands(run, attempt=None)
    turn(pool, run, terms())
    pool.ends(75)
    stands(run, attempt=7)
    turn(pool, run, terms())
    assert [order.like for order in pool.orders] == [None, None]


def test_a_stalled_trainer_gets_one_more_machine(run: Path) -> None:
    pool = Cloud()
    turn(pool, run, terms())
    pool.ends(77)
    turn(pool, run, terms())
    pool.ends(77)
    with pytest.raises(TrainingStalledError, match="2 times in a row"):
        turn(pool, run, terms())


def test_machines_that_never_begin_are_no_weather(run: Path) -> None:
    pool = Cloud()
    for _ in range(2):
        turn(pool, run, terms())
        pool.ends(None, began=False)
    turn(pool, run, terms())
    pool.ends(None, began=False)
    with pytest.raises(TrainingFailedError, match=r"3 machines in a row never began.*console output"):
        turn(pool, run, terms())


def test_the_programs_own_fault_ends_the_run_and_the_next_call_tries_again(run: Path) -> None:
    pool = Cloud()
    turn(pool, run, terms())
    pool.ends(1)
    with pytest.raises(TrainingFailedError, match=r"attempt 1 on i-1(.|\n)*words"):
        turn(pool, run, terms())
    standing = turn(pool, run, terms())
    assert standing.machine is not None
    assert standing.machine.attempt == 2


def test_money_and_time_that_are_spent_stop_the_machine_and_say_so(run: Path) -> None:
    pool = Cloud()
    turn(pool, run, terms())
    pool.ends(75, age=timedelta(hours=2))
    turn(pool, run, terms())
    with pytest.raises(SpotTermsError, match=r"has cost 0\.60 and may cost 0\.50; raise max_cost"):
        turn(pool, run, terms(max_cost=0.5))
    assert pool.stopped == [2]
    with pytest.raises(SpotTermsError, match=r"its deadline .* has passed"):
        turn(pool, run, terms(hours=-0.001))
    assert ledger(run)[-1].outcome == "cancelled"


def test_what_costs_more_than_the_ceiling_is_not_asked_and_the_order_bears_the_ceiling(run: Path) -> None:
    pool = Cloud(spot={A: 0.5, B: 0.4})
    turn(pool, run, terms(price_ceiling=0.45))
    assert pool.orders[0].places == (B,)
    assert pool.orders[0].max_price == 0.45


def test_the_market_remembers_what_earlier_runs_met(make_run: Callable[..., Path]) -> None:
    pool = Cloud(spot={A: 0.399, B: 0.4})
    for number in range(4):
        folder = make_run(f"earlier-{number}", count=30)
        pool.dry = {B}
        turn(pool, folder, terms())
        pool.ends(75, age=timedelta(minutes=5))
        pool.dry = {A}
        turn(pool, folder, terms())
        pool.ends(1, age=timedelta(hours=9))
        with pytest.raises(TrainingFailedError):
            turn(pool, folder, terms())
        pool.machines, pool.dry = [], set()
    market = steering.learnt("cloud", folder.parent, pool.prices(), 60)
    assert market.loss_rate(A) > 4 * market.loss_rate(B)
    assert market.refused[A] == 4
    fresh = make_run("fresh", count=30)
    turn(pool, fresh, terms())
    assert pool.orders[-1].places[0] == B, "a little dearer, and never lost"


def test_two_at_once_start_one_machine(run: Path) -> None:
    pool = Cloud()
    began = pool.start

    def slow(order: Order) -> Machine:
        time.sleep(0.2)
        return began(order)

    pool.start = slow  # type: ignore[method-assign]
    others = [threading.Thread(target=turn, args=(pool, run, terms())) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert len(pool.orders) == 1


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"deadline": datetime(2026, 1, 1)}, "no zone"),
        ({"work_hours": 0}, "work_hours"),
        ({"max_preemptions": -1}, "max_preemptions"),
        ({"max_cost": 0.0}, "max_cost"),
        ({"price_ceiling": -1.0}, "price_ceiling"),
    ],
)
def test_impossible_terms_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        terms(**wrong)
