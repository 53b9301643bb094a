-- All transactions that the longest window of any event can reach: 30 days behind a delay of 7.
-- A late row's night may lie up to 35 days after the row, hence the wider range of nights that is read.
select *
from {{ ref('stg_transactions') }}
where
    day between date'{{ var("first_night") }}' - interval 73 days and date'{{ var("last_night") }}'
    and tx_datetime > (select min(tx_datetime) - interval 37 days from {{ ref('card_fraud_events') }})
