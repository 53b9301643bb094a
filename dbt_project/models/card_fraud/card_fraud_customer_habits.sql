-- What the amount is beside the customer's other amounts of the last thirty days: of the events, and of the frauds known at their
-- terminals, each as its own night knew it.
with

frauds as (

    select transaction_id
    from {{ ref('card_fraud_verdicts') }}
    where is_fraud

),

asked as (

    select
        history.customer_id,
        history.transaction_id,
        history.at,
        history.day,
        history.cents,
        history.is_event or frauds.transaction_id is not null as is_asked
    from {{ ref('card_fraud_history') }} as history
    left join frauds on history.transaction_id = frauds.transaction_id

)

select *
from customer_habits(table(select * from asked distribute by customer_id sort by customer_id, at))
