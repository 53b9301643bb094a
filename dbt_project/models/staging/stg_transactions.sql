with

source as (

    select * from {{ source('silver', 'transactions') }}

),

renamed as (

    select
        -- ids
        transaction_id,
        customer_id,
        terminal_id,

        -- amounts
        tx_amount,
        cast(tx_amount * 100 as bigint) as cents,

        -- times
        day,
        tx_datetime,
        unix_micros(tx_datetime) as at,
        known_at

    from source

)

select * from renamed
