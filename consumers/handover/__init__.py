"""What members of a consumer group tell each other when partitions move: the state of the users who live there."""
