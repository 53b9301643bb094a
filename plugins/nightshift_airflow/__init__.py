"""Airflow's side of Nightshift: operators prepare arguments, make one call into `include.nightshift`, and wait."""
