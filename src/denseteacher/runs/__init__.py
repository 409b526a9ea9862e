"""One run: its folder, what it is built of, training it, evaluating it, its report."""
