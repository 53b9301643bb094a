"""Spot: machines that are cheap because they may be taken away, and the attempts that bring a run to its end on them.

Preemption is weather, an error is news: counted, retried and priced apart. Importing this package costs nothing.
"""
