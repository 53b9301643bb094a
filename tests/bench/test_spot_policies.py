"""The replay of spot traces: what is read, and that its optimum is one."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from bench import Figure, spot_policies
from bench.spot_policies import POLICIES, SPOT_PRICE, Group, Job, State, clairvoyant, read, replay
from include.nightshift.spot.policy import ON_DEMAND, Wish


def trace(path: Path, data: list[int], gap: int = 600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"metadata": {"gap_seconds": gap}, "data": data}).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def test_zones_of_one_date_type_and_node_count_are_a_group_however_the_files_are_laid(tmp_path: Path) -> None:
    trace(tmp_path / "availability" / "1-node" / "aws-01-01-2023" / "us-1a_v100_1.json", [1, 0, 2])
    trace(tmp_path / "availability" / "1-node" / "aws-01-01-2023" / "us-1b_v100_1.json", [0, 0, 1, 1])
    trace(tmp_path / "availability" / "1-node" / "aws-01-01-2023" / "us-1a_k80_1.json", [1])
    trace(tmp_path / "availability__1-node__aws-02-02-2023__us-1a_v100_1.json.gz", [1])
    trace(tmp_path / "availability__4-node__aws-02-02-2023__us-1a_v100_1.json.gz", [4, 3])
    trace(tmp_path / "alone.json", [1, 1])
    groups = {group.name: group for group in read(tmp_path)}
    assert set(groups) == {
        "1-node aws-01-01-2023 v100_1",
        "1-node aws-01-01-2023 k80_1",
        "1-node aws-02-02-2023 v100_1",
        "4-node aws-02-02-2023 v100_1",
        "alone",
    }
    two = groups["1-node aws-01-01-2023 v100_1"]
    assert two.zones == ("us-1a", "us-1b")
    assert two.offered.tolist() == [[True, False, True], [False, False, True]]


def test_a_file_that_is_no_trace_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"data": [1]}')
    with pytest.raises(SystemExit, match=r"notes\.json is no trace"):
        read(tmp_path)


class Told:
    """A policy that does what a list says."""

    def __init__(self, plan: list[str | None]) -> None:
        self._plan = plan

    def wish(self, state: State) -> Wish:
        goal = self._plan[len(self._plan) - state.left]
        if goal == state.running:
            return Wish((), "keep")
        return Wish((goal,), "wait") if goal not in (None, ON_DEMAND) else Wish((), "on_demand" if goal else "wait")

    def asked(self, refused: object, given: object) -> None: ...

    def ran(self, zone: str) -> None: ...

    def lost(self, zone: str) -> None: ...


def test_the_optimum_is_the_best_of_all_plans_that_there_are() -> None:
    rng = np.random.default_rng(3)
    for changeover in (1, 2):
        for _ in range(6):
            job = Job(7, 3, changeover)
            offered = rng.random((2, job.ticks)) < 0.6
            plans = itertools.product((None, ON_DEMAND, "a", "b"), repeat=job.ticks)
            outcomes = [replay(offered, ("a", "b"), job, Told(list(plan))) for plan in plans]
            assert clairvoyant(offered, job) == pytest.approx(min(cost for cost, in_time in outcomes if in_time))


def test_no_policy_beats_the_optimum_and_none_is_late() -> None:
    rng = np.random.default_rng(4)
    offered = np.repeat(rng.random((3, 60)) < 0.6, 12, axis=1)
    group, job = Group("made", 600, ("a", "b", "c"), offered), Job.of((4, 6), 600)
    starts = group.starts(job.ticks)
    best = spot_policies._optimum(group, job, starts)
    assert len(starts) == 20
    for policy in POLICIES.values():
        cost, late = spot_policies._cost(group, job, starts, policy)
        assert cost >= best
        assert not late


def test_the_replay_bills_changeovers_and_counts_work_after_them() -> None:
    offered = np.array([[1, 1, 1, 0, 1, 1, 1]], dtype=bool)
    told = Told(["a", "a", "a", None, ON_DEMAND, ON_DEMAND, ON_DEMAND])
    assert replay(offered, ("a",), Job(7, 4, 1), told) == (pytest.approx(3 * SPOT_PRICE + 3), True)
    assert replay(offered, ("a",), Job(7, 5, 1), told)[1] is False


def test_ours_knows_only_what_earlier_runs_met_before_a_run_begins() -> None:
    """Runs overlap: what the one before meets after this one's start is its future."""
    group = Group("made", 600, ("a",), np.zeros((1, 500), dtype=bool))
    job = Job(72, 48, 1)
    policies = POLICIES["ours"](group, job, [0, 36])
    replay(group.offered[:, :72], group.zones, job, next(policies))
    assert next(policies)._planner.market.refused["a"] <= 36  # type: ignore[attr-defined]


def test_a_bench_whose_target_is_nothing_is_short_by_the_first() -> None:
    assert Figure("late", 0, 0, "").share == 0
    assert Figure("late", 1, 0, "").share > 1


def test_the_whole_bench_runs_on_a_folder_it_has_never_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(6)
    for zone in "abc":
        trace(tmp_path / f"aws-01-01-2024__us-9{zone}_h100_8.json", np.repeat(rng.random(40) < 0.8, 6).astype(int).tolist())
    assert spot_policies.main(["--traces", str(tmp_path)]) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert "late runs" in "".join(lines)
    assert lines[-1].startswith("spot_policies: ")
    assert "shorter than the job" in "".join(lines), "48 hours do not fit into 40"
