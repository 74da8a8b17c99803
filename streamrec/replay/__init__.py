"""Replay evaluation: what policies would have shown and earned, from a log of what was shown."""
