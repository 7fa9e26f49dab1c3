"""Scripts that break a run on purpose, and count what is lost."""
