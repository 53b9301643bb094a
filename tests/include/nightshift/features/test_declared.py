"""Features are declared beside their SQL, and each says what every feature must say."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.features import declared
from include.usecases.card_fraud.usecase import USE_CASE

MODEL = "models: [{name: sales_features, columns: [%s]}]"


def declare(monkeypatch: pytest.MonkeyPatch, root: Path, text: str) -> None:
    monkeypatch.setattr(declared, "ROOT", root)
    folder = root / "dbt_project" / "models" / "sales"
    folder.mkdir(parents=True)
    (folder / "sales_features.yml").write_text(text)


def test_card_frauds_features_have_a_meaning_and_an_owner_and_their_model_brings_them_all() -> None:
    for feature in USE_CASE.features:
        assert feature.owner, feature.name
        assert feature.comment.endswith("."), feature.name
    sql = (declared.ROOT / "dbt_project/models/card_fraud/card_fraud_features.sql").read_text()
    windows = {
        name.format(n)
        for name in ("customer_count_{}d", "customer_mean_{}d", "terminal_count_{}d", "terminal_risk_{}d")
        for n in (1, 7, 30)
    }
    assert {name for name in USE_CASE.feature_names if f" as {name}" not in sql} == windows, "these come from a loop"


def test_columns_with_an_owner_are_features_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    declare(monkeypatch, tmp_path, """
models:
  - name: sales_features
    columns:
      - {name: day, data_type: date, description: The night.}
      - {name: b, data_type: double, description: B., config: {meta: {owner: sales, calendar: true}}}
      - {name: a, data_type: double, description: A., config: {meta: {owner: sales, cost_seconds: 0.5, benefit: 0.01, note: x}}}
""")  # fmt: skip
    b, a = declared.features("sales")
    assert (b.name, b.calendar, b.owner, b.benefit) == ("b", True, "sales", None)
    assert (a.name, a.comment, a.cost_seconds, a.benefit) == ("a", "A.", 0.5, 0.01)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("models: [", "must describe the model sales_features"),
        ("models: []", "must describe the model sales_features"),
        (MODEL % "{name: day}", "declares no feature"),
        (MODEL % "{name: a, data_type: double, config: {meta: {owner: o}}}", "feature a needs description"),
        (MODEL % "{name: a, data_type: int, description: A., config: {meta: {owner: o}}}", "data_type: double"),
    ],
)
def test_a_declaration_that_says_too_little_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, advice: str
) -> None:
    declare(monkeypatch, tmp_path, text)
    with pytest.raises(ConfigurationError, match=advice):
        declared.features("sales")


def test_a_use_case_without_its_model_is_told_where_it_belongs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(declared, "ROOT", tmp_path)
    with pytest.raises(ConfigurationError, match=r"sales_features.yml must describe the model sales_features"):
        declared.features("sales")
