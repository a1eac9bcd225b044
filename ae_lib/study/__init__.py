"""Executes the notebooks and publishes their results; only the benchmark's notebook imports it."""
