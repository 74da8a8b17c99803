"""Estimators of slates, one file each: what a policy that fills L slots would earn with a slate.

r_l the reward of slot l. Two kinds of propensities, which are not the same unless slots are drawn independently:
w_l is a ratio of marginal probabilities of the item in slot l, u_l one of probabilities given the items above it.
"""
