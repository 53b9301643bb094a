"""Benches: one program per headline figure. `make bench NAME=x ARGS="…"` runs `bench/x.py`; see bench/README.md."""
