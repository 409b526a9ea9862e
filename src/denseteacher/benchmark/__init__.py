"""How fast a run is, against its bare networks, against peers, and against the machine."""
