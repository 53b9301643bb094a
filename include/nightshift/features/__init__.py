"""Features: dbt builds one row per event, correct in time by both clocks; `training_set` reads them back, pinned."""
