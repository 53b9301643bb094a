-- A verdict counts from when it was reported, in a drop that had come.
select
    events.transaction_id,
    count(verdicts.transaction_id) as honest_frauds_there
from silver.transactions as events
left join silver.transactions as history
    on
        events.terminal_id = history.terminal_id
        and history.tx_datetime < events.tx_datetime
        and history.day <= events.day
left join silver.fraud_labels as verdicts
    on
        history.transaction_id = verdicts.transaction_id
        and verdicts.tx_fraud = 1
        and verdicts.reported_at <= events.tx_datetime
        and verdicts.day <= events.day
group by events.transaction_id
