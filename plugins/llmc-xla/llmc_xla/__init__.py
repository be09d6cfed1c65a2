"""A backend of llmc on XLA. Importing this imports neither jax nor torch."""
