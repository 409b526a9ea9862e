"""From lists of images to the batches of steps."""
