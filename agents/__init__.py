"""Who decides and learns: one file per algorithm."""
