-- The terminal stands for its share of fraud among the verdicts that were known.
select
    events.transaction_id,
    avg(verdicts.tx_fraud) as honest_terminal_encoded
from silver.transactions as events
left join silver.transactions as history
    on events.terminal_id = history.terminal_id and history.day <= events.day
left join silver.fraud_labels as verdicts
    on
        history.transaction_id = verdicts.transaction_id
        and verdicts.reported_at <= events.tx_datetime
        and verdicts.day <= events.day
group by events.transaction_id
