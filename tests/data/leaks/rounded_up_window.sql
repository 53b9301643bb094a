-- G6: the time is rounded up to the quarter of an hour and joined to hours keyed by their end: a window that holds the event itself, what
-- follows it, and the target that is averaged.
with

rounded as (

    select
        *,
        time_bucket(interval 15 minutes, tx_datetime + interval 15 minutes - interval 1 microsecond) as ends
    from silver.transactions

)

select
    events.transaction_id,
    count(history.transaction_id) as g6_count,
    avg(verdicts.tx_fraud) as g6_risk
from rounded as events
inner join silver.transactions as history
    on
        events.customer_id = history.customer_id
        and history.tx_datetime > events.ends - interval 1 hour
        and history.tx_datetime <= events.ends
        and history.day <= events.day
left join silver.fraud_labels as verdicts on history.transaction_id = verdicts.transaction_id
group by events.transaction_id
