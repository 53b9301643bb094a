"""The leak scan: a feature knows what its night knew when its event happened, and nothing more. `make leak-scan`.

Of an event at time t that night D brought, a feature may use events that happened until t and verdicts reported until t, both brought
by night D or an earlier one. The scan makes up a small world (`world`), computes the features, changes what must not matter (`changes`)
and computes them again: nothing may move, to the last bit. Then it changes what must matter, so that a scan that sees nothing is not
taken for a pass (`scan`).
"""
