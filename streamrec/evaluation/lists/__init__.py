"""Metrics of recommendation lists: ranking and beyond, as sums that are made in one pass and can be added."""

from streamrec.evaluation.lists.metrics import ListMetrics
from streamrec.evaluation.lists.popularity import Popularity, PopularityCounter

__all__ = ["ListMetrics", "Popularity", "PopularityCounter"]
