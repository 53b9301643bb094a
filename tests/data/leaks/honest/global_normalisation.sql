-- Scaled by the customer's own amounts until now.
select
    events.transaction_id,
    any_value(events.tx_amount - history.least) / nullif(any_value(history.most - history.least), 0) as honest_amount_scaled
from silver.transactions as events
cross join lateral (
    select
        min(earlier.tx_amount) as least,
        max(earlier.tx_amount) as most
    from silver.transactions as earlier
    where
        earlier.customer_id = events.customer_id
        and earlier.tx_datetime <= events.tx_datetime
        and earlier.day <= events.day
) as history
group by events.transaction_id
