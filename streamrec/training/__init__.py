"""Training a model on a whole log, one file per way of making batches of it."""
