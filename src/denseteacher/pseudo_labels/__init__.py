"""What a teacher's output becomes before a student learns from it."""
