"""Card fraud: every night, the hundred cards most worth an investigator's morning.

Feeds, protocol and features follow the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot, Bontempi, 2022):
chapter 3 for the transformations, chapter 4 for card precision, chapter 5 for the time-ordered split with a delay.
"""

from pathlib import Path

from include.nightshift import contract
from include.nightshift.usecase import Feature, Recipe, UseCase

WINDOWS = (1, 7, 30)
"""Days that the published windows look back."""

CONTRACTS = Path(__file__).parent / "contracts"
TRANSACTIONS = contract.feed(CONTRACTS, "transactions")
FRAUD_LABELS = contract.feed(CONTRACTS, "fraud_labels")

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
