{{ config(materialized='ephemeral') }}

-- The transactions of the nights asked for: each gets one row of features.
select *
from {{ ref('stg_transactions') }}
where {{ in_nights() }}
