"""Lists of images, made into the batches of steps."""
