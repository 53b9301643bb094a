"""Promote: measure a challenger and the champion on the same rows, judge them by gates, and let nothing else through."""
