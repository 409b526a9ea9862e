"""Using a trained detector: prediction and drawing."""
