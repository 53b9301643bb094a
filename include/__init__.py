"""Everything that is not Airflow: the library (`nightshift`) and what runs on it (`usecases`)."""
