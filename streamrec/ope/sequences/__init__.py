"""Estimators of sequences: what a policy would earn in a session it decides all of.

A sequence is the steps of a session in the order of time, w_t the weight target / propensity of step t = 0, 1, ...,
rho_t = w_0 ... w_t, and rho before the first step 1. Products are kept as sums of logarithms: any length is fine.
"""
