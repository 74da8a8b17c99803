"""Runs before any test imports torch."""

import os

# The tests run in several processes; without this each of them would start a thread per core for every small product.
os.environ.setdefault("OMP_NUM_THREADS", "1")
