-- All transactions that a feature of any event can reach. No night brings a row from its future, so the nights to read begin where they do.
with

transactions as (

    select * from {{ ref('stg_transactions') }}

),

reach as (

    select * from {{ ref('card_fraud_reach') }}

),

-- Few, so they are sent to the transactions and not these sorted to meet them.
frauds as (

    select
        transaction_id,
        day,
        reported
    from {{ ref('stg_fraud_labels') }}
    where
        is_fraud
        and day between (select to_date(begins) from reach) and date'{{ var("last_night") }}'

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

select /*+ broadcast(frauds) */
    history.*,
    -- Since when the fraud was known: when it is reported, and when both its own drop and its transaction's have come.
    if(frauds.transaction_id is null, null, greatest(frauds.reported, history.at)) as fraud_reported,
    if(frauds.transaction_id is null, null, greatest(frauds.day, history.day)) as fraud_told
from history
left join frauds
    on
        history.transaction_id = frauds.transaction_id
        and history.is_in_windows
        -- Told a month before it happened, it is of another one; and a build of one night would not find it.
        and frauds.day >= to_date(timestamp_micros(history.at)) - interval 30 days
