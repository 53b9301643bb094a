"""How often the gates promote what is no better, and how often what is: their decision on simulated worlds where the truth is known.

    python -m bench.gates --make DIR --worlds 44                        makes the worlds that are missing: 35 s of a core each
    make bench NAME=gates ARGS="--worlds DIR [--draw FILE]"             judges, prints table and figures, draws the power curve

A world is the simulator's, lived once, with 54 fresh weeks and four models' logits of them (`bench.worlds`). A pair is a candidate and a
champion whose difference in average precision, the mean over all fresh weeks, is what was wanted (`bench.pairs`). A case is a pair on one
of the disjoint windows of four weeks, or of nine: the product's gates judge it by the shipped policy, asked whether the candidate improves,
as the first one that is judged on its nights. Beside them stand two rules that know no error, on the same cases. Bounds are clustered
over worlds (`bench.shares`); where nearly all cases end alike, those of a world are taken to be as like as where they are likest.

As all gates must pass, they are asked one after another until one refuses, the bound on average precision first, by `compare`, which is
what `gates.better` goes by. One case of each world is judged whole as well, and the bench ends where that says otherwise. What was
judged is remembered beside the worlds, until the world, the pairs, the policy or the code that judges is another.

The truth is that of these weeks, so windows scatter a little less around it than weeks yet to come would: in standard deviation by a
factor of 0.96 for four weeks of 54, and of 0.91 for nine. That is not allowed for.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench import Figure, pairs, report, worlds
from bench.curve import Line, drawn
from bench.pairs import KINDS, Ranked
from bench.shares import Share
from bench.worlds import Fresh
from include.nightshift.promote import compare, evidence, gates, metrics
from include.nightshift.promote.evidence import Evidence, HeldOut, Provenance, Scored
from include.nightshift.promote.question import Kind, Question
from include.usecases.card_fraud.usecase import USE_CASE

POLICY = USE_CASE.gate
DIFFERENCES = {4: (0.0, 0.01, 0.02, 0.03, 0.04), 9: (0.0, 0.01, 0.02, 0.03)}
"""The true ones, by the weeks of a window."""
ERRORS = {0.0: 1, 0.01: 5}
"""Of what is no better than this, so many in a hundred may be promoted."""
POWER = {4: 0.04, 9: 0.03}
"""What is promoted in nine of ten cases, by the weeks of a window."""
HIGHER = "AP is higher"
BY_MARGIN = "AP higher by 0.01"
GATES = "the gates"
ROWS = 280_000
"""Judged at once, in a minute at most."""
JUDGING = (compare, evidence, gates, metrics, pairs)
"""Code that a case's end depends on."""


@dataclass(frozen=True, order=True)
class Case:
    """A pair of models on a window of a world."""

    difference: float
    kind: str
    weeks: int
    first: int
    """Week of the window."""


@dataclass(frozen=True)
class Judged:
    """How a case ended."""

    world: int
    case: Case
    seen: float
    """The difference on the window."""
    refused: str
    """The gate that refused; empty where all passed."""

    def promoted(self, rule: str) -> bool:
        return {GATES: not self.refused, HIGHER: self.seen > 0, BY_MARGIN: self.seen > 0.01}[rule]


Cell = tuple[int, float]
"""The weeks of a window, and the true difference."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gates", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make", type=Path, metavar="DIR", help="make worlds in this folder and judge nothing")
    parser.add_argument("--worlds", required=True, metavar="DIR|N", help="the folder to judge; with --make, how many worlds to make")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--draw", type=Path, metavar="FILE", help="where the power curve goes, as SVG")
    asked = parser.parse_args(arguments)
    if asked.make:
        for said in worlds.make(asked.make, range(1, int(asked.worlds) + 1), asked.processes):
            print(said, flush=True)
        return 0
    files = sorted(Path(asked.worlds).glob("world-*.npz"))
    if not files:
        parser.error(f"no worlds in {asked.worlds}: make some with --make {asked.worlds} --worlds 44")
    print(f"{len(files)} worlds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    began = time.monotonic()
    ended, anew = replayed(files, asked.processes)
    minutes = (time.monotonic() - began) / 60
    shares = by_cell(ended)
    tell(ended, shares)
    if asked.draw:
        asked.draw.write_text(curve(shares))
    others = [Figure(f"one judgement of {ROWS:,} rows", timed(Fresh.load(files[0])), 60, "s")]
    if anew:
        print(f"{anew:,} cases were judged in {minutes:.0f} min; they are remembered now, and what a replay takes is told by the next run")
    else:
        others.append(Figure("this replay", minutes, 10, "min"))
    return report("gates", [*figures(shares), *others])


# Judging


def replayed(files: Sequence[Path], processes: int) -> tuple[list[Judged], int]:
    """How the cases of the worlds end, and how many of them were judged for that, in so many processes, because nobody remembers."""
    began, every, anew = time.monotonic(), list[Judged](), 0
    with ProcessPoolExecutor(processes, get_context("spawn")) as apart:
        for file, (fresh, ended) in zip(files, apart.map(remembered, files), strict=True):
            print(f"  {file.stem}: {len(ended)} cases, {fresh} judged now; {time.monotonic() - began:.0f} s", flush=True)
            every += ended
            anew += fresh
    return every, anew


def remembered(file: Path) -> tuple[int, list[Judged]]:
    """How the cases of a world end, and how many of them were judged for that."""
    said = [inspect.getsource(module).encode() for module in JUDGING] + [repr(POLICY).encode(), file.read_bytes()]
    memory = file.with_suffix(f".{hashlib.sha256(b''.join(said)).hexdigest()[:12]}.json")
    fresh = Fresh.load(file)
    known: dict[Case, Judged] = {}
    if memory.exists():
        known = {(case := Case(**plain.pop("case"))): Judged(case=case, **plain) for plain in json.loads(memory.read_bytes())}
    owed = [case for case in cases(fresh) if case not in known]
    for ended in judged(fresh, owed):
        known |= {one.case: one for one in ended}
        unfinished = memory.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps([asdict(one) for one in known.values()]))
        unfinished.rename(memory)
    return len(owed), [known[case] for case in cases(fresh)]


def cases(fresh: Fresh) -> list[Case]:
    """What is judged on a world. Where an error is measured, all kinds of pairs: so few are promoted that the others teach little. Where
    power is, one kind, another one in the next world; every window for the power that is asked for, half of them for the others."""
    found = []
    for weeks, differences in DIFFERENCES.items():
        windows = range(0, fresh.weeks - weeks + 1, weeks)
        for place, difference in enumerate(differences):
            kinds = list(KINDS) if difference in ERRORS else [list(KINDS)[(fresh.seed + place) % len(KINDS)]]
            here = windows if difference in (*ERRORS, POWER[weeks]) else windows[fresh.seed % 2 :: 2]
            found += [Case(difference, kind, weeks, first) for kind in kinds for first in here]
    return sorted(found)


def judged(fresh: Fresh, owed: Sequence[Case]) -> Iterator[list[Judged]]:
    """Judge cases, pair after pair.

    Raises:
        RuntimeError: the gates as a whole decide otherwise than one after another, or see another difference than the bench.
    """
    ground = pairs.Ground(fresh)
    held = cache(lambda weeks, first: held_out(fresh, weeks, first))
    unproven = True
    for (difference, kind), some in groupby(owed, lambda case: (case.difference, case.kind)):
        pair = ground.pair(kind, difference)
        ended = []
        for case in some:
            seen = pair.seen(case.first, case.weeks)
            refused = "better"
            # A lower bound is never above what it bounds.
            if seen > POLICY.min_gain:
                rows, shown = held(case.weeks, case.first)
                models = scored("candidate", pair.candidate, rows), scored("champion", pair.champion, rows)
                refused = refusal(*models, shown, seen)
                if unproven and gates.judge(*models, shown, POLICY).passed == bool(refused):
                    raise RuntimeError(
                        f"world {fresh.seed}, {case}: one after another the gates say {refused or 'passed'}, and not together"
                    )
                unproven = False
            ended.append(Judged(fresh.seed, case, seen, refused))
        yield ended


def held_out(fresh: Fresh, weeks: int, first: int) -> tuple[slice, Evidence]:
    """A window's rows, and the evidence that they are; what does not concern the comparison is in order."""
    rows = slice(*fresh.starts[[first, first + weeks]])
    day = worlds.FIRST + timedelta(days=7 * first)
    trained = day - timedelta(days=worlds.DELAY + 1)
    held = HeldOut(
        nights=7 * weeks,
        day=worlds.days(fresh.day[rows]),
        entity=fresh.entity[rows].astype(np.int64),
        target=fresh.target[rows],
        clusters=(fresh.terminal[rows].astype(np.int64),),
        known_fraud_day=worlds.days(fresh.known_day),
        known_fraud_entity=fresh.known_entity.astype(np.int64),
        first_test_day=day,
        label_delay_days=worlds.DELAY,
        list_size=USE_CASE.list_size,
    )
    provenance = Provenance(
        contract=("amount",),
        trained_on=("amount",),
        reads=("amount",),
        repeats=0.0,
        rows_first=trained - timedelta(days=7 * worlds.TRAINED),
        rows_last=trained,
        champion_rows_last=None,
        leak_scan=(True, "simulated"),
        parity=(0, 0, 0),
    )
    question = Question(kind=Kind.IMPROVE)
    return rows, Evidence(held=held, question=question, provenance=provenance, judged_before=0, level=evidence.level(POLICY.error, 0))


def scored(name: str, model: Ranked, rows: slice) -> Scored:
    return Scored(name, name, model.scores(rows))


def refusal(candidate: Scored, champion: Scored, shown: Evidence, seen: float) -> str:
    """The first gate that refuses; none where all pass."""
    apart = compare.average_precision(shown.held.folds, candidate.scores, champion.scores)
    if abs(apart.estimate - seen) > 1e-6:
        raise RuntimeError(f"the gates see {apart.estimate:.5f} of average precision between models that the bench sees {seen:.5f} apart")
    if not apart.low(shown.level) > POLICY.min_gain:
        return "better"
    others = (gate for gate in (*gates.ALONE, *gates.AGAINST_CHAMPION) if gate is not gates.better)
    return next((gate.__name__ for gate in others if not gate(candidate, champion, shown, POLICY).passed), "")


def timed(fresh: Fresh) -> float:
    """Seconds of one whole judgement of at least ROWS rows, in whole weeks from the first."""
    weeks = int(np.searchsorted(fresh.starts, ROWS))
    rows, shown = held_out(fresh, weeks, 0)
    pair = pairs.Ground(fresh).pair("features", POWER[4])
    began = time.monotonic()
    gates.judge(scored("candidate", pair.candidate, rows), scored("champion", pair.champion, rows), shown, POLICY)
    return time.monotonic() - began


# Telling


def by_cell(ended: Sequence[Judged]) -> dict[str, dict[Cell, Share]]:
    """What each rule promoted, by the weeks of a window and the true difference."""
    cells: dict[Cell, list[Judged]] = {}
    for one in ended:
        cells.setdefault((one.case.weeks, one.case.difference), []).append(one)
    return {
        rule: {cell: Share.of((one.world, one.promoted(rule)) for one in some) for cell, some in sorted(cells.items())}
        for rule in (GATES, HIGHER, BY_MARGIN)
    }


def likeness(shares: Mapping[Cell, Share], cell: Cell) -> float:
    """Of cases of one world: the cell's own, or, where it cannot tell, the greatest of those that can; 0 where none can."""
    own = shares[cell].likeness()
    return own if own is not None else max((other for share in shares.values() if (other := share.likeness()) is not None), default=0.0)


def tell(ended: Sequence[Judged], shares: Mapping[str, Mapping[Cell, Share]]) -> None:
    """Print what each rule promoted, with the gates' bounds, and what refused where power is asked for."""
    print(f"\n{'weeks':>5} {'truth':>6} {'cases':>6} {'as good as':>10} {GATES:>10} {'95 % bound':>12} {HIGHER:>14} {BY_MARGIN:>18}")
    for cell, share in shares[GATES].items():
        weeks, difference = cell
        like = likeness(shares[GATES], cell)
        bound = f"{share.upper(like):6.2%} most" if difference in ERRORS else f"{share.lower(like):5.1%} least"
        naive = f"{shares[HIGHER][cell].seen:14.1%} {shares[BY_MARGIN][cell].seen:18.1%}"
        print(f"{weeks:5} {difference:6.2f} {share.cases:6} {share.effective(like):10.0f} {share.seen:10.2%} {bound:>12} {naive}")
    for weeks, difference in POWER.items():
        refused = [one.refused for one in ended if (one.case.weeks, one.case.difference) == (weeks, difference) and one.refused]
        counts = ", ".join(f"{refused.count(gate)} by {gate}" for gate in sorted(set(refused))) or "none"
        print(f"refused of those better by {difference:g} over {weeks} weeks: {counts}")
    for kind, (candidate, champion) in KINDS.items():
        errors = {
            difference: np.mean([not one.refused for one in ended if one.case.kind == kind and one.case.difference == difference])
            for difference in ERRORS
        }
        said = ", ".join(f"{error:.2%} at {difference:g}" for difference, error in errors.items())
        print(f"promoted of pairs of {kind} ({candidate} against {champion}): {said}")


def figures(shares: Mapping[str, Mapping[Cell, Share]], rule: str = GATES) -> list[Figure]:
    """A rule's error rates at their bounds, and its power as it was seen, in per cent."""
    said = []
    for weeks in DIFFERENCES:
        for difference, target in ERRORS.items():
            bound = shares[rule][weeks, difference].upper(likeness(shares[rule], (weeks, difference)))
            said.append(Figure(f"promoted of those better by {difference:g}, {weeks} weeks, upper bound", 100 * bound, target, "%"))
        seen = shares[rule][weeks, POWER[weeks]].seen
        said.append(Figure(f"promoted of those better by {POWER[weeks]:g}, {weeks} weeks", 100 * seen, 90, "%", at_least=True))
    return said


def curve(shares: Mapping[str, Mapping[Cell, Share]]) -> str:
    """The power curve, as SVG: the gates on both windows with their bounds, the naive rules on the shorter one."""

    def line(rule: str, weeks: int) -> Line:
        cells = {cell: share for cell, share in shares[rule].items() if cell[0] == weeks}
        like = {cell: likeness(shares[rule], cell) for cell in cells}
        points = [(cell[1], share.seen, share.lower(like[cell]), share.upper(like[cell])) for cell, share in cells.items()]
        return Line(f"{rule}, {weeks} weeks", points, dashed=rule != GATES)

    shortest = min(DIFFERENCES)
    lines = [*(line(GATES, weeks) for weeks in DIFFERENCES), line(BY_MARGIN, shortest), line(HIGHER, shortest)]
    return drawn("Share of candidates promoted, by their true gain in average precision", lines)


if __name__ == "__main__":
    raise SystemExit(main())
