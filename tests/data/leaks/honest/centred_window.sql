-- Six days, all of them before.
select
    events.transaction_id,
    avg(history.tx_amount) as honest_smoothed_amount
from silver.transactions as events
inner join silver.transactions as history
    on
        events.customer_id = history.customer_id
        and history.tx_datetime between events.tx_datetime - interval 6 days and events.tx_datetime
        and history.day <= events.day
group by events.transaction_id
