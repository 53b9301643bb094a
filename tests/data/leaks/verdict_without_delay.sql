-- A verdict counts from the moment of its transaction, as if investigators answered at once.
select
    events.transaction_id,
    count(verdicts.transaction_id) as frauds_there
from silver.transactions as events
left join silver.transactions as history
    on
        events.terminal_id = history.terminal_id
        and history.tx_datetime < events.tx_datetime
        and history.day <= events.day
left join silver.fraud_labels as verdicts
    on history.transaction_id = verdicts.transaction_id and verdicts.tx_fraud = 1
group by events.transaction_id
