"""Users who react: batched worlds that agents train in."""
