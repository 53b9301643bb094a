{{ config(materialized='nightly') }}

with

events as (

    select * from {{ ref('card_fraud_events') }}

),

customers as (

    select * from {{ ref('card_fraud_customers') }}

),

terminals as (

    select * from {{ ref('card_fraud_terminals') }}

),

reported as (

    select * from {{ ref('card_fraud_reported') }}

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
        cast(customers.count_{{ n }}d as double) as customer_count_{{ n }}d,
        customers.cents_{{ n }}d / 100d / customers.count_{{ n }}d as customer_mean_{{ n }}d,
        cast(terminals.count_{{ n }}d as double) as terminal_count_{{ n }}d,
        coalesce(reported.frauds_{{ n }}d / nullif(cast(terminals.count_{{ n }}d as double), 0d), 0d) as terminal_risk_{{ n }}d
        {%- endfor %},

        events.known_at

    from events
    inner join customers on events.transaction_id = customers.transaction_id
    inner join terminals on events.transaction_id = terminals.transaction_id
    left join reported on events.transaction_id = reported.transaction_id

)

select * from features
