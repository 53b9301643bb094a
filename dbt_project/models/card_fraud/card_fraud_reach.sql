-- Since when transactions matter: 37 days for windows (30 behind a delay of 7), and 30 more for the habits of the customers whose frauds
-- those windows hold. Laid, because whoever asks the events again reads them again.
select
    min(tx_datetime) - interval 37 days as windows_begin,
    min(tx_datetime) - interval 67 days as begins
from {{ ref('card_fraud_events') }}
