-- What the customer did in the last 1, 7 and 30 days, this transaction included.
with

summed as (

    select
        transaction_id,
        day
        {%- for n in [1, 7, 30] %},
        {{ sum_over('1', 'customer_id', n) }} as count_{{ n }}d,
        {{ sum_over('cents', 'customer_id', n) }} as cents_{{ n }}d
        {%- endfor %}
    from {{ ref('card_fraud_history') }}
    where is_in_windows

),

-- What the sums hold and the event's own night did not know: rows that came with a later night.
unseen as (

    select
        events.transaction_id
        {%- for n in [1, 7, 30] %},
        count_if(late.at > events.at - {{ days(n) }}) as count_{{ n }}d,
        sum(if(late.at > events.at - {{ days(n) }}, late.cents, 0)) as cents_{{ n }}d
        {%- endfor %}
    from {{ ref('card_fraud_events') }} as events
    inner join {{ ref('card_fraud_late') }} as late
        on
            events.customer_id = late.customer_id
            and late.day > events.day
            and late.at <= events.at
    group by events.transaction_id

)

select
    summed.transaction_id
    {%- for n in [1, 7, 30] %},
    summed.count_{{ n }}d - coalesce(unseen.count_{{ n }}d, 0) as count_{{ n }}d,
    summed.cents_{{ n }}d - coalesce(unseen.cents_{{ n }}d, 0) as cents_{{ n }}d
    {%- endfor %}
from summed
left join unseen on summed.transaction_id = unseen.transaction_id
where summed.{{ in_nights() }}
