"""Supervised recommenders, `score(history)` and `loss(history, target)`: one file each."""
