"""From files to batches: formats, splits, decoding, views, endless streams."""
