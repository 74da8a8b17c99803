"""Building blocks that three or more files share."""
