"""Metrics, and running a detector over a labeled data set to get them."""
