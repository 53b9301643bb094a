{{ config(materialized='ephemeral') }}

-- The transactions of the nights asked for: each gets one row of features.
select *
from {{ ref('stg_transactions') }}
where day between date'{{ var("first_night") }}' and date'{{ var("last_night") }}'
