from include.nightshift.features import nodes
from include.nightshift.features.project import Node

RAN = [
    Node("card_fraud_features", "model", "success", 12.3456, None, "OK"),
    Node("a_transaction_has_one_row_of_features", "test", "pass", 0.5, 0, ""),
    Node("card_fraud_history", "model", "success", 1, 1234567, "1234567 rows"),
]


def test_the_table_is_aligned_with_numbers_to_the_right() -> None:
    assert nodes.lines(RAN) == [
        "node                                   kind   status   seconds       rows",
        "card_fraud_features                    model  success    12.35",
        "a_transaction_has_one_row_of_features  test   pass        0.50          0",
        "card_fraud_history                     model  success     1.00  1,234,567",
    ]
    assert nodes.lines([]) == ["node  kind  status  seconds  rows"]


def test_rows_are_filled_in_where_dbt_says_none_and_nowhere_else() -> None:
    assert [node.rows for node in nodes.counted(RAN, "card_fraud_features", 7)] == [7, 0, 1234567]
    assert [node.rows for node in nodes.counted(RAN, "card_fraud_history", 7)] == [None, 0, 1234567]
