-- All transactions that the longest window of any event can reach: 30 days behind a delay of 7.
-- No night brings a row from its future, so the nights to read begin where those transactions do.
with

reach as (

    select min(tx_datetime) - interval 37 days as begins
    from {{ ref('card_fraud_events') }}

)

select *
from {{ ref('stg_transactions') }}
where
    day between (select to_date(begins) from reach) and date'{{ var("last_night") }}'
    and tx_datetime > (select begins from reach)
