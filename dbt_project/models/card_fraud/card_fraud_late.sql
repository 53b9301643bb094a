{{ config(materialized='ephemeral') }}

-- Transactions that came with a later night than their own: nights before it must not see them.
select *
from {{ ref('card_fraud_history') }}
where day > to_date(tx_datetime)
