"""Monitor: judge each night by its matured verdicts and its columns, and ask for a new model when the evidence says so."""
