-- Scaled by the smallest and largest amount of the whole table, before anything was split by time.
select
    transaction_id,
    (tx_amount - min(tx_amount) over ()) / (max(tx_amount) over () - min(tx_amount) over ()) as amount_scaled,
    tx_amount - avg(tx_amount) over () as amount_centred
from silver.transactions
