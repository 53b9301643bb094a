-- Joined on both clocks.
select
    events.transaction_id,
    count(*) as honest_month_count
from silver.transactions as events
inner join silver.transactions as history
    on
        events.customer_id = history.customer_id
        and history.tx_datetime > events.tx_datetime - interval 30 days
        and history.tx_datetime <= events.tx_datetime
        and history.day <= events.day
group by events.transaction_id
