"""Operators, one module per stage, in the stage's own word."""
