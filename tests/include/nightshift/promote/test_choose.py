"""Choose: the best on the same nights goes on, whatever became of the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.nightshift.errors import ConfigurationError, TrainingFailedError
from include.nightshift.promote.choose import Candidate, choose

WEEK = ("2018-07-18", "2018-07-24")


def candidate(recipe: str, figure: float | None = None, nights: tuple[str, str] = WEEK) -> Candidate:
    return Candidate(recipe=recipe, average_precision=figure, nights=None if figure is None else nights)


def failed(recipe: str) -> Candidate:
    return Candidate(recipe=recipe, trained=False)


def test_the_best_figure_is_chosen_and_each_candidate_has_its_reason() -> None:
    chosen = choose([candidate("trees", 0.71), failed("sequence"), candidate("linear", 0.7251)])
    assert chosen.recipe == "linear"
    assert chosen.reasons == (
        "trees: average precision 0.7100 on the last training nights, -0.0151 against linear",
        "sequence: not trained, see its task's log",
        "linear: average precision 0.7251 on the last training nights, chosen",
    )


@given(st.lists(st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1))
def test_of_equals_the_first_that_the_use_case_names_is_chosen_and_one_that_failed_never(figures: list[float | None]) -> None:
    candidates = [failed(f"r{n}") if figure is None else candidate(f"r{n}", figure) for n, figure in enumerate(figures)]
    reached = [figure for figure in figures if figure is not None]
    if not reached:
        with pytest.raises(TrainingFailedError, match=r"none of r0.* was trained: see their tasks' logs"):
            choose(candidates)
        return
    assert choose(candidates).recipe == f"r{figures.index(max(reached))}"


def test_the_only_one_that_was_trained_needs_no_figure() -> None:
    assert choose([candidate("trees")]).reasons == ("trees: chosen, the only one",)
    assert choose([failed("linear"), candidate("trees")]).recipe == "trees"


def test_one_without_a_figure_is_not_chosen_over_one_that_has_one() -> None:
    assert choose([candidate("trees"), candidate("linear", 0.1)]).recipe == "linear"
    with pytest.raises(ConfigurationError, match="nothing tells trees from linear: give these recipes a search"):
        choose([candidate("trees"), candidate("linear")])


def test_figures_of_different_nights_are_not_compared() -> None:
    with pytest.raises(ConfigurationError, match=r"different nights \(trees on .*; linear on .*\): clear their pin tasks"):
        choose([candidate("trees", 0.7), candidate("linear", 0.6, ("2018-07-11", "2018-07-24"))])
