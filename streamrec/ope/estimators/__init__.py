"""One file for each estimator that values decisions one at a time.

n rows, reward r, weight w = target / propensity, q and v a model's value of the logged item and of the policy.
"""
