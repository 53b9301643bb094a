-- All transactions that a feature of any event can reach: 37 days for windows (30 behind a delay of 7), and 30 more for the habits of
-- the customers whose frauds those windows hold. No night brings a row from its future, so the nights to read begin where they do.
with

transactions as (

    select * from {{ ref('stg_transactions') }}

),

reach as (

    select
        min(tx_datetime) - interval 37 days as windows_begin,
        min(tx_datetime) - interval 67 days as begins
    from {{ ref('card_fraud_events') }}

),

history as (

    select
        transaction_id,
        customer_id,
        terminal_id,
        day,
        at,
        cents,
        day >= date'{{ var("first_night") }}' as is_event,
        tx_datetime > (select windows_begin from reach) as is_in_windows
    from transactions
    where
        day between (select to_date(begins) from reach) and date'{{ var("last_night") }}'
        and tx_datetime > (select begins from reach)

)

select * from history
