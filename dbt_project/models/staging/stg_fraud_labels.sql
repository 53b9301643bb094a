with

source as (

    select * from {{ source('silver', 'fraud_labels') }}

),

renamed as (

    select
        -- ids
        transaction_id,

        -- booleans
        tx_fraud = 1 as is_fraud,

        -- times
        day,
        reported_at,
        unix_micros(reported_at) as reported,
        known_at

    from source

)

select * from renamed
