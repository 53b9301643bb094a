-- The customer's terminal as the dimension has it today, not as it was.
with

latest as (

    select
        customer_id,
        arg_max(terminal_id, (tx_datetime, transaction_id)) as terminal_id
    from silver.transactions
    group by customer_id

)

select
    events.transaction_id,
    (events.terminal_id = latest.terminal_id)::int as is_at_home
from silver.transactions as events
inner join latest on events.customer_id = latest.customer_id
