"""Use cases: a folder each, never a fork. A use case is found by its folder name (see `nightshift.usecase`)."""
