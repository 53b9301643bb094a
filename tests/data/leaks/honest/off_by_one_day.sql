-- The week ends with the event.
select
    events.transaction_id,
    sum(history.tx_amount) as honest_week_amount
from silver.transactions as events
inner join silver.transactions as history
    on
        events.customer_id = history.customer_id
        and history.tx_datetime >= date_trunc('day', events.tx_datetime) - interval 6 days
        and history.tx_datetime <= events.tx_datetime
        and history.day <= events.day
group by events.transaction_id
