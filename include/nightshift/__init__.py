"""Nightshift: a batch machine-learning platform, in walking order.

landing → bronze → silver → features → scores → monitor, and beside it train → gate → approve → promote.
The modules carry those words. Nothing here imports Airflow.
"""
