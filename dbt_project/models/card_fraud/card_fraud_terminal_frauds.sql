-- Frauds at the terminal in those same days that had been reported when the event happened, in a drop its night knew.
with

frauds as (

    select
        history.terminal_id,
        history.at,
        labels.reported,
        greatest(labels.day, history.day) as day
    from {{ ref('stg_fraud_labels') }} as labels
    inner join {{ ref('card_fraud_history') }} as history on labels.transaction_id = history.transaction_id
    where
        labels.is_fraud
        and labels.day between date'{{ var("first_night") }}' - interval 73 days and date'{{ var("last_night") }}'

)

select
    events.transaction_id
    {%- for n in [1, 7, 30] %},
    count_if(frauds.at > events.at - {{ days(n + 7) }}) as frauds_{{ n }}d
    {%- endfor %}
from {{ ref('card_fraud_events') }} as events
inner join frauds
    on
        events.terminal_id = frauds.terminal_id
        and frauds.at <= events.at - {{ days(7) }}
        and frauds.reported <= events.at
        and frauds.day <= events.day
group by events.transaction_id
