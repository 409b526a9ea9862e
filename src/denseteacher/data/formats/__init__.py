"""One module a file format; each returns the records of ``data.records``."""
