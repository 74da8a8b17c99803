"""Off-policy evaluation: what a policy would have earned, from a log of what another one did."""
