-- What happened at the terminal in the 1, 7 and 30 days that end seven days ago, when verdicts come in.
with

summed as (

    select
        transaction_id,
        day
        {%- for n in [1, 7, 30] %},
        {{ sum_over('1', 'terminal_id', n, delay=7) }} as count_{{ n }}d
        {%- endfor %}
    from {{ ref('card_fraud_history') }}
    where is_in_windows

),

unseen as (

    select
        events.transaction_id
        {%- for n in [1, 7, 30] %},
        count_if(late.at > events.at - {{ days(n + 7) }}) as count_{{ n }}d
        {%- endfor %}
    from {{ ref('card_fraud_events') }} as events
    inner join {{ ref('card_fraud_late') }} as late
        on
            events.terminal_id = late.terminal_id
            and late.day > events.day
            and late.at <= events.at - {{ days(7) }}
    group by events.transaction_id

)

select
    summed.transaction_id
    {%- for n in [1, 7, 30] %},
    summed.count_{{ n }}d - coalesce(unseen.count_{{ n }}d, 0) as count_{{ n }}d
    {%- endfor %}
from summed
left join unseen on summed.transaction_id = unseen.transaction_id
where summed.{{ in_nights() }}
