-- Rounded down, to a window that ended before; shares of what was reported by then.
with

rounded as (

    select
        *,
        time_bucket(interval 15 minutes, tx_datetime) as ends
    from silver.transactions

)

select
    events.transaction_id,
    count(history.transaction_id) as honest_g6_count,
    avg(verdicts.tx_fraud) as honest_g6_risk
from rounded as events
left join silver.transactions as history
    on
        events.customer_id = history.customer_id
        and history.tx_datetime > events.ends - interval 10 days
        and history.tx_datetime <= events.ends
        and history.day <= events.day
left join silver.fraud_labels as verdicts
    on
        history.transaction_id = verdicts.transaction_id
        and verdicts.reported_at <= events.tx_datetime
        and verdicts.day <= events.day
group by events.transaction_id
