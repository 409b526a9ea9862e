"""Attacks on training runs and on what reads files from elsewhere: a ``Kind`` is a row of results."""
