"""Data on the way from files to batches: formats, splits, decoding, views, endless steps."""
