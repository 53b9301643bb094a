-- The verdicts of those transactions that windows can reach. A verdict is known when it is reported, and when both its own drop and
-- its transaction's have come.
with

labels as (

    select * from {{ ref('stg_fraud_labels') }}

),

history as (

    select * from {{ ref('card_fraud_history') }}

),

verdicts as (

    select
        history.transaction_id,
        history.terminal_id,
        history.at as happened,
        labels.is_fraud,
        greatest(labels.reported, history.at) as reported,
        greatest(labels.day, history.day) as day
    from labels
    inner join history on labels.transaction_id = history.transaction_id
    where
        history.is_in_windows
        and labels.day between (select min(day) from history) and date'{{ var("last_night") }}'
        -- As with frauds in the history.
        and labels.day >= to_date(timestamp_micros(history.at)) - interval 30 days

)

select * from verdicts
