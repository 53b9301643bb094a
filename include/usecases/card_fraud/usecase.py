"""Card fraud: every night, the hundred cards most worth an investigator's morning.

Feeds, protocol and features follow the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot, Bontempi, 2022):
chapter 3 for the transformations, chapter 4 for card precision, chapter 5 for the time-ordered split with a delay.
"""

from pathlib import Path

from include.nightshift import contract
from include.nightshift.features import declared
from include.nightshift.usecase import UseCase
from include.usecases.card_fraud.recipes import linear, published, sequence, trees

CONTRACTS = Path(__file__).parent / "contracts"
TRANSACTIONS = contract.feed(CONTRACTS, "transactions")
FRAUD_LABELS = contract.feed(CONTRACTS, "fraud_labels")

USE_CASE = UseCase(
    name="card_fraud",
    title="Card fraud",
    owner="fraud-analytics",
    events=TRANSACTIONS,
    labels=FRAUD_LABELS,
    entity="customer_id",
    clusters=("terminal_id",),
    target="tx_fraud",
    label_delay_days=7,
    features=declared.features("card_fraud"),
    recipes=(trees(), linear(), sequence(), published()),
)
