"""The training runs of the `train` tests, for the tests of what starts them."""

import importlib.util
from pathlib import Path

# Tests are no package, so a neighbour's fixtures are loaded by path.
_SPEC = importlib.util.spec_from_file_location("training_runs", Path(__file__).parents[1] / "train" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_RUNS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_RUNS)

make_run = _RUNS.make_run
program = _RUNS.program
