"""The serving engine: follows the event log, answers requests with a model that a learner keeps fresh."""
