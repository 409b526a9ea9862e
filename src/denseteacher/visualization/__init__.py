"""Drawing: boxes, heat maps and figures."""
