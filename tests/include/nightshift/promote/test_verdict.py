from __future__ import annotations

import json

import numpy as np
import pytest

from include.nightshift.promote.verdict import Verdict


def test_verdict_travels_through_json_unchanged() -> None:
    verdict = Verdict("better", True, ("gain +0.02",), {"gain": float(np.float32(0.5)), "rows": np.arange(8).max(), "nights": 7})
    assert Verdict(**json.loads(json.dumps(verdict.as_dict(), allow_nan=False))) == verdict
    assert {type(figure) for figure in verdict.figures.values()} == {float}


def test_single_reason_is_not_taken_apart_into_letters() -> None:
    assert Verdict("better", False, "a tie").reasons == ("a tie",)  # type: ignore[arg-type]


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -float("inf")])
def test_figure_that_is_no_finite_number_is_refused(figure: float) -> None:
    with pytest.raises(ValueError, match="figure gain is"):
        Verdict("better", True, ("fine",), {"gain": figure})


@pytest.mark.parametrize("reasons", [(), ("",), (" ",)])
def test_verdict_without_a_reason_is_refused(reasons: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="no reason given"):
        Verdict("better", True, reasons)


@pytest.mark.parametrize("passed", ["no", 1, None, np.bool_(True), np.array([True, False])])
def test_verdict_that_is_neither_true_nor_false_is_refused(passed: object) -> None:
    with pytest.raises(ValueError, match="is no bool"):
        Verdict("better", passed, ("fine",))  # type: ignore[arg-type]
