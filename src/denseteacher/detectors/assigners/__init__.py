"""The assigners that recipes can name, one a file: which location is trained on which box."""
