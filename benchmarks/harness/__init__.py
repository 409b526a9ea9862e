"""What the scripts that measure share: the parts of a step, peers beside it, the data path, timing in turns."""
