-- What the customer did in the last 1, 7 and 30 days, and what happened at the terminal in those that end seven days ago, when verdicts
-- come in: first by customer, then by terminal, the one's rows handed on to the other.
with

history as (

    select
        customer_id,
        terminal_id,
        transaction_id,
        day,
        at,
        cents,
        is_event,
        fraud_reported,
        fraud_told
    from {{ ref('card_fraud_history') }}
    where is_in_windows

),

customers as (

    select *
    from customer_windows(table(select * from packed(table (select * from history), 'customer_id') distribute by bucket))

)

select *
from terminal_windows(table(select * from customers distribute by bucket))
