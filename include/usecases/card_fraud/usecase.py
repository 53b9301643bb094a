"""Card fraud: every night, the hundred cards most worth an investigator's morning.

Feeds, protocol and features follow the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot, Bontempi, 2022):
chapter 3 for the transformations, chapter 4 for card precision, chapter 5 for the time-ordered split with a delay.
"""

from include.nightshift.usecase import Column, Feature, Feed, Recipe, Rule, UseCase

WINDOWS = (1, 7, 30)
"""Days that the published windows look back."""

TRANSACTIONS = Feed(
    name="transactions",
    description="Card transactions of one day, as the payment switch drops them.",
    columns=(
        Column("transaction_id", "bigint", "Names the transaction for good."),
        Column("tx_datetime", "timestamp", "When it happened, UTC."),
        Column("customer_id", "bigint", "The card's holder; stands for the card."),
        Column("terminal_id", "bigint", "Where it was paid."),
        Column("tx_amount", "decimal(12,2)", "Amount in the card's currency."),
    ),
    key="transaction_id",
    event_time="tx_datetime",
    rules=(
        Rule("amount_in_range", "tx_amount < 0 or tx_amount > 1000000", "tx_amount lies outside 0..1000000"),
        Rule("not_in_the_future", "tx_datetime >= day + interval 1 day", "tx_datetime lies after the night that brought the row"),
        Rule(
            "not_ancient",
            "tx_datetime < day - interval 35 days",
            "tx_datetime lies more than 35 days before the night that brought the row",
        ),
    ),
)

FRAUD_LABELS = Feed(
    name="fraud_labels",
    description="Verdicts that became known on one day, seven days after the transaction.",
    columns=(
        Column("transaction_id", "bigint", "The transaction judged."),
        Column("tx_fraud", "int", "1 for fraud, 0 for genuine."),
        Column("reported_at", "timestamp", "When the verdict was reported, UTC."),
    ),
    key="transaction_id",
    event_time="reported_at",
    rules=(
        Rule("verdict_is_0_or_1", "tx_fraud not in (0, 1)", "tx_fraud is neither 0 nor 1"),
        Rule("not_in_the_future", "reported_at >= day + interval 1 day", "reported_at lies after the night that brought the row"),
    ),
)

FEATURES = (
    Feature("tx_amount", "Amount of the transaction."),
    Feature("is_weekend", "1 on Saturday and Sunday (UTC), else 0.", calendar=True),
    Feature("is_night", "1 from 00:00 to 06:59 UTC, else 0."),
    *(Feature(f"customer_count_{days}d", f"Transactions of the customer in the last {days} days, this one included.") for days in WINDOWS),
    *(Feature(f"customer_mean_{days}d", f"Mean amount of those of the last {days} days.") for days in WINDOWS),
    *(Feature(f"terminal_count_{days}d", f"Transactions at the terminal in the {days} days that end seven days ago.") for days in WINDOWS),
    *(Feature(f"terminal_risk_{days}d", f"Share of those of the {days} days that was reported as fraud by now.") for days in WINDOWS),
)

USE_CASE = UseCase(
    name="card_fraud",
    title="Card fraud",
    owner="fraud-analytics",
    events=TRANSACTIONS,
    labels=FRAUD_LABELS,
    entity="customer_id",
    target="tx_fraud",
    label_delay_days=7,
    features=FEATURES,
    recipes=(
        Recipe(name="trees", rounds=120, rounds_per_checkpoint=20, learning_rate=0.1, max_depth=6, subsample=0.8, colsample_bytree=0.8),
    ),
)
