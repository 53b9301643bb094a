from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from include.nightshift import usecase
from include.nightshift.errors import ConfigurationError
from include.nightshift.settings import Settings
from include.nightshift.train.recipes import Linear, Trees
from include.nightshift.train.space import Between, Search
from include.nightshift.usecase import Column, DriftPolicy, Feed, GatePolicy, Pull, UseCase


def test_the_installation_says_when_a_feed_begins() -> None:
    spans = {"fraud_labels": (date(2018, 4, 8), None)}
    loaded = usecase.load("card_fraud", Settings(feed_spans=spans))
    assert not loaded.labels.drops_on(date(2018, 4, 7))
    assert loaded.labels.drops_on(date(2018, 4, 8))
    assert loaded.events.drops_on(date(1999, 1, 1))


def test_card_fraud_has_the_published_features_and_five_of_its_own(use_case: UseCase) -> None:
    assert len(use_case.feature_names) == 20 == len(set(use_case.feature_names))
    assert sum(feature.calendar for feature in use_case.features) == 1
    assert use_case.label_delay_days == 7
    assert [usecase_.name for usecase_ in usecase.registered(Settings())] == ["card_fraud"]


@pytest.mark.parametrize(("name", "installed", "message"), [("churn", "card_fraud", "not registered"), ("churn", "churn", "usecase.py")])
def test_a_use_case_that_is_not_there_is_refused_with_the_file_it_needs(name: str, installed: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        usecase.load(name, Settings(usecases=(installed,)))


SEARCHED = Trees(name="trees", search=Search(space={"max_depth": Between(3, 8)}, trials=4, validation_nights=5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entity": "nobody"}, "'nobody' is none of the columns"),
        ({"target": "guilt"}, "lacks 'guilt'"),
        ({"name": "x; drop table"}, "lower-case words"),
        ({"label_delay_days": 0}, "at least 1"),
        ({"features": ()}, "needs features"),
        ({"recipes": ()}, "at least one recipe"),
        ({"recipes": (Trees(name="trees", features=("tx_amount", "moon")),)}, "recipe trees reads moon, which is none of its features"),
        ({"candidates": ("trees", "forest")}, r"candidates \['trees', 'forest'\] must be names of its recipes \['trees', 'linear'"),
        ({"candidates": ("trees", "trees")}, "each once"),
        (
            {"recipes": (SEARCHED, Linear(name="linear", search=Search(validation_nights=9))), "candidates": ("trees", "linear")},
            "searches have other validation_nights: {'trees': 5, 'linear': 9}",
        ),
    ],
)
def test_a_use_case_that_contradicts_itself_is_refused(use_case: UseCase, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(use_case, **change)


def test_the_recipes_that_are_asked_for_are_trained_and_no_other_words_are_names_of_any(use_case: UseCase) -> None:
    assert use_case.training(["linear"]) == (use_case.recipes[1],)
    assert [(recipe.name, recipe.search) for recipe in use_case.training(["linear", "trees"])] == [
        ("linear", Search()),
        ("trees", Search()),
    ]
    for names in ([], ["forest"], ["trees", "trees"], [""]):
        with pytest.raises(ConfigurationError, match="must be some of"):
            use_case.training(names)


def test_without_candidates_the_first_recipe_is_trained_as_it_is(use_case: UseCase) -> None:
    assert use_case.trained == use_case.recipes[:1]
    assert [recipe.search for recipe in use_case.trained] == [None]


def test_candidates_all_get_a_figure_on_the_same_nights_to_be_compared_by(use_case: UseCase) -> None:
    several = replace(use_case, recipes=(SEARCHED, Linear(name="linear")), candidates=("linear", "trees"))
    assert several.trained == (Linear(name="linear", search=Search(validation_nights=5)), SEARCHED)
    plain = replace(use_case, candidates=("trees", "linear"))
    assert [recipe.search for recipe in plain.trained] == [Search(), Search()]
    assert replace(use_case, candidates=("linear",)).trained == (use_case.recipes[1],)


def test_a_column_is_personal_in_all_feeds_of_a_use_case_or_in_none_and_never_a_double(use_case: UseCase) -> None:
    assert (use_case.events.personal, use_case.labels.personal) == (["customer_id"], [])
    open_ = Column("customer_id", "bigint", "Whose.")
    with pytest.raises(ConfigurationError, match="customer_id is personal in one of its feeds only"):
        replace(use_case, labels=replace(use_case.labels, columns=(*use_case.labels.columns, open_)))
    closed = replace(open_, personal=True)
    assert replace(use_case, labels=replace(use_case.labels, columns=(*use_case.labels.columns, closed))).labels.personal == ["customer_id"]
    with pytest.raises(ConfigurationError, match="income: a pseudonym stands for an exact value"):
        Column("income", "double", "What they earn.", personal=True)


def test_policies_that_let_everything_through_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no gate"):
        GatePolicy(min_gain=-0.1)
    with pytest.raises(ConfigurationError, match="nights_violated <= nights_watched"):
        DriftPolicy(nights_violated=6, nights_watched=5)
    with pytest.raises(ConfigurationError, match="subsample"):
        Trees(name="trees", subsample=0.0)


def test_names_and_types_that_become_sql_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="names are lower-case"):
        Column("amount) --", "double", "")
    with pytest.raises(ConfigurationError, match="type"):
        Column("amount", "double) --", "")
    with pytest.raises(ConfigurationError, match="none of its columns"):
        Feed(name="visits", description="", columns=(Column("visit_id", "bigint", ""),), key="visit_id", event_time="at")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relation": "orders"}, "no schema.table"),
        ({"relation": 'public.orders"; drop table x; --'}, "no schema.table"),
        ({"relation": "public.Orders"}, "no schema.table"),
        ({"watermark": "written at"}, "watermark 'written at'"),
        ({"overlap_hours": 0}, "overlap_hours is at least 1"),
        ({"connection": ""}, "names an Airflow connection"),
    ],
)
def test_a_pull_that_names_no_relation_column_or_connection_is_refused(change: dict[str, Any], message: str) -> None:
    pull = Pull(connection="shop", relation="public.orders", watermark="written_at")
    assert pull.overlap_hours == 24
    with pytest.raises(ConfigurationError, match=message):
        replace(pull, **change)


def test_an_address_in_the_place_of_a_connections_name_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError, match="it is no address") as caught:
        Pull(connection="postgresql://me:hunter2@db/shop", relation="public.orders", watermark="written_at")
    assert "hunter2" not in str(caught.value)
