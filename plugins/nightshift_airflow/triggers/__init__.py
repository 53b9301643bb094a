"""Triggers: what waits in the triggerer, so that no worker's slot is held."""
