"""streamrec: a streaming recommender that learns while people click."""

__version__ = "0.1.0"
