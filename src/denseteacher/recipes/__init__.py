"""What a run is told: the schema of recipes, their files, and what ``auto`` becomes."""
