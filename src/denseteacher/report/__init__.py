"""Pages and figures that show a run."""
