-- What the amount is beside the customer's other amounts of the last thirty days: of the events, and of the frauds known at their
-- terminals, each as its own night knew it.
with

asked as (

    select
        customer_id,
        transaction_id,
        at,
        day,
        cents,
        is_event or fraud_told is not null as is_asked
    from {{ ref('card_fraud_history') }}

)

select *
from customer_habits(table(select * from packed(table (select * from asked), 'customer_id') distribute by bucket))
