-- The customer's terminal as it was the time before. Ties go to the higher id, so that the order of rows says nothing.
select
    events.transaction_id,
    (events.terminal_id = any_value(history.terminal_id))::int as honest_is_at_home
from silver.transactions as events
left join (
    select
        later.transaction_id,
        arg_max(earlier.terminal_id, (earlier.tx_datetime, earlier.transaction_id)) as terminal_id
    from silver.transactions as later
    inner join silver.transactions as earlier
        on
            later.customer_id = earlier.customer_id
            and earlier.tx_datetime < later.tx_datetime
            and earlier.day <= later.day
    group by later.transaction_id
) as history on events.transaction_id = history.transaction_id
group by events.transaction_id, events.terminal_id
