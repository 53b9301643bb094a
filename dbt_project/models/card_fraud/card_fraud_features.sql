{{ config(materialized='nightly') }}

with

events as (

    select * from {{ ref('card_fraud_events') }}

),

windows as (

    select * from {{ ref('card_fraud_windows') }}

),

habits as (

    select * from {{ ref('card_fraud_customer_habits') }}

),

record as (

    select * from {{ ref('card_fraud_terminal_record') }}

),

features as (

    select
        -- ids and times
        events.day,
        events.transaction_id,
        events.customer_id,
        events.terminal_id,
        events.tx_datetime,

        -- the transaction itself
        cast(events.tx_amount as double) as tx_amount,
        if(dayofweek(events.tx_datetime) in (1, 7), 1d, 0d) as is_weekend,
        if(hour(events.tx_datetime) <= 6, 1d, 0d) as is_night
        {%- for n in [1, 7, 30] %},

        -- {{ n }} days
        cast(windows.count_{{ n }}d as double) as customer_count_{{ n }}d,
        windows.cents_{{ n }}d / 100d / windows.count_{{ n }}d as customer_mean_{{ n }}d,
        cast(windows.terminal_count_{{ n }}d as double) as terminal_count_{{ n }}d,
        coalesce(windows.terminal_frauds_{{ n }}d / nullif(windows.terminal_count_{{ n }}d, 0), 0d) as terminal_risk_{{ n }}d
        {%- endfor %},

        -- the customer's habits
        habits.amount_to_median as customer_amount_to_median,
        habits.largest_to_median_7d as customer_largest_to_median_7d,

        -- the terminal's record
        record.days_since_genuine as terminal_days_since_genuine,
        record.ordinary_frauds_in_row as terminal_ordinary_frauds_in_row,
        record.days_ordinary_frauds_in_row as terminal_days_ordinary_frauds_in_row,

        events.known_at

    from events
    inner join windows on events.transaction_id = windows.transaction_id
    inner join habits on events.transaction_id = habits.transaction_id
    inner join record on events.transaction_id = record.transaction_id

)

select * from features
