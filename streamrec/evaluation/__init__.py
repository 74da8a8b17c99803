"""Meters, ranking metrics and reports."""
