{{ config(materialized='ephemeral') }}

-- Transactions that came with a later night than their own: nights before it must not see them.
select *
from {{ ref('card_fraud_history') }}
where
    is_in_windows
    and day > to_date(timestamp_micros(at))
