"""The canonical event log: reading, replaying and recording."""
