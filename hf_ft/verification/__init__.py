"""The gate: what is on disk is judged by a fresh process, which reads the rows again from their source."""
