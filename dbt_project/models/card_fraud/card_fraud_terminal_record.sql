-- What was known of the terminal's transactions: how long ago the last genuine one, and how many frauds since, and since when, of those
-- that were no outliers for their customers.
with

verdicts as (

    select
        verdicts.terminal_id,
        verdicts.transaction_id,
        verdicts.reported as at,
        verdicts.happened,
        verdicts.day,
        verdicts.is_fraud,
        coalesce(habits.amount_to_median < 2, true) as is_ordinary
    from {{ ref('card_fraud_verdicts') }} as verdicts
    left join {{ ref('card_fraud_customer_habits') }} as habits
        on
            verdicts.transaction_id = habits.transaction_id
            and verdicts.is_fraud

),

events as (

    select
        terminal_id,
        transaction_id,
        at,
        at as happened,
        day,
        cast(null as boolean) as is_fraud,
        false as is_ordinary
    from {{ ref('card_fraud_events') }}

),

known as (

    select * from verdicts
    union all
    select * from events

)

select *
from terminal_verdicts(table(select * from packed(table (select * from known), 'terminal_id') distribute by bucket))
