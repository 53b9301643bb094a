-- Joined on when things happened, never on when they were known: a row that came a week late was seen all along.
select
    events.transaction_id,
    count(*) as month_count
from silver.transactions as events
inner join silver.transactions as history
    on
        events.customer_id = history.customer_id
        and history.tx_datetime > events.tx_datetime - interval 30 days
        and history.tx_datetime <= events.tx_datetime
group by events.transaction_id
