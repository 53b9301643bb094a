"""Whether the tests of what decides would notice if it decided otherwise: mutants of the gates, the report, the promotion and the trust.

`make bench NAME=mutants ARGS="[--modules M,M] [--sample N] [--processes N]"`. Each mutant is one small change to one module: a comparison
turned, a condition denied, a number moved, a sum made a difference. A fork of this process, which has the libraries loaded, puts the mutant
in the module's place and runs the module's own tests; a mutant that they pass has survived. Survivors are listed, and those in `KNOWN` with
the reason why no test can tell them from the original.

Mutation testing as in DeMillo, Lipton, Sayward, "Hints on test data selection", Computer 11 (1978); the operators are the sufficient set
of Offutt et al., TOSEM 5 (1996): relational, logical, arithmetic, unary, and constants beside.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import Figure, report
from include.nightshift.settings import ROOT

PROMOTE = "include.nightshift.promote"
TESTED: Mapping[str, tuple[str, ...]] = {
    "verdict": ("verdict", "gates", "report"),
    "question": ("question", "gates"),
    "evidence": ("evidence", "gates"),
    "metrics": ("metrics", "gates"),
    "compare": ("compare", "gates"),
    "gates": ("gates", "report", "judge"),
    "report": ("report", "judge"),
    "judge": ("judge",),
    "approval": ("approval",),
    "succession": ("succession", "history", "trust"),
    "history": ("history",),
    "proof": ("proof", "trust", "history"),
    "trust": ("trust",),
}
"""Modules that decide, and the tests that must notice, both below `promote`."""
KNOWN: Mapping[tuple[str, str], str] = {
    ("compare", "DRAWS = 400: 400 to 401"): "draws are made in whole blocks of 200",
    ("compare", "_BLOCK = 8192: 8192 to 8193"): "how many entities are multiplied at a time changes no figure",
    ("compare", "len(chosen) + 1: Add to Sub"): "a power of -1: two less changes nothing",
    ("compare", "len(kinds) + 1: 1 to 2"): "of more kinds than there are, there is no combination",
    ("compare", "10 * list_size: 10 to 11"): "whoever stands ten lists below the first place is listed in no draw",
    ("compare", "cluster * len(values) + place: Add to Sub"): "less the place is a number of its own for every two of them just as well",
    ("compare", "strict=True: True to False"): "the folds of an evidence have the same clusters, and those as many rows",
    ("history", "row['seq'] > detail['seq']: Gt to GtE"): "the reign that is rolled back is never its own target",
    ("judge", "run.holdout_first is None or run.holdout_last is None: to And"): "a run has both or none of them, as run.py sees to",
    ("judge", ":4000: 4000 to 4001"): "MLflow takes tags of 5000 characters: reasons are cut off anywhere before that",
    ("metrics", "len(entities) + 1: 1 to 2"): "one place behind the last entity is all that anybody looks at",
    (
        "approval",
        "git is None or not (root / '.git').exists(): to And",
    ): "git itself fails where there is no checkout, with the same answer",
}
"""Survivors by module and what was changed, with the reason why they are the original's equals."""
SECONDS = 180
"""A mutant whose tests take longer has made something endless: it is noticed."""
LOADED = ("numpy", "scipy.stats", "sklearn.metrics", "pyarrow.parquet", "pyarrow.dataset", "pytest", "hypothesis", "deltalake", "xgboost")

_RELATIONS: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_SUMS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change to one module."""

    module: str
    line: int
    what: str
    source: str

    @property
    def name(self) -> tuple[str, str]:
        """Without the line, which moves."""
        return self.module, self.what


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modules", default=",".join(TESTED), metavar="M,M", help=f"of {', '.join(TESTED)}")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants of each, drawn by a seed; 0: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="mutants that are tried at a time")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.modules.split(",")) - TESTED.keys():
        parser.error(f"{', '.join(sorted(unknown))}: choose among {', '.join(TESTED)}")
    for name in LOADED:
        importlib.import_module(name)
    killed: Counter[str] = Counter()
    left: list[Mutant] = []
    for module in asked.modules.split(","):
        began, every = time.monotonic(), list(mutants(module))
        chosen = random.Random(1).sample(every, min(asked.sample, len(every))) if asked.sample else every
        if not list(survivors([Mutant(module, 0, "nothing", _path(module).read_text())])):
            raise SystemExit(f"mutants: the tests of {module} fail as it is: mend that first")
        lived = []
        for mutant in survivors(chosen, asked.processes):
            lived.append(mutant)
            print(f"  {mutant.module}:{mutant.line}: {mutant.what}: {KNOWN.get(mutant.name, 'NO REASON KNOWN')}", flush=True)
        killed[module] = len(chosen) - len(lived)
        left += lived
        print(f"{module:10} {len(chosen):4} mutants, {len(lived):3} survived, {time.monotonic() - began:.0f} s", flush=True)
    all_of_them = killed.total() + len(left)
    figures = [
        Figure("share of mutants that the tests notice", 100 * killed.total() / max(1, all_of_them), 95, "%", at_least=True),
        Figure("survivors without a reason", sum(mutant.name not in KNOWN for mutant in left), 0, ""),
    ]
    return report("mutants", figures)


def mutants(module: str) -> Iterator[Mutant]:
    """All mutants of a module of `promote`; two changes that come to the same, such as a `not` taken back and its condition denied, are
    one."""
    tree = ast.parse(_path(module).read_text())
    _forget_words(tree)
    declared = set(map(id, _declarations(tree)))
    made: set[str] = set()
    within = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for place, node in enumerate(ast.walk(tree)):
        if id(node) in declared:
            continue
        for what, change in _changes(node):
            other = copy.deepcopy(tree)
            change(next(twin for number, twin in enumerate(ast.walk(other)) if number == place))
            source = ast.unparse(ast.fix_missing_locations(other))
            if source in made:
                continue
            made.add(source)
            # A number by itself would be told from no other.
            around = ast.unparse(within[id(node)] if isinstance(node, ast.Constant) else node)[:80].replace("\n", " ")
            yield Mutant(module, getattr(node, "lineno", 0), f"{around}: {what}", source)


def survivors(every: Sequence[Mutant], processes: int = 1) -> Iterator[Mutant]:
    """Those with which their module's tests pass, as they are found; so many at a time are tried."""
    waiting, running = list(reversed(every)), dict[int, tuple[Mutant, float]]()
    while waiting or running:
        while waiting and len(running) < processes:
            mutant = waiting.pop()
            sys.stdout.flush()
            if not (child := os.fork()):
                _run_tests(mutant)
            running[child] = mutant, time.monotonic() + SECONDS
        for child, (mutant, until) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended and time.monotonic() < until:
                continue
            del running[child]
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            elif os.waitstatus_to_exitcode(status) == 0:
                yield mutant
        time.sleep(0.02)


def _run_tests(mutant: Mutant) -> None:
    """In a fork: put the mutant in the module's place and end with the tests' status."""
    status = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.meta_path.insert(0, _Instead(f"{PROMOTE}.{mutant.module}", mutant.source))
        import pytest

        tests = [str(ROOT / "tests/include/nightshift/promote" / f"test_{name}.py") for name in TESTED[mutant.module]]
        status = int(pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]))
    finally:
        os._exit(status)


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An importer that knows one module: the mutant."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        return importlib.util.spec_from_loader(name, self, origin=str(_path(name.rpartition(".")[2])))

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        exec(compile(self._source, f"<mutant of {self._name}>", "exec"), module.__dict__)  # noqa: S102 - its own source, changed


def _path(module: str) -> Path:
    return ROOT / "include" / "nightshift" / "promote" / f"{module}.py"


def _declarations(tree: ast.AST) -> Iterator[ast.AST]:
    """What is said of types and classes: the type checker looks at it, and nothing decides by it."""
    for node in ast.walk(tree):
        parts = [getattr(node, name, None) for name in ("annotation", "returns")] + getattr(node, "decorator_list", [])
        for part in filter(None, parts):
            yield from ast.walk(part)


def _forget_words(tree: ast.AST) -> None:
    """Take out what no test should look at: docstrings and imports for type checkers alone."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        kept = [
            line for line in body
            if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str))
            and not (isinstance(line, ast.If) and isinstance(line.test, ast.Name) and line.test.id == "TYPE_CHECKING")
        ]  # fmt: skip
        node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:  # noqa: C901 - one line for each operator
    """What can be done to a node: in words, and how it is done to its twin in another tree."""
    match node:
        case ast.Compare(ops=ops):
            for place, relation in enumerate(ops):
                if other := _RELATIONS.get(type(relation)):
                    yield f"{type(relation).__name__} to {other.__name__}", partial(_turn, place, other)
        case ast.BoolOp(op=op):
            logical = ast.Or if isinstance(op, ast.And) else ast.And
            yield f"to {logical.__name__}", lambda twin: setattr(twin, "op", logical())
        case ast.BinOp(op=op) if (sum_ := _SUMS.get(type(op))) and not _is_text(node):
            yield f"{type(op).__name__} to {sum_.__name__}", lambda twin: setattr(twin, "op", sum_())
        case ast.UnaryOp(op=ast.Not()):
            yield "taken back", lambda twin: setattr(twin, "operand", ast.UnaryOp(ast.Not(), twin.operand))
        case ast.UnaryOp(op=ast.USub()):
            yield "without its sign", lambda twin: setattr(twin, "op", ast.UAdd())
        case ast.If(test=test) | ast.IfExp(test=test) if not isinstance(test, ast.Compare):
            yield "denied", lambda twin: setattr(twin, "test", ast.UnaryOp(ast.Not(), twin.test))
        case ast.Constant(value=bool(value)):
            yield f"{value} to {not value}", lambda twin: setattr(twin, "value", not twin.value)
        case ast.Constant(value=int(value) | float(value)):
            yield f"{value} to {value + 1}", lambda twin: setattr(twin, "value", twin.value + 1)


def _turn(place: int, relation: type[ast.cmpop], twin: ast.Compare) -> None:
    twin.ops[place] = relation()


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


if __name__ == "__main__":
    raise SystemExit(main())
