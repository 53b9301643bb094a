-- Frauds at the terminal in those same days that had been reported when the event happened, in a drop its night knew.
with

frauds as (

    select * from {{ ref('card_fraud_verdicts') }}
    where is_fraud

)

select
    events.transaction_id
    {%- for n in [1, 7, 30] %},
    count_if(frauds.happened > events.at - {{ days(n + 7) }}) as frauds_{{ n }}d
    {%- endfor %}
from {{ ref('card_fraud_events') }} as events
inner join frauds
    on
        events.terminal_id = frauds.terminal_id
        and frauds.happened <= events.at - {{ days(7) }}
        and frauds.reported <= events.at
        and frauds.day <= events.day
group by events.transaction_id
